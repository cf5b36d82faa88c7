"""Who competes with whom in ER-ACE."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from clray.methods.er_ace import ErAce
from clray.task import Task

Build = Callable[..., ErAce]


def go(learner: Any, task: Task) -> None:
    for epoch in range(2):
        learner.begin_epoch(task, epoch, 2)
        for x, y in task.train.batches(8, seed=0, epoch=epoch):
            learner.observe(x, y, task)
    learner.end_task(task)


def weights(learner: Any) -> Tensor:
    return torch.cat([p.flatten() for p in learner.model.parameters()]).detach()


def test_the_batch_leaves_absent_classes_alone(build: Build) -> None:
    """A case by hand: classes 1 and 3, of four."""
    learner = build("er_ace")
    logits = torch.tensor([[9.0, 1.0, 9.0, 2.0], [9.0, 0.0, 9.0, 0.5]], requires_grad=True)
    loss = learner.among_present(logits, torch.tensor([1, 3]))
    first, second = (torch.tensor(gap).sigmoid() for gap in (1.0 - 2.0, 0.5 - 0.0))
    torch.testing.assert_close(loss.detach(), -(first.log() + second.log()) / 2)
    (gradient,) = torch.autograd.grad(loss, logits)
    zero = torch.zeros(())
    expected = [[zero, first - 1, zero, 1 - first], [zero, 1 - second, zero, second - 1]]
    torch.testing.assert_close(gradient, torch.tensor(expected) / 2)
    assert torch.equal(gradient[:, [0, 2]], torch.zeros(2, 2))


def test_present_classes_of_other_heads_do_not_compete(build: Build) -> None:
    learner = build("er_ace", setting={"scenario": "task-incremental"})
    learner.rivals[:2, 2:] = learner.rivals[2:, :2] = False
    learner.all_rivals = False
    logits, y = torch.randn(3, 4, requires_grad=True), torch.tensor([0, 2, 3])
    (gradient,) = torch.autograd.grad(learner.among_present(logits, y), logits)
    present = torch.tensor([True, False, True, True])
    assert torch.equal(gradient[1:] != 0, (learner.rivals[y] & present)[1:])
    assert not gradient[0].any()  # its only rival is absent


def test_the_loss_is_the_sum_of_two_means(build: Build, tasks: list[Task]) -> None:
    learner = build("er_ace", memory_batch=5)
    go(learner, tasks[0])
    assert learner.memory.drawn == 0
    x, y = next(iter(tasks[1].train.batches(40)))
    x, y = x[y < 2], y[y < 2]
    state = learner.setup.generator.get_state()
    old_x, old_y, _ = learner.memory.draw(5)
    learner.setup.generator.set_state(state)
    logits, old = torch.split(learner.forward(torch.cat([x, old_x])).detach(), [len(x), 5])
    expected = F.cross_entropy(logits[:, :2], y) + F.cross_entropy(old, old_y)
    learner.begin_epoch(tasks[1], 0, 1)
    torch.testing.assert_close(learner.observe(x, y, tasks[1])["loss"], expected)


def test_the_first_task_is_fine_tuned_and_each_example_is_offered_once(
    build: Build, tasks: list[Task]
) -> None:
    learners = build("er_ace"), build("finetune")
    for learner in learners:
        go(learner, tasks[0])
    assert torch.equal(*map(weights, learners))
    go(learners[0], tasks[1])
    assert learners[0].memory.seen == 100
    assert set(learners[0].memory.tasks.tolist()) == {0, 1}
