"""Joint training, on from the last task or anew for each."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from clray.methods.joint import Joint
from clray.task import Task

Build = Callable[..., Joint]


def learn(learner: Joint, task: Task) -> None:
    learner.begin_task(task)
    for x, y in task.train.batches(8, seed=0):
        learner.observe(x, y, task)


@pytest.mark.parametrize("restart", [True, False])
def test_begins_each_task_with_the_network_as_it_was(
    build: Build, tasks: list[Task], restart: bool
) -> None:
    through, directly = (
        build("joint", restart=restart, setting={"optimizer": momentum}) for _ in range(2)
    )
    learn(through, tasks[0])
    learn(through, tasks[1])
    learn(directly, tasks[1])
    pairs = zip(through.model.parameters(), directly.model.parameters(), strict=True)
    assert all(torch.equal(one, two) for one, two in pairs) == restart


def test_the_copy_is_counted_in_bytes_alone(build: Build) -> None:
    plain, anew = (build("joint", restart=restart).footprint() for restart in (False, True))
    assert anew == {**plain, "bytes": 2 * plain["bytes"]}


def momentum(parameters: object) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, 0.1, momentum=0.9)  # type: ignore[arg-type]
