"""What regularisers by importance share, with and without a path."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from clray.models.path_integral import PathPenalty
from clray.models.weight_penalty import PenaltyConfig, WeightPenalty
from clray.streams.examples import TensorExamples
from clray.task import Task
from tests.methods.conftest import small_learner


class Held(WeightPenalty):
    """Holds every weight where the task leaves it, each with an importance of its own."""

    def end_task(self, task: Task) -> None:
        importance = {name: values(p) for name, p in self.model.named_parameters()}
        self.quadratic.move(self.model, importance)


class HeldOnAPath(PathPenalty):
    """The same."""

    end_task = Held.end_task


def values(p: Tensor) -> Tensor:
    return torch.linspace(0, 1, p.numel()).view_as(p)


def made(kind: type[Held | HeldOnAPath], strength: float) -> WeightPenalty:
    return kind(PenaltyConfig(strength=strength), small_learner("finetune").setup)


@pytest.fixture
def task() -> Task:
    torch.manual_seed(1)
    images = torch.randint(256, (20, 1, 6, 6), dtype=torch.uint8)
    examples = TensorExamples(images, torch.randint(4, (20,)), torch.arange(20))
    return Task(0, "0", (0, 1, 2, 3), examples, examples)


@pytest.mark.parametrize("kind", [Held, HeldOnAPath])
def test_a_step_is_that_of_cross_entropy_and_penalty(
    kind: type[Held | HeldOnAPath], task: Task
) -> None:
    learner = made(kind, strength=7)
    x, y = next(task.train.batches(20))
    learner.begin_task(task)
    first = learner.observe(x, y, task)
    assert "penalty" not in first
    plain = learner.footprint()["bytes"]
    learner.end_task(task)
    assert learner.footprint()["bytes"] == 3 * plain
    centre = {name: p.detach().clone() for name, p in learner.model.named_parameters()}
    learner.begin_task(task)
    learner.observe(x, y, task)  # leaves the centre
    parts = [
        (values(p) * (p - centre[name]).square()).sum()
        for name, p in learner.model.named_parameters()
    ]
    penalty = 7 / (2 * 5) * torch.stack(parts).sum()  # a stream of five tasks
    loss = F.cross_entropy(learner.forward(x), y) + penalty
    parameters = list(learner.model.parameters())
    gradients = torch.autograd.grad(loss, parameters)
    before = [p.detach().clone() for p in parameters]
    out = learner.observe(x, y, task)
    assert penalty > 0
    torch.testing.assert_close(out["penalty"], penalty.detach())
    torch.testing.assert_close(out["loss"], loss.detach())
    for old, new, g in zip(before, parameters, gradients, strict=True):
        torch.testing.assert_close((old - new.detach()) / 0.1, g, rtol=1e-3, atol=1e-5)


def test_a_path_can_begin_in_the_midst_of_a_task(task: Task) -> None:
    """Of weights that are not learned just then, the path stays as it is."""
    learner = small_learner("si")
    assert isinstance(learner, PathPenalty)
    x, y = next(task.train.batches(20))
    learner.begin_task(task)
    learner.observe(x, y, task)
    first = dict(learner.path)
    frozen, *_ = names = list(learner.path)
    learner.model.get_parameter(frozen).requires_grad_(False)
    learner.begin_path()
    assert torch.equal(learner.path[frozen], first[frozen])
    assert first[frozen].any()
    for name in names[1:]:
        assert not learner.path[name].any()
        assert torch.equal(learner.start[name], learner.model.get_parameter(name))
