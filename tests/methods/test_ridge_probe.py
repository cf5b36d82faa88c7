"""A linear probe that is solved: one pass in any order is the least-squares fit of all examples."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from clray.methods.ridge_probe import Config, RidgeProbe
from clray.streams.examples import TensorExamples
from clray.task import Task
from tests.methods.conftest import Build, needs_no_boundaries

RIDGE = 1e-3
N = 150


@pytest.fixture
def probe(build: Build) -> Callable[[str], RidgeProbe]:
    """A probe of a scenario, on the images themselves."""

    def probe(scenario: str) -> RidgeProbe:
        setup = replace(build("finetune", linear=True).setup, scenario=scenario)
        return RidgeProbe(Config(ridge=RIDGE), setup)

    return probe


@pytest.fixture
def split() -> list[Task]:
    """Two tasks of two classes each, of 90 and of 60 random images."""
    torch.manual_seed(2)
    images = torch.randint(256, (N, 1, 6, 6), dtype=torch.uint8)
    labels = torch.cat([torch.arange(90) % 2, 2 + torch.arange(60) % 2])
    rows = torch.arange(90), torch.arange(90, N)
    parts = [TensorExamples(images, labels, part) for part in rows]
    return [
        Task(i, str(i), classes, part, part).for_learning()
        for i, (part, classes) in enumerate(zip(parts, [(0, 1), (2, 3)], strict=True))
    ]


def learn(learner: RidgeProbe, task: Task, size: int = 8) -> None:
    learner.begin_task(task)
    for epoch in range(2):
        learner.begin_epoch(task, epoch, 2)
        for x, y in task.train.batches(size, seed=0, epoch=epoch):
            learner.observe(x, y, task)
    learner.end_task(task)


def all_of(tasks: list[Task]) -> tuple[Tensor, Tensor]:
    batches = [batch for task in tasks for batch in task.train.batches(N)]
    x, y = (torch.cat(part) for part in zip(*batches, strict=True))
    return x, y


def least_squares(tasks: list[Task]) -> Tensor:
    """Weights [37, 4], directly: the ridge as so many more rows."""
    x, y = all_of(tasks)
    z = (x / 255).flatten(1).double()
    h = F.pad(z, (0, 1), value=1.0)
    pull = (RIDGE * N) ** 0.5 * torch.eye(37, dtype=torch.float64)
    rows, targets = torch.cat([h, pull]), F.pad(F.one_hot(y, 4).double(), (0, 0, 0, 37))
    found: Tensor = torch.linalg.lstsq(rows, targets, driver="gelsd").solution
    return found


@pytest.mark.parametrize("scenario", ["data-incremental", "domain-incremental"])
@pytest.mark.parametrize("size", [1, 7, 50])
def test_any_order_in_any_batches_is_all_at_once(
    probe: Callable[[str], RidgeProbe], tasks: list[Task], scenario: str, size: int
) -> None:
    wanted = least_squares(tasks)
    for order in itertools.permutations(tasks):
        learner = probe(scenario)
        for task in order:
            learn(learner, task, size)
        found, _ = learner.regression.solve()
        assert (found - wanted).abs().max() < 1e-10


def test_the_last_task_alone_is_not(probe: Callable[[str], RidgeProbe], tasks: list[Task]) -> None:
    learner = probe("data-incremental")
    learn(learner, tasks[2])
    assert (learner.regression.solve()[0] - least_squares(tasks)).abs().max() > 0.01


def test_new_classes_are_exact(probe: Callable[[str], RidgeProbe], split: list[Task]) -> None:
    for order in (split, split[::-1]):
        learner = probe("class-incremental")
        for i, task in enumerate(order):
            learn(learner, task)
            found, _ = learner.regression.solve()
            assert (found - least_squares(list(order[: i + 1]))).abs().max() < 1e-10
            logits = learner.predict(all_of(split)[0], None)
            seen = sorted(cls for one in order[: i + 1] for cls in one.classes)
            assert torch.equal(logits.isfinite().any(0).nonzero().flatten(), torch.tensor(seen))


def test_outputs_of_a_task_are_its_own(
    probe: Callable[[str], RidgeProbe], split: list[Task]
) -> None:
    learner = probe("task-incremental")
    early = []
    for task in split:
        learn(learner, task)
        own = list(task.classes)
        found, _ = learner.regression.solve()
        assert (found - least_squares([task]))[:, own].abs().max() < 1e-10
        early.append(found[:, own])
        answers = learner.predict(next(task.train.batches(N))[0], task)
        assert answers[:, own].isfinite().all()
    assert torch.equal(learner.regression.solve()[0], torch.cat(early, 1))
    assert not learner.regression.G.any()


def test_answers_within_a_task(probe: Callable[[str], RidgeProbe], split: list[Task]) -> None:
    learner = probe("task-incremental")
    learn(learner, split[0])
    kept = learner.regression.solve()[0][:, :2]
    learner.begin_epoch(split[1], 0, 1)
    for x, y in split[1].train.batches(8):
        learner.observe(x, y, split[1])
        found = learner.regression.solve()[0]
        assert torch.equal(found[:, :2], kept)
    assert (found - least_squares(split[1:]))[:, 2:].abs().max() < 1e-10


@pytest.mark.parametrize("scenario", ["class-incremental", "task-incremental"])
def test_what_is_kept_does_not_grow(
    probe: Callable[[str], RidgeProbe], split: list[Task], scenario: str
) -> None:
    learner = probe(scenario)
    before = learner.footprint()
    learn(learner, split[0])
    learn(learner, split[1])
    assert learner.footprint() == before


def test_needs_no_task_boundary(build: Build, tasks: list[Task]) -> None:
    assert needs_no_boundaries(partial(build, "ridge_probe", linear=True), tasks)
