"""The path integral, the importance and the penalty."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clray.methods.si import Si
from clray.task import Task

Build = Callable[..., Si]


def learn(learner: Si, task: Task, steps: int = 1) -> None:
    learner.begin_task(task)
    learner.train_mode(True)
    for epoch in range(steps):
        for x, y in task.train.batches(50, seed=0, epoch=epoch):
            learner.observe(x, y, task)


def flat(values: dict[str, Tensor]) -> Tensor:
    return torch.cat([value.flatten() for value in values.values()])


def weights(learner: Si) -> Tensor:
    return torch.cat([p.detach().flatten() for p in learner.model.parameters()])


@torch.no_grad()
def loss_on(learner: Si, task: Task) -> Tensor:
    x, y = next(task.train.batches(50))
    return F.cross_entropy(learner.forward(x), y)


def slow(learner: Si, lr: float) -> Si:
    learner.optimizer.param_groups[0]["lr"] = lr
    return learner


@pytest.mark.parametrize("strength", [0.0, 1000.0])
def test_path_integrals_sum_to_the_decrease_of_the_task_loss_alone(
    build: Build, tasks: list[Task], strength: float
) -> None:
    """Exactly so in the limit of small steps on the whole task; also under a strong penalty."""
    learner = slow(build("si", strength=strength), 0.01)
    for task in tasks:
        before = loss_on(learner, task)
        learn(learner, task, steps=100)
        decrease = before - loss_on(learner, task)
        assert decrease > 0.01
        torch.testing.assert_close(flat(learner.path).sum(), decrease, rtol=0.03, atol=0)
        learner.end_task(task)


class Bowl(nn.Module):
    """Its loss is sum of curvature * (theta - bottom)^2 / 2: each coordinate falls by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.tensor([1.0, -2.0, 0.5, 3.0]))
        self.register_buffer("curvature", torch.tensor([0.3, 1.0, 4.0, 0.0]))
        self.register_buffer("bottom", torch.tensor([0.0, 0.0, 1.0, 0.0]))

    def losses(self) -> Tensor:
        curvature, bottom = self.get_buffer("curvature"), self.get_buffer("bottom")
        return 0.5 * curvature * (self.theta - bottom) ** 2

    def forward(self, x: Tensor) -> Tensor:
        return self.losses().sum()


def test_path_integral_of_a_quadratic_is_each_coordinates_decrease(
    build: Build, tasks: list[Task], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exactly so along the gradient's flow. After n steps of SGD at rate lr, a coordinate with
    curvature c is q^n of its way from the bottom, q = 1 - lr * c, and the sum of lr * g^2 over
    steps is its decrease times 2 / (1 + q)."""
    bowl = Bowl()
    learner = build("si", setting={"model": bowl})
    monkeypatch.setattr(learner, "cross_entropy", lambda value, y: value)
    before = bowl.losses().detach()
    learn(learner, tasks[0], steps=20)
    decrease = before - bowl.losses().detach()
    q = 1 - 0.1 * bowl.get_buffer("curvature")
    torch.testing.assert_close(decrease, before * (1 - q**40))
    torch.testing.assert_close(learner.path["theta"], decrease * 2 / (1 + q))


def test_importance_and_penalty_of_one_step_by_hand(build: Build, tasks: list[Task]) -> None:
    """A step of SGD moves by -lr * g: its path integral is lr * g^2, its way lr * g."""
    learner = build("si", strength=3, damping=0.2)
    x, y = next(tasks[0].train.batches(50))
    plain = F.cross_entropy(learner.forward(x), y)
    g = torch.cat([g.flatten() for g in torch.autograd.grad(plain, [*learner.model.parameters()])])
    learn(learner, tasks[0])
    learner.end_task(tasks[0])
    importance, centre = flat(learner.quadratic.importance), weights(learner)
    expected = 0.1 * g**2 / ((0.1 * g) ** 2 + 0.2)
    torch.testing.assert_close(importance, expected, rtol=1e-3, atol=1e-7)

    learn(learner, tasks[1])  # leaves the centre
    gap = weights(learner) - centre
    out = learner.observe(*next(tasks[1].train.batches(50)), tasks[1])
    penalty = 3 / (2 * 5) * (importance * gap**2).sum()
    torch.testing.assert_close(out["penalty"], penalty, rtol=1e-3, atol=0)


@pytest.mark.parametrize("cap", [None, 1e-3])
def test_importances_are_summed_and_kept_within_bounds(
    build: Build, tasks: list[Task], cap: float | None
) -> None:
    learner = build("si", damping=0.2, cap=cap)
    learn(learner, tasks[0])
    learner.end_task(tasks[0])
    first = flat(learner.quadratic.importance)
    learner.begin_task(tasks[1])
    learner.path = {name: torch.full_like(p, -1e-4) for name, p in learner.path.items()}
    learner.end_task(tasks[1])
    second = flat(learner.quadratic.importance)
    torch.testing.assert_close(second, (first - 1e-4 / 0.2).clamp(min=0))
    assert 0 < int((second == 0).sum()) < len(second)
    assert (float(first.max()) == pytest.approx(1e-3)) == (cap is not None)


def test_a_step_is_that_of_the_whole_loss_also_when_clipped(
    build: Build, tasks: list[Task]
) -> None:
    learner = build("si", strength=500)
    learn(learner, tasks[0])
    learner.end_task(tasks[0])
    learn(learner, tasks[1])
    x, y = next(tasks[1].train.batches(50))
    penalty = 500 / (2 * 5) * learner.quadratic(learner.model)
    whole = F.cross_entropy(learner.forward(x), y) + penalty
    parameters = list(learner.model.parameters())
    g = torch.cat([g.flatten() for g in torch.autograd.grad(whole, parameters)])
    object.__setattr__(learner.setup, "clip_norm", 0.5 * float(g.norm()))
    before = weights(learner)
    learner.observe(x, y, tasks[1])
    torch.testing.assert_close((before - weights(learner)) / 0.1, g / 2, rtol=1e-3, atol=1e-5)


def test_what_is_kept_between_tasks_does_not_grow(build: Build, tasks: list[Task]) -> None:
    learner = build("si")
    one = learner.footprint()["bytes"]
    for task in tasks:
        learn(learner, task)
        learner.end_task(task)
        assert learner.footprint()["bytes"] == 3 * one
        assert not learner.path
