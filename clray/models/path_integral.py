"""Each weight's part in what a task's loss has lost, summed along the path of learning.

A step from theta to theta' lowers the loss by - sum over weights of g * (theta' - theta), to first
order, where g is the gradient of the task's cross-entropy on the batch, alone: the penalty, which
moves the weights too, has no part in g. The summands, added up over steps, are each weight's path
integral (Zenke, Poole & Ganguli 2017, arXiv 1703.04200).
"""

from __future__ import annotations

import torch
from torch import Tensor

from clray.learner import Setup
from clray.models.quadratic import learned_weights
from clray.models.weight_penalty import PenaltyConfig, WeightPenalty
from clray.task import Task

Gradients = dict[str, Tensor]
"""Of the cross-entropy alone, over all workers' examples and before any clipping, by weight."""


class PathPenalty(WeightPenalty):
    """A weight penalty that follows the path of learning.

    Attributes:
        start: the weights where the path began, by name.
        path: their path integrals since.
    """

    def __init__(self, config: PenaltyConfig, setup: Setup) -> None:
        super().__init__(config, setup)
        self.start: dict[str, Tensor] = {}
        self.path: dict[str, Tensor] = {}

    def begin_task(self, task: Task) -> None:
        """Begin a path at the weights as they are."""
        self.begin_path()

    def begin_path(self) -> None:
        """Note the weights that are learned now, and start the path integral of each at zero."""
        for name, theta in learned_weights(self.model).items():
            self.start[name] = theta.detach().clone()
            self.path[name] = torch.zeros_like(self.start[name])

    def end_path(self) -> None:
        """Keep nothing of it."""
        self.start, self.path = {}, {}

    def observe(self, x: Tensor, y: Tensor, task: Task) -> dict[str, Tensor]:
        """One step on uint8 [B, C, H, W] and int64 [B]; returns the loss and its penalty."""
        out, _ = self.follow(x, y)
        return out

    def follow(self, x: Tensor, y: Tensor) -> tuple[dict[str, Tensor], Gradients]:
        """One step, which is added to the path; what ``observe`` returns, and the gradients."""
        known = learned_weights(self.model)
        weights: list[Tensor] = list(known.values())
        loss = self.cross_entropy(self.forward_augmented(x), y)
        gradients = self._gradients(loss, weights)
        before = [p.detach().clone() for p in weights]  # a step writes into the weights themselves
        # Linear in the weights, with these gradients: the network is gone back through only once.
        linear = torch.stack(
            [torch.dot(g.flatten(), p.flatten()) for g, p in zip(gradients, weights, strict=True)]
        ).sum()
        out = {"loss": loss.detach()}
        if not self.quadratic.empty:
            penalty = self.penalty()
            linear = linear + penalty
            out = {"loss": (loss + penalty).detach(), "penalty": penalty.detach()}
        self.step(linear)
        with torch.no_grad():
            moved = torch._foreach_sub(weights, before)
            path = [self.path[name] for name in known]
            torch._foreach_addcmul_(path, gradients, moved, value=-1)
        return out, dict(zip(known, gradients, strict=True))

    def _gradients(self, loss: Tensor, weights: list[Tensor]) -> tuple[Tensor, ...]:
        found = torch.autograd.grad(loss, weights, allow_unused=True, materialize_grads=True)
        if self.distributed.world == 1:
            return found
        flat = torch.cat([g.flatten() for g in found])
        flat = self.distributed.sum(flat) / self.distributed.world
        parts = torch.split(flat, [g.numel() for g in found])
        return tuple(part.view_as(g) for part, g in zip(parts, found, strict=True))
