"""Separate networks: what a task learns depends on nothing but where it begins."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from clray import registry, trial
from clray.errors import BadInput
from clray.learner import Setup
from clray.methods.separate import Config, Separate
from clray.models.classifier import Classifier
from clray.spec import TrialSpec
from clray.store import Folder
from clray.task import Task
from tests.methods.conftest import Build


def spec(begin: str, scenario: str = "task-incremental") -> TrialSpec:
    """Three permutations of the digits."""
    plain = {
        "method": {"name": "separate", "begin": begin},
        "benchmark": {"name": "permuted-digits", "num_tasks": 3, "scenario": scenario},
        "model": {"name": "mlp", "hidden": [32]},
        "protocol": {"epochs": 6, "batch_size": 33},
    }
    return registry.complete(TrialSpec.model_validate(plain))


def learn(learner: Separate, task: Task) -> None:
    learner.begin_task(task)
    learner.train_mode(True)
    for x, y in task.train.batches(8, seed=0):
        learner.observe(x, y, task)
    learner.end_task(task)
    learner.train_mode(False)


@pytest.fixture
def setup(build: Build) -> Setup:
    """Of a network with a batch normalisation that learns and a frozen part with another."""
    frozen = nn.Sequential(nn.Flatten(), nn.Linear(36, 24), nn.BatchNorm1d(24))
    frozen.requires_grad_(False)
    frozen.train = lambda mode=True: frozen  # type: ignore[method-assign]
    frozen[2].eval()
    encoder = nn.Sequential(frozen, nn.Linear(24, 16), nn.BatchNorm1d(16), nn.ReLU())
    return dataclasses.replace(build("finetune").setup, model=Classifier(encoder, nn.Linear(16, 4)))


@pytest.fixture
def named(tasks: list[Task]) -> list[Task]:
    """Tasks by names that buffers cannot have."""
    return [dataclasses.replace(task, name=f"angle 0.{task.index}%") for task in tasks]


def fresh(setup: Setup, begin: str = "fresh") -> Separate:
    copied = dataclasses.replace(setup, model=copy.deepcopy(setup.model))
    return Separate(Config.model_validate({"begin": begin}), copied)


def answers(learner: Separate, tasks: list[Task]) -> list[Tensor]:
    images = torch.arange(5 * 36).view(5, 1, 6, 6).to(torch.uint8)
    return [learner.predict(images, task).detach().clone() for task in tasks]


def equal(one: list[Tensor], other: list[Tensor]) -> list[bool]:
    return [torch.equal(a, b) for a, b in zip(one, other, strict=True)]


@pytest.mark.parametrize("begin", ["fresh", "first"])
def test_order_and_place_of_later_tasks_change_nothing(
    begin: str, setup: Setup, named: list[Task]
) -> None:
    first, second, third = named
    one, other, heir = (fresh(setup, begin) for _ in range(3))
    learn(one, first)
    alone = answers(one, named)
    learn(one, second)
    assert equal(alone, answers(one, named)) == [True, False, True]
    learn(one, third)
    for task in (first, third, second):
        learn(other, dataclasses.replace(task, index=5 - task.index))
    learn(heir, first)
    heir.adopt(third, other.learned_of(third))
    heir.adopt(second, one.learned_of(second))
    whole = answers(one, named)
    assert equal(answers(one, [first]), alone[:1]) == [True]
    assert equal(whole, answers(other, named)) == equal(whole, answers(heir, named)) == [True] * 3
    footprints = {tuple(sorted(learner.footprint().items())) for learner in (one, other, heir)}
    assert len(footprints) == 1
    assert set(one.model.state_dict()) == set(heir.model.state_dict())
    # But all depends on which came first, where it is begun from.
    changed = fresh(setup, begin)
    learn(changed, second)
    learn(changed, first)
    assert equal(answers(changed, [first]), alone[:1]) == [begin == "fresh"]


def test_tasks_begin_as_they_are_told(setup: Setup, named: list[Task]) -> None:
    learner, built = fresh(setup, "first"), setup.model.state_dict()
    learn(learner, named[0])
    first = learner.learned_of(named[0])
    learn(learner, named[1])
    learner.begin_task(named[2])
    for name, value in learner.model.state_dict().items():
        if name in first:
            start = built if name.startswith("head.") else first
            assert torch.equal(value, start[name]), name
    assert not learner.optimizer.state
    assert not torch.equal(first["encoder.2.running_mean"], built["encoder.2.running_mean"])


def test_what_is_frozen_is_kept_once(setup: Setup, named: list[Task]) -> None:
    learner = fresh(setup)
    before = learner.footprint()
    numbers = {"learn": 24 * 16 + 3 * 16 + 16 * 4 + 4, "frozen": 36 * 24 + 3 * 24}
    assert before["parameters"] == sum(numbers.values())
    statistics = 4 * 2 * 16 + 8
    for count, task in enumerate(named, start=1):
        learn(learner, task)
        kept = learner.footprint()
        assert kept["parameters"] == numbers["frozen"] + count * numbers["learn"]
        more = (count - 1) * (4 * numbers["learn"] + statistics)
        assert kept["bytes"] == before["bytes"] + more
    assert not any(name.startswith("encoder.0.") for name in learner.learned_of(named[1]))


@pytest.mark.parametrize("begin", ["fresh", "first"])
def test_nothing_is_forgotten(begin: str, tmp_path: Path) -> None:
    outcome = trial.run(spec(begin), Folder(str(tmp_path)))
    assert outcome.metrics["forgetting"] == 0
    assert (outcome.metrics["average_accuracy"] or 0) > 0.7


def test_tasks_must_be_given() -> None:
    with pytest.raises(BadInput, match="scenario"):
        spec("fresh", "domain-incremental")
