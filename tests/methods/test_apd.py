"""APD: old tasks' weights stay where they were, by numbers of their own that learn again."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clray.errors import BadSpec
from clray.models.additive import Held
from clray.models.additive_network import AdditiveNetwork
from clray.models.classifier import Classifier
from clray.task import Task
from tests.methods.conftest import Build

LAYER = "encoder.1"


def begin(learner: Any, task: Task) -> None:
    learner.begin_task(task)
    learner.train_mode(True)
    learner.begin_epoch(task, 0, 1)


def learn(learner: Any, task: Task, passes: int = 1) -> dict[str, Any]:
    begin(learner, task)
    for epoch in range(passes):
        for x, y in task.train.batches(8, seed=0, epoch=epoch):
            learner.observe(x, y, task)
    return dict(learner.end_task(task))


def held_weight(network: AdditiveNetwork, place: int) -> Tensor:
    """A learned task's weights of the first layer, put together without what answers."""
    (held,) = network.held
    assert isinstance(held, Held)
    parts = held.parts()
    mask = parts.scores[place].sigmoid()[:, None]
    weight = network.shared[LAYER] * mask + parts.adaptive[place] + held.added(place)
    return weight.detach()


def answers(learner: Any, task: Task) -> Tensor:
    (x, _), *_ = task.train.batches(50)
    learner.train_mode(False)
    logits: Tensor = learner.predict(x, task)
    learner.train_mode(True)
    return logits


def test_a_task_is_answered_with_its_own_weights(build: Build, tasks: list[Task]) -> None:
    learner: Any = build("apd", drift=1.0, sparsity=0.001)
    for task in tasks:
        learn(learner, task)
    (x, _), *_ = tasks[1].train.batches(50)
    kept = learner.network.network.kept("1")
    hidden = F.linear(x.flatten(1) / 255, held_weight(learner.network, 1), kept[f"{LAYER}.bias"])
    logits = F.linear(hidden.relu(), kept["head.weight"], kept["head.bias"])
    assert torch.allclose(answers(learner, tasks[1]), logits, atol=1e-6)


def moved(build: Build, tasks: list[Task], **knobs: Any) -> tuple[float, float]:
    """How far the second task moves the first one's weights, and the shared ones."""
    learner: Any = build("apd", begin="zero", **knobs)
    learn(learner, tasks[0], 10)
    shared = learner.network.shared[LAYER].detach().clone()
    before = held_weight(learner.network, 0)
    learn(learner, tasks[1], 10)
    after = held_weight(learner.network, 0)
    way = learner.network.shared[LAYER].detach() - shared
    return float((after - before).norm()), float(way.norm())


def test_old_weights_hold_by_as_much_as_drift_costs(build: Build, tasks: list[Task]) -> None:
    free, shared_free = moved(build, tasks, drift=0.0, sparsity=0.0)
    held, shared_held = moved(build, tasks, drift=8.0, sparsity=0.0)
    assert free > 0.3 * shared_free
    assert held < 0.1 * free
    assert shared_held > 0.3 * shared_free  # which still learns


def test_old_adaptive_numbers_take_back_what_the_shared_ones_do(
    build: Build, tasks: list[Task]
) -> None:
    learner: Any = build("apd", drift=8.0, sparsity=0.0, begin="zero")
    learn(learner, tasks[0], 10)
    network = learner.network
    shared = network.shared[LAYER].detach().clone()
    parts = network.held[0].parts()
    learn(learner, tasks[1], 10)
    now = network.held[0].parts()
    masks = parts.scores[0].sigmoid()[:, None], now.scores[0].sigmoid()[:, None]
    given = network.shared[LAYER] * masks[1] - shared * masks[0]
    taken = now.adaptive[0] - parts.adaptive[0]
    assert taken.norm() > 0.5 * given.norm()
    assert torch.cosine_similarity(given.flatten(), -taken.flatten(), 0) > 0.95
    assert not torch.equal(parts.scores[0], now.scores[0])


def test_more_sparsity_leaves_fewer_numbers(build: Build, tasks: list[Task]) -> None:
    found = []
    for sparsity in (0.0, 0.003, 0.01, 0.03):
        learner = build("apd", sparsity=sparsity, threshold=0.003, drift=1.0)
        found.append(learn(learner, tasks[0], 20)["densities"][0])
        parameters = learner.footprint()["parameters"]
        rest = 16 * 36 + 16 + 16 + 4 * 17  # shared, scores, biases, head
        assert parameters == rest + round(found[-1] * 16 * 36)
    assert sorted(found, reverse=True) == found
    assert found[0] > 0.9 > 0.5 > found[-1]


def test_answers_in_the_middle_of_a_task_are_those_that_would_be_kept(
    build: Build, tasks: list[Task]
) -> None:
    learner: Any = build("apd", sparsity=0.01, drift=1.0)
    learn(learner, tasks[0])
    begin(learner, tasks[1])
    shown = []
    for x, y in tasks[1].train.batches(8, seed=0):
        learner.observe(x, y, tasks[1])
        shown.append([answers(learner, task) for task in tasks])
    learner.end_task(tasks[1])
    for task, latest in zip(tasks, shown[-1], strict=True):
        assert torch.equal(answers(learner, task), latest)
    for old, new in itertools.pairwise(shown):  # none is out of date, of what is not learned either
        assert not any(map(torch.equal, old, new))


def test_a_task_begins_the_same_wherever_it_stands(build: Build, tasks: list[Task]) -> None:
    began = []
    for order in ((0, 2), (1, 0, 2)):
        learner: Any = build("apd", drift=1.0)
        for i in order[:-1]:
            learn(learner, tasks[i])
        learner.begin_task(tasks[2])
        began.append(learner.network.working[LAYER].scores)
        adaptive = learner.network.working[LAYER].adaptive
        assert torch.equal(adaptive, learner.network.shared[LAYER])
    assert torch.equal(*began)


def test_a_consolidation_changes_no_weight_by_more_than_half_the_tolerance(
    build: Build, tasks: list[Task]
) -> None:
    plain: Any = build("apd", drift=1.0)
    grouped: Any = build("apd", drift=1.0, consolidate_every=2, groups=1, tolerance=0.02)
    for learner in (plain, grouped):
        learn(learner, tasks[0])
        facts = learn(learner, tasks[1])
    assert facts["groups"] == {LAYER: [0, 0]}
    assert grouped.footprint()["parameters"] < plain.footprint()["parameters"]
    for place in range(2):
        gap = held_weight(grouped.network, place) - held_weight(plain.network, place)
        assert 0 < gap.abs().max() <= 0.01 + 4e-4  # what groups keep is pruned, too
    begin(grouped, tasks[2])
    assert grouped.network.drift() == 0
    answered = answers(grouped, tasks[0])
    (x, _), *_ = tasks[0].train.batches(50)
    kept = grouped.network.network.kept("0")
    hidden = F.linear(x.flatten(1) / 255, held_weight(grouped.network, 0), kept[f"{LAYER}.bias"])
    logits = F.linear(hidden.relu(), kept["head.weight"], kept["head.bias"])
    assert torch.allclose(answered, logits, atol=1e-6)


def convolutional(groups: int = 1) -> Classifier:
    """On [B, 1, 6, 6]."""
    encoder = nn.Sequential(
        *(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU()),
        *(nn.Conv2d(4, 4, 3, groups=groups), nn.ReLU(), nn.Flatten(), nn.Linear(64, 8), nn.ReLU()),
    )
    return Classifier(encoder, nn.Linear(8, 4))


def test_normalisations_biases_and_heads_are_each_tasks_own(
    build: Build, tasks: list[Task]
) -> None:
    learner: Any = build("apd", setting={"model": convolutional(), "optimizer": adam}, drift=1e6)
    learn(learner, tasks[0])
    kept = {place: value.clone() for place, value in learner.network.network.kept("0").items()}
    assert {"encoder.1.running_mean", "encoder.1.weight", "encoder.3.bias"} < kept.keys()
    before = answers(learner, tasks[0])
    learn(learner, tasks[1])
    again = learner.network.network.kept("0")
    assert all(torch.equal(value, again[place]) for place, value in kept.items())
    other = learner.network.network.kept("1")
    assert not any(torch.equal(value, other[place]) for place, value in kept.items())
    assert (answers(learner, tasks[0]) - before).norm() < 0.05 * before.norm()


def adam(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, 1e-3)


def test_the_learning_rate_falls_with_each_pass(build: Build, tasks: list[Task]) -> None:
    learner: Any = build("apd", lr_decay=0.5)
    rates = []
    for task in tasks[:2]:
        learner.begin_task(task)
        for epoch in range(3):
            learner.begin_epoch(task, epoch, 3)
            rates.append(learner.optimizer.param_groups[0]["lr"])
        learner.end_task(task)
    assert rates == pytest.approx([0.1, 0.05, 0.025] * 2)


def test_networks_that_cannot_be_taken_apart_are_refused(build: Build) -> None:
    with pytest.raises(BadSpec, match="in 2 groups"):
        build("apd", setting={"model": convolutional(groups=2)})
    with pytest.raises(BadSpec, match="beneath its head"):
        build("apd", linear=True)
