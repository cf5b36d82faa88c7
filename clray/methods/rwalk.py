"""Riemannian walk: a quadratic pull by the Fisher information and by how well each weight paid.

Chaudhry, Dokania, Ajanthan & Torr 2018 (arXiv 1801.10112).

While tasks are learned, after every ``interval`` steps:

- the Fisher diagonal becomes F = alpha * (mean over these steps of g^2) + (1 - alpha) * F, where g
  is the gradient of the task's cross-entropy on the batch, alone; it goes on from task to task;
- each weight's score for the task grows by what it lowered the loss by, for the distance that it
  went, measured by how far the answers moved (the divergence of two near networks is
  1/2 F (theta - theta')^2):

      max(0, - sum over these steps of g * (theta after - theta before))
      / (1/2 F * (theta now - theta an interval ago)^2 + damping).

When the task ends, the score s is the mean of the task's and of what it was before (the first
task's: itself), and the loss of a stream of T tasks is from then on

    mean cross-entropy + strength / 2 * 1 / T * sum of (F / max F + s / max s) * (theta - theta*)^2,

where theta* are the latest weights and each maximum is over all weights of the network. All comes
from gradients that the steps take anyway: no example is read twice.

Differences:

- The paper and its code have neither 1 / 2 nor 1 / T: their lambda is ours / (2 T), so that
  lambda = 1 is a strength of 10 on five tasks, 20 on ten. The importances are no sum over tasks
  here, but normalised after each, so that a strength that suits grows with T.
- g is the gradient of a batch's mean, as in all code, where the Fisher diagonal needs each
  example's own: for batches of b, g^2 is about 1 / b of it, and the square of the mean gradient.
  This factor cancels in F / max F, but not beside ``damping``. With the authors' 0.001, the
  default, the distance in a score hardly counts: on MNIST with SGD at 0.1 it is below 0.0001 for
  every weight, the scores are path integrals (as SI's) over ``damping``, and that cancels as well.
  From 0.001 down to 1e-7, the accuracy there stays the same.
- The paper writes a moving average over steps; as in the authors' code, it is one over means of
  ``interval`` steps. Avalanche's, over single steps, is nearly the last batch's g^2 alone.
- An interval is scored by the F that includes it, as in Avalanche: by the F before it, the first
  one would have none. The authors' code has no 1 / 2 before F. Avalanche's damping is 1e-7. FACIL
  scores a whole task at once, by a Fisher diagonal from another pass, and normalises nothing.
- A last interval of n steps that the task cuts short counts as well, with a share of
  1 - (1 - alpha)^(n / interval) in place of alpha; in other code it is lost.
- The mean of scores is the paper's: its code (published with A-GEM) adds that mean to the old score
  instead. Values below zero are cut in each interval, as in that code; Avalanche cuts the sum.
- The paper's examples of old tasks, kept and replayed, are left out.

No importance exceeds 2: with SGD, the penalty alone makes nothing diverge while lr * strength / T
is below 1, and does soon after.
"""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from clray.learner import Setup
from clray.models.path_integral import PathPenalty
from clray.models.quadratic import learned_weights
from clray.models.weight_penalty import PenaltyConfig
from clray.spec import STABILITY
from clray.task import Task


class Config(PenaltyConfig):
    """Knobs of Riemannian walk."""

    strength: Annotated[float, STABILITY] = Field(10.0, ge=0)
    """Weight of the penalty, against a mean cross-entropy of 1."""
    alpha: Annotated[float, STABILITY] = Field(0.9, gt=0, le=1)
    """Share of the latest interval in the Fisher diagonal."""
    interval: Annotated[int, STABILITY] = Field(10, ge=1)
    """Steps between updates of the Fisher diagonal and the scores."""
    damping: Annotated[float, STABILITY] = Field(1e-3, gt=0)
    """Added to the distance in a score (epsilon in the paper): bounds the score of weights that
    hardly moved."""


class Rwalk(PathPenalty):
    """Cross-entropy on the current batch, and a penalty for leaving the weights that paid."""

    config: Config

    def __init__(self, config: Config, setup: Setup) -> None:
        super().__init__(config, setup)
        self.fisher: dict[str, Tensor] = {}
        self.scores: dict[str, Tensor] = {}
        self.task_scores: dict[str, Tensor] = {}
        self.squares: dict[str, Tensor] = {}
        self.steps = 0

    def begin_task(self, task: Task) -> None:
        """Begin the first interval, with all scores of the task at zero."""
        super().begin_task(task)
        self.squares, self.task_scores = self._zeros(), self._zeros()
        self.fisher = self.fisher or self._zeros()

    def observe(self, x: Tensor, y: Tensor, task: Task) -> dict[str, Tensor]:
        """One step on uint8 [B, C, H, W] and int64 [B]; returns the loss and its penalty."""
        out, gradients = self.follow(x, y)
        found = list(gradients.values())
        torch._foreach_addcmul_([self.squares[name] for name in gradients], found, found)
        self.steps += 1
        if self.steps >= self.config.interval:
            self._end_interval()
        return out

    def end_task(self, task: Task) -> None:
        """Turn Fisher diagonal and scores into importances, and move the quadratic here."""
        if self.steps > 0:
            self._end_interval()
        for name, new in self.task_scores.items():
            old = self.scores.get(name, new)
            self.scores[name] = (old + new) / 2
        fisher, scores = _normalised(self.fisher), _normalised(self.scores)
        importance = {name: value + scores[name] for name, value in fisher.items()}
        self.quadratic.move(self.model, importance, decay=0)
        self.squares, self.task_scores = {}, {}
        self.end_path()

    @torch.no_grad()
    def _end_interval(self) -> None:
        """Take the interval into the Fisher diagonal and the scores, and begin another."""
        known = learned_weights(self.model)
        weights: list[Tensor] = list(known.values())
        fisher, squares, start, path, scores = (
            [values[name] for name in known]
            for values in (self.fisher, self.squares, self.start, self.path, self.task_scores)
        )
        share = 1 - (1 - self.config.alpha) ** (self.steps / self.config.interval)
        torch._foreach_mul_(fisher, 1 - share)
        torch._foreach_add_(fisher, squares, alpha=share / self.steps)
        moved = torch._foreach_sub(weights, start)
        distance = torch._foreach_mul(fisher, 0.5)
        torch._foreach_mul_(distance, moved)
        torch._foreach_mul_(distance, moved)
        torch._foreach_add_(distance, self.config.damping)
        gains = torch._foreach_clamp_min(path, 0.0)
        torch._foreach_addcdiv_(scores, gains, distance)
        torch._foreach_zero_(squares)
        self.steps = 0
        self.begin_path()

    def _zeros(self) -> dict[str, Tensor]:
        weights = learned_weights(self.model)
        return {name: torch.zeros_like(p, requires_grad=False) for name, p in weights.items()}

    def footprint(self) -> dict[str, int]:
        """The model's, and the bytes of importances, old weights, Fisher diagonal and scores."""
        kept = super().footprint()
        own = [*self.fisher.values(), *self.scores.values()]
        return {**kept, "bytes": kept["bytes"] + sum(t.numel() * t.element_size() for t in own)}


def _normalised(values: dict[str, Tensor]) -> dict[str, Tensor]:
    """All divided by the largest one, that of all tensors, into [0, 1]; zeros as they are."""
    largest = torch.stack([value.max() for value in values.values()]).max()
    largest = largest.clamp_min(torch.finfo(largest.dtype).tiny)
    return {name: value / largest for name, value in values.items()}
