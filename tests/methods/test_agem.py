"""Which steps the memory changes, and what it holds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from clray.errors import BadSpec
from clray.methods.agem import Agem
from clray.task import Task

Build = Callable[..., Agem]


def gradient(learner: Agem, x: Tensor, y: Tensor) -> Tensor:
    loss = F.cross_entropy(learner.forward(x), y)
    found = torch.autograd.grad(loss, [*learner.model.parameters()])
    return torch.cat([g.flatten() for g in found])


def weights(learner: Any) -> Tensor:
    return torch.cat([p.detach().flatten() for p in learner.model.parameters()])


def test_a_step_is_at_right_angles_to_the_old_gradient_where_they_conflict(
    build: Build, tasks: list[Task]
) -> None:
    """And plain otherwise; the memory's draw is repeated to know the old gradient."""
    learner = build("agem", memory_batch=5)
    learner.end_task(tasks[0])
    learner.begin_task(tasks[1])
    conflicts = []
    for epoch in range(4):
        for x, y in tasks[1].train.batches(8, seed=0, epoch=epoch):
            state = learner.setup.generator.get_state()
            old_x, old_y, _ = learner.memory.draw(5)
            learner.setup.generator.set_state(state)
            assert len(old_y) == 4  # a fifth of 20
            g, r = gradient(learner, x, y), gradient(learner, old_x, old_y)
            expected = g - (g @ r) / (r @ r) * r if g @ r < 0 else g
            before = weights(learner)
            learner.observe(x, y, tasks[1])
            step = (before - weights(learner)) / 0.1
            torch.testing.assert_close(step, expected, rtol=1e-3, atol=1e-5)
            conflicts.append(bool(g @ r < 0))
            if conflicts[-1]:
                assert abs(step @ r) < 1e-3 * abs(g @ r)
    share = sum(conflicts) / len(conflicts)
    assert 0.1 < share < 0.9
    assert learner.end_task(tasks[1]) == {"projected": round(share, 4)}


def test_without_a_conflict_it_is_fine_tuning_to_the_bit(build: Build, tasks: list[Task]) -> None:
    """The memory holds the very examples that are learned."""
    learners = build("agem", memory=50, setting={"num_tasks": 1}), build("finetune")
    learners[0].end_task(tasks[0])
    x, y = next(tasks[0].train.batches(50))
    for _ in range(5):
        for learner in learners:
            learner.observe(x, y, tasks[0])
        assert torch.equal(*map(weights, learners))


def test_old_examples_are_graded_by_their_own_task_s_units(build: Build, tasks: list[Task]) -> None:
    learner = build("agem", setting={"scenario": "task-incremental"})
    learner.rivals[:2, 2:] = learner.rivals[2:, :2] = False
    learner.all_rivals = False
    x, y = next(tasks[0].train.batches(50))
    learner.memory.add(x, y % 2, 0)
    head = learner.model.get_parameter("head.bias")
    reference = learner._references()[head]
    assert (reference[:2] != 0).all()
    assert torch.equal(reference[2:], torch.zeros(2))


@pytest.mark.parametrize("fill", ["online", "after-task"])
def test_memory_has_an_equal_share_of_each_task(build: Build, tasks: list[Task], fill: str) -> None:
    learner = build("agem", fill=fill, memory=37, setting={"num_tasks": 3})
    for task, size in zip(tasks, (13, 25, 37), strict=True):
        for epoch in range(2):
            learner.begin_epoch(task, epoch, 2)
            for x, y in task.train.batches(8, seed=0, epoch=epoch):
                learner.observe(x, y, task)
        learner.end_task(task)
        x, y, came_with = learner.memory.draw(37)
        assert len({tuple(row.flatten().tolist()) for row in x}) == len(y) == size
    assert Counter(came_with.tolist()) == {0: 13, 1: 12, 2: 12}
    assert learner.footprint()["examples"] == 37


def test_a_memory_without_room_for_each_task_is_refused(build: Build) -> None:
    with pytest.raises(BadSpec, match="at least 5"):
        build("agem", memory=4)
    assert len(build("agem", memory=4, storage="reservoir").memory) == 0
