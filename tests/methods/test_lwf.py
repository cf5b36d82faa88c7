"""What is distilled, and with what weight."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from clray.methods.lwf import Lwf
from clray.task import Task

Build = Callable[..., Lwf]


def learn(learner: Lwf, task: Task) -> None:
    learner.begin_task(task)
    learner.train_mode(True)
    for x, y in task.train.batches(8, seed=0):
        learner.observe(x, y, task)
    learner.end_task(task)


def scenario(learner: Lwf, name: str) -> Lwf:
    learner.setup = dataclasses.replace(learner.setup, scenario=name)
    return learner


def kl(old: Tensor, new: Tensor, heat: float) -> Tensor:
    """Mean KL(old || new) of softmax(. / heat), written out."""
    p, q = (old / heat).softmax(1), (new / heat).softmax(1)
    return (p * (p / q).log()).sum(1).mean()


def test_divergence_of_a_case_by_hand(build: Build, tasks: list[Task]) -> None:
    """Old answers 1/2, 1/2 and new ones 3/4, 1/4: log(2 / sqrt 3), times temperature^2."""
    learner = scenario(build("lwf", temperature=2), "class-incremental")
    learner.end_task(dataclasses.replace(tasks[0], classes=(0, 1)))
    old = torch.tensor([[5.0, 5.0, -100.0, 100.0]])
    new = torch.tensor([[2 * math.log(3), 0.0, 100.0, 7.0]])  # units 2 and 3 are not old
    found = learner.divergence(new, old)
    torch.testing.assert_close(found, torch.tensor([4 * math.log(2 / math.sqrt(3))]))
    torch.testing.assert_close(learner.divergence(old, old), torch.zeros(1))


@pytest.mark.parametrize(
    ("name", "groups"),
    [
        ("task-incremental", [[0, 2], [1, 3]]),
        ("class-incremental", [[0, 1, 2, 3]]),
        ("domain-incremental", [[0, 1, 2, 3]]),
    ],
)
def test_loss_is_cross_entropy_and_the_divergence_from_the_old_network(
    build: Build, tasks: list[Task], name: str, groups: list[list[int]]
) -> None:
    learner = scenario(build("lwf", strength=0.7, temperature=3), name)
    first, second, third = tasks
    if name != "domain-incremental":
        first, second = (
            dataclasses.replace(task, classes=classes)
            for task, classes in ((first, (0, 2)), (second, (3, 1)))
        )
    learn(learner, first)
    learn(learner, second)
    x, y = next(third.train.batches(20))
    with torch.no_grad():
        old = learner.forward(x)
    learner.observe(x, y, third)  # leaves the old network
    new = learner.forward(x)
    penalty = sum((kl(old[:, group], new[:, group], 3) for group in groups), torch.zeros(()))
    penalty = 0.7 * 9 * penalty
    whole = F.cross_entropy(new, y) + penalty
    parameters = list(learner.model.parameters())
    expected = torch.autograd.grad(whole, parameters)
    before = [p.detach().clone() for p in parameters]
    out = learner.observe(x, y, third)
    torch.testing.assert_close(out["penalty"], penalty.detach(), rtol=1e-3, atol=1e-7)
    torch.testing.assert_close(out["loss"], whole.detach())
    for one, two, g in zip(before, parameters, expected, strict=True):
        torch.testing.assert_close((one - two) / 0.1, g, rtol=1e-3, atol=1e-5)


def test_the_old_network_is_frozen_and_a_frozen_part_is_shared(
    build: Build, tasks: list[Task]
) -> None:
    learner = build("lwf")
    plain = learner.footprint()["bytes"]
    frozen, *_ = learner.model.parameters()
    frozen.requires_grad_(False)
    learn(learner, tasks[0])
    assert learner.old is not None
    kept = [p.clone() for p in learner.old.network.parameters()]
    learn_more = tasks[1].train.batches(8, seed=0)
    learner.train_mode(True)
    assert not learner.old.network.training
    for x, y in learn_more:
        learner.observe(x, y, tasks[1])
    assert all(map(torch.equal, kept, learner.old.network.parameters()))
    assert not any(p.requires_grad for p in learner.old.network.parameters())
    assert next(learner.old.network.parameters()) is frozen
    assert learner.footprint()["bytes"] == 2 * plain - 4 * frozen.numel()
