"""The Fisher diagonal, the scores and what is made of them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from clray.methods.rwalk import Rwalk
from clray.task import Task

Build = Callable[..., Rwalk]


def flat(values: dict[str, Tensor]) -> Tensor:
    return torch.cat([value.flatten() for value in values.values()])


def weights(learner: Rwalk) -> Tensor:
    return torch.cat([p.detach().flatten() for p in learner.model.parameters()])


def gradient(learner: Rwalk, x: Tensor, y: Tensor) -> Tensor:
    loss = F.cross_entropy(learner.forward(x), y)
    return torch.cat(
        [g.flatten() for g in torch.autograd.grad(loss, [*learner.model.parameters()])]
    )


class ByHand:
    """What the module's docstring says, with one row of numbers for all weights."""

    def __init__(self, learner: Rwalk) -> None:
        self.learner = learner
        size = weights(learner).shape
        self.fisher, self.scores = torch.zeros(size), torch.zeros(size)

    def learn(self, task: Task, passes: list[int], alphas: list[float]) -> None:
        """Intervals of these numbers of steps; ``alphas``: the new one's share in each."""
        learner = self.learner
        learner.begin_task(task)
        batches = task.train.batches(8, seed=0)
        task_scores = torch.zeros_like(self.scores)
        for steps, alpha in zip(passes, alphas, strict=True):
            start = weights(learner)
            path, squares = torch.zeros_like(start), torch.zeros_like(start)
            for _ in range(steps):
                x, y = next(batches)
                g, before = gradient(learner, x, y), weights(learner)
                learner.observe(x, y, task)
                path -= g * (weights(learner) - before)
                squares += g**2
            self.fisher = alpha * squares / steps + (1 - alpha) * self.fisher
            way = weights(learner) - start
            task_scores += path.clamp(min=0) / (0.5 * self.fisher * way**2 + 0.01)
        learner.end_task(task)
        first = task.index == 0
        self.scores = task_scores if first else (self.scores + task_scores) / 2


def test_two_tasks_by_hand(build: Build, tasks: list[Task]) -> None:
    """Seven batches are intervals of 3, 3 and 1: the last has the weight of a third."""
    learner = build("rwalk", interval=3, alpha=0.6, damping=0.01, strength=50)
    hand = ByHand(learner)
    for task in tasks[:2]:
        hand.learn(task, [3, 3, 1], [0.6, 0.6, 1 - 0.4 ** (1 / 3)])
        torch.testing.assert_close(flat(learner.fisher), hand.fisher, rtol=1e-3, atol=1e-8)
        torch.testing.assert_close(flat(learner.scores), hand.scores, rtol=1e-3, atol=1e-5)
        expected = hand.fisher / hand.fisher.max() + hand.scores / hand.scores.max()
        found = flat(learner.quadratic.importance)
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-6)
        assert torch.equal(flat(learner.quadratic.centre), weights(learner))


def test_score_of_one_step_of_sgd(build: Build, tasks: list[Task]) -> None:
    """It moves by lr * g and pays lr * g^2; with alpha 1 the Fisher diagonal is g^2, so that the
    score is lr * g^2 / (lr^2 * g^4 / 2 + damping)."""
    learner = build("rwalk", interval=1, alpha=1.0, damping=1e-6)
    x, y = next(tasks[0].train.batches(50))
    g = gradient(learner, x, y)
    learner.begin_task(tasks[0])
    learner.observe(x, y, tasks[0])
    learner.end_task(tasks[0])
    expected = 0.1 * g**2 / (0.01 * g**4 / 2 + 1e-6)
    torch.testing.assert_close(flat(learner.fisher), g**2, rtol=1e-4, atol=1e-12)
    torch.testing.assert_close(flat(learner.scores), expected, rtol=1e-2, atol=1e-3)


def test_penalty(build: Build, tasks: list[Task]) -> None:
    learner = build("rwalk", strength=3)
    ByHand(learner).learn(tasks[0], [7], [0.9])
    learner.begin_task(tasks[1])
    x, y = next(tasks[1].train.batches(50))
    learner.observe(x, y, tasks[1])  # leaves the centre
    gap = weights(learner) - flat(learner.quadratic.centre)
    out = learner.observe(x, y, tasks[1])
    penalty = 3 / (2 * 5) * (flat(learner.quadratic.importance) * gap**2).sum()
    torch.testing.assert_close(out["penalty"], penalty, rtol=1e-3, atol=0)


@pytest.mark.parametrize("learned", [True, False])
def test_importances_are_in_their_bounds(build: Build, tasks: list[Task], learned: bool) -> None:
    """Also those of a task from which nothing was to be learned."""
    learner = build("rwalk")
    if not learned:
        learner.optimizer.param_groups[0]["lr"] = 0.0
    ByHand(learner).learn(tasks[0], [7], [0.9])
    found = flat(learner.quadratic.importance)
    assert 0 <= float(found.min()) < float(found.max()) <= (2 if learned else 1)


def test_what_is_kept_between_tasks_does_not_grow(build: Build, tasks: list[Task]) -> None:
    learner = build("rwalk")
    one = learner.footprint()["bytes"]
    for task in tasks:
        ByHand(learner).learn(task, [7], [0.9])
        assert learner.footprint()["bytes"] == 5 * one
        assert not learner.path
        assert not learner.squares
