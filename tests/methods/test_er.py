"""What is replayed, and what the memory holds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F

from clray.methods.er import Er
from clray.task import Task

Build = Callable[..., Er]


def test_loss_is_the_mean_over_the_batch_and_what_was_drawn(
    build: Build, tasks: list[Task]
) -> None:
    learner = build("er", memory_batch=5, fill="online")
    learner.begin_epoch(tasks[0], 0, 1)
    (x, y), (new_x, new_y), *_ = tasks[0].train.batches(8)
    first = F.cross_entropy(learner.forward(x), y).detach()
    torch.testing.assert_close(learner.observe(x, y, tasks[0])["loss"], first)
    assert len(learner.memory) == len(x)

    state = learner.setup.generator.get_state()
    old_x, old_y, _ = learner.memory.draw(5)
    learner.setup.generator.set_state(state)
    logits = learner.forward(torch.cat([new_x, old_x]))
    expected = F.cross_entropy(logits, torch.cat([new_y, old_y])).detach()
    assert len(old_y) == 5
    torch.testing.assert_close(learner.observe(new_x, new_y, tasks[0])["loss"], expected)
    assert len(learner.memory) == len(x) + len(new_x)


@pytest.mark.parametrize("storage", ["reservoir", "class-balanced"])
@pytest.mark.parametrize("fill", ["online", "after-task"])
def test_memory_is_filled_as_promised(
    build: Build, tasks: list[Task], storage: str, fill: str
) -> None:
    """In the first epoch or at the end, each example once: no duplicates, every task present."""
    learner = build("er", storage=storage, fill=fill, memory=36)
    for task in tasks:
        before = len(learner.memory)
        for epoch in range(3):
            learner.begin_epoch(task, epoch, 3)
            for x, y in task.train.batches(8, seed=0, epoch=epoch):
                learner.observe(x, y, task)
            assert (len(learner.memory) == before) == (fill == "after-task" or before == 36)
        learner.end_task(task)
        x, y, came_with = learner.memory.draw(36)
        assert len({tuple(row.flatten().tolist()) for row in x}) == len(y) == 36
        assert set(came_with.tolist()) == set(range(task.index + 1))
        if storage == "class-balanced":
            assert set(Counter(y.tolist()).values()) == {9}
    assert learner.footprint()["examples"] == 36
