"""What later tasks change, and what they leave as it is."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from clray.methods.gpm import Gpm
from clray.models.classifier import Classifier
from clray.models.matrix_layers import as_matrix, num_groups
from clray.streams.examples import TensorExamples
from clray.task import Task

Build = Callable[..., Gpm]

SGD, ADAM, ADAMW = torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW
OPTIMIZERS: dict[str, Any] = {
    "plain": partial(SGD, lr=0.1),
    "momentum": partial(SGD, lr=0.1, momentum=0.9, weight_decay=0.01),
    "adam": partial(ADAM, lr=0.01),
    "decayed": partial(ADAMW, lr=0.01, weight_decay=0.1),
}


def convolutions() -> Classifier:
    """With groups, a stride and batch normalisation."""
    torch.manual_seed(0)
    layers = [
        nn.Conv2d(1, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 8, 3, stride=2, groups=2, bias=False),
        nn.ReLU(),
        nn.Flatten(),
    ]
    return Classifier(nn.Sequential(*layers), nn.Linear(32, 4))


def few(tasks: Iterable[Task]) -> list[Task]:
    """Tasks of 6 examples, which span few directions."""
    found = []
    for task in tasks:
        x, y = (part[:6] for part in next(task.train.batches(10)))
        part = TensorExamples(x, y, torch.arange(len(y)))
        found.append(Task(task.index, task.name, task.classes, part, part))
    return found


def learn(learner: Gpm, task: Task, epochs: int = 5) -> dict[str, Any]:
    learner.train_mode(True)
    learner.begin_task(task)
    for epoch in range(epochs):
        for x, y in task.train.batches(8, seed=0, epoch=epoch):
            learner.observe(x, y, task)
    return learner.end_task(task)


@torch.no_grad()
def logits(learner: Gpm, task: Task) -> Tensor:
    learner.train_mode(False)
    found = learner.predict(next(task.train.batches(50))[0], None)
    learner.train_mode(True)
    return found


def state(learner: Gpm) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in learner.model.state_dict().items()}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("biases", ["projected", "frozen"])
def test_answers_to_old_examples_stay_with_any_optimizer(
    build: Build, tasks: list[Task], biases: str, optimizer: str
) -> None:
    """Where the space holds all of their directions, through a network that is not linear."""
    first, second, _ = few(tasks)
    learner = build("gpm", threshold=1, biases=biases, setting={"optimizer": OPTIMIZERS[optimizer]})
    learn(learner, first)
    old, new = logits(learner, first), logits(learner, second)
    learn(learner, second)
    torch.testing.assert_close(logits(learner, first), old, rtol=0, atol=2e-5)
    assert (logits(learner, second) - new).abs().max() > 0.02


@pytest.mark.parametrize("optimizer", ["plain", "momentum"])
def test_steps_are_at_right_angles_to_the_spaces_and_all_else_stays(
    build: Build, tasks: list[Task], optimizer: str
) -> None:
    """Of convolutions as well; normalisations keep weights and statistics to the bit."""
    setting = {"model": convolutions(), "optimizer": OPTIMIZERS[optimizer]}
    learner = build("gpm", threshold=0.8, setting=setting)
    began = state(learner)
    learn(learner, tasks[0])
    before = state(learner)
    norm = [name for name in before if name.startswith("encoder.1.")]
    assert len(norm) == 5
    assert not any(torch.equal(before[name], began[name]) for name in norm)
    spaces = {name: space.basis for name, space in learner.spaces.items()}
    assert spaces.keys() == {"encoder.0", "encoder.3", "head"}
    learn(learner, tasks[1])
    after = state(learner)
    assert all(torch.equal(before[name], after[name]) for name in norm)
    for name, basis in spaces.items():
        moved = {
            key: after[f"{name}.{key}"] - before[f"{name}.{key}"]
            for key, _ in learner.layers[name].named_parameters()
        }
        matrix = as_matrix(moved["weight"], moved.get("bias"), num_groups(learner.layers[name]))
        assert matrix.abs().max() > 1e-3
        assert 0 < basis.shape[2] < basis.shape[1]
        assert (matrix @ basis).abs().max() < 1e-5 * matrix.abs().max() + 1e-6


def test_full_spaces_leave_the_network_as_it_is(build: Build, tasks: list[Task]) -> None:
    learner = build("gpm", threshold=1, setting={"optimizer": OPTIMIZERS["decayed"]})
    learn(learner, tasks[0], epochs=1)
    for space in learner.spaces.values():  # a dead unit gives no direction
        space.grow(torch.eye(space.basis.shape[1]).double().unsqueeze(0), 1.0)
    before = state(learner)
    learn(learner, tasks[1])
    assert all(torch.equal(value, before[name]) for name, value in state(learner).items())


def test_rows_of_the_head_are_a_task_s_own(build: Build, tasks: list[Task]) -> None:
    """Those of others stay to the bit, its own learn freely, though momentum and decay push."""
    setting = {"scenario": "task-incremental", "optimizer": OPTIMIZERS["momentum"]}
    learner = build("gpm", threshold=1, setting=setting)
    learner.rivals[:2, 2:] = learner.rivals[2:, :2] = False
    learner.all_rivals = False
    parts = []
    for task, classes in zip(few(tasks), [(0, 1), (2, 3)], strict=False):
        x, y = next(task.train.batches(6))
        part = TensorExamples(x, y % 2 + classes[0], torch.arange(len(y)))
        parts.append(Task(task.index, task.name, classes, part, part))
    first, second = parts
    assert learn(learner, first)["space"].keys() == {"encoder.1"}
    before, old = state(learner), logits(learner, first)
    learn(learner, second)
    after = state(learner)
    for name in ("head.weight", "head.bias"):
        assert torch.equal(after[name][:2], before[name][:2])
        assert not torch.equal(after[name][2:], before[name][2:])
    torch.testing.assert_close(logits(learner, first)[:, :2], old[:, :2], rtol=0, atol=2e-5)


def test_thresholds_are_the_first_layer_s_own_and_grow_with_tasks(
    build: Build, tasks: list[Task]
) -> None:
    learner = build("gpm", threshold=0, first_threshold=1)
    assert learn(learner, tasks[0])["space"] == {"encoder.1": 1.0, "head": 0.0}
    learner = build("gpm", threshold=0, increase=0.6)
    shares = [learn(learner, task)["space"]["encoder.1"] for task in tasks]
    assert shares[0] == 0 < shares[1] < shares[2] == 1


def test_directions_do_not_depend_on_how_a_task_is_cut_into_workers_batches(
    build: Build, tasks: list[Task], monkeypatch: pytest.MonkeyPatch
) -> None:
    spaces = []
    for batch in (7, 256):
        monkeypatch.setattr("clray.models.task_sample.BATCH", batch)
        learner = build("gpm", threshold=0.9, examples=None)
        learn(learner, tasks[0])
        spaces.append(learner.spaces)
    for one, other in zip(*(s.values() for s in spaces), strict=True):
        assert one.sizes == other.sizes
        torch.testing.assert_close(one.basis @ one.basis.mT, other.basis @ other.basis.mT)


def test_without_old_tasks_it_is_fine_tuning(build: Build, tasks: list[Task]) -> None:
    learners = build("gpm"), build("finetune")
    for learner, (x, y) in itertools.product(learners, tasks[0].train.batches(8, seed=0)):
        learner.observe(x, y, tasks[0])
    one, other = map(state, learners)
    assert all(torch.equal(value, other[name]) for name, value in one.items())
