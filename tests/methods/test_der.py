"""What is kept with old examples, and what holds the network to it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from clray.methods.der import Der
from clray.task import Task

Build = Callable[..., Der]


def go(learner: Any, task: Task, epochs: int = 1) -> None:
    for epoch in range(epochs):
        learner.begin_epoch(task, epoch, epochs)
        for x, y in task.train.batches(8, seed=0, epoch=epoch):
            learner.observe(x, y, task)
    learner.end_task(task)


def weights(learner: Any) -> Tensor:
    return torch.cat([p.flatten() for p in learner.model.parameters()]).detach()


def test_the_loss_by_hand(build: Build, tasks: list[Task]) -> None:
    learner = build("der", alpha=0.7, memory_batch=5)
    go(learner, tasks[0])
    assert learner.memory.drawn == 5 * 6  # from the second of 7 steps on
    x, y = next(iter(tasks[1].train.batches(8)))
    state = learner.setup.generator.get_state()
    old_x, _, old = learner.memory.draw_with_logits(5)
    learner.setup.generator.set_state(state)
    logits = learner.forward(torch.cat([x, old_x])).detach()
    squares = sum((logits[len(x) + i] - old[i]).square().sum() for i in range(5))
    penalty = 0.7 * squares / (5 * 4)
    learner.begin_epoch(tasks[1], 0, 1)
    out = learner.observe(x, y, tasks[1])
    assert penalty > 0
    torch.testing.assert_close(out["penalty"], penalty)
    torch.testing.assert_close(out["loss"], F.cross_entropy(logits[: len(x)], y) + penalty)


@pytest.mark.parametrize("fill", ["every-pass", "online", "after-task"])
def test_logits_are_those_that_the_network_gave_then(
    build: Build, tasks: list[Task], fill: str
) -> None:
    learner = build("der", fill=fill, memory=30)
    told: dict[bytes, list[Tensor]] = {}
    for epoch in range(3):
        learner.begin_epoch(tasks[0], epoch, 3)
        for x, y in tasks[0].train.batches(8, seed=0, epoch=epoch):
            for image, row in zip(x, learner.forward(x).detach(), strict=True):
                told.setdefault(image.numpy().tobytes(), []).append(row)
            learner.observe(x, y, tasks[0])
        offered = {"every-pass": 50 * epoch + 50, "online": 50, "after-task": 0}[fill]
        assert learner.memory.seen == offered
    learner.end_task(tasks[0])
    images, logits = learner.memory.images, learner.memory.logits
    if fill == "after-task":
        torch.testing.assert_close(logits, learner.forward(images).detach())
        return
    passes = set()
    for image, row in zip(images, logits, strict=True):
        matches = [torch.allclose(row, one, atol=1e-5) for one in told[image.numpy().tobytes()]]
        passes.add(matches.index(True))
    assert passes == ({0, 1, 2} if fill == "every-pass" else {0})


@pytest.mark.parametrize("fill", ["every-pass", "after-task"])
def test_without_alpha_it_is_fine_tuning(build: Build, tasks: list[Task], fill: str) -> None:
    learners = build("der", alpha=0, fill=fill), build("finetune")
    for task in tasks:
        for learner in learners:
            go(learner, task, epochs=2)
    assert torch.equal(*map(weights, learners))
    assert learners[0].memory.drawn == 0


def test_each_task_has_its_own_units_where_tasks_are_told(build: Build) -> None:
    logits, old = torch.randn(3, 4, requires_grad=True), torch.randn(3, 4)
    y = torch.tensor([0, 3, 1])
    everything = build("der").distances(logits, old, y)
    torch.testing.assert_close(everything, (logits - old).square().mean(1))
    learner = build("der", setting={"scenario": "task-incremental"})
    learner.rivals[:2, 2:] = learner.rivals[2:, :2] = False
    own = learner.distances(logits, old, y)
    firsts = enumerate([0, 2, 0])
    pairs = [(logits - old)[i, first : first + 2].square().sum() / 4 for i, first in firsts]
    torch.testing.assert_close(own, torch.stack(pairs))
    (gradient,) = torch.autograd.grad(own.sum(), logits)
    assert torch.equal(gradient != 0, learner.rivals[y])
