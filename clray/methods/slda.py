"""Streaming linear discriminant analysis: class means, and one covariance for all classes.

Hayes & Kanan 2020 (CVPR workshops, arXiv 1909.01520). With class means mu_k and the within-class
covariance S, both of the stream so far, the logit of class k for features z is

    mu_k' P z - mu_k' P mu_k / 2,   P = ((1 - shrinkage) S + shrinkage I)^-1,

that of Gaussian classes which are equally likely a priori. With a shrinkage of 1 it is the nearest
class mean.

Differences:

- The paper adds t / (t + 1) (z - mu)(z - mu)' to the scatter for the example after t others, mu
  being its class's mean before it, or 0 for the first of a class, which so adds all of z z'. Ours
  has the class's own count in place of t, which makes the scatter exactly that around the class
  means, whatever the order of examples; it is merged batch by batch (Chan, Golub & LeVeque 1983,
  doi 10.1080/00031305.1983.10483115). The paper first fits a base of 100 or more classes at once,
  with a shrunk covariance of its own (OAS), and streams from there; here all is streamed.
- Everything is float64, solved by Cholesky when asked for after a change (the released code, in
  float32, inverts). The best class's logit is shifted to 0; those of unseen classes are -inf.

An option of the paper holds the covariance fixed after the base; there is no base here.
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from clray.learner import MethodConfig, Setup
from clray.models.feature_statistics import (
    ClassMeans,
    OnePassLearner,
    Rule,
    Solved,
    as_logits,
    num_features,
)
from clray.task import Task


class Config(MethodConfig):
    """Knobs of streaming linear discriminant analysis."""

    shrinkage: float = Field(1e-4, gt=0, le=1)
    """Weight of the identity against the covariance (epsilon in the paper)."""


class Discriminant(Solved):
    """Class means and within-class scatter, in place of a model's head.

    Args:
        num_features: D.
        num_classes: C.
        shrinkage: see ``Config``.
    """

    scatter: Tensor

    def __init__(self, num_features: int, num_classes: int, shrinkage: float) -> None:
        super().__init__()
        self.classes = ClassMeans(num_features, num_classes)
        scatter = torch.zeros(num_features, num_features, dtype=torch.float64)
        self.register_buffer("scatter", scatter)
        self.shrinkage = shrinkage

    def add(self, features: Tensor, y: Tensor) -> None:
        """Merge features [B, D] with labels int64 [B] into the statistics."""
        gap = features.double() - self.classes.means[y]
        self.classes.add(features, y)
        # Around the new means: less the outer product of each class's sum of gaps, over its count.
        shared = (y.unsqueeze(1) == y) / self.classes.counts[y].double()
        self.scatter.addmm_(gap.T, gap - shared @ gap)
        self.forget()

    @property
    def covariance(self) -> Tensor:
        """The within-class covariance float64 [D, D], over the number of examples."""
        return self.scatter / self.classes.counts.sum().clamp_min(1)

    def solve(self) -> Rule:
        """Weights [D, C] and biases [C] of the discriminant."""
        matrix = (1 - self.shrinkage) * self.covariance
        matrix.diagonal().add_(self.shrinkage)
        means = self.classes.means.T
        weights = torch.cholesky_solve(means, torch.linalg.cholesky(matrix))
        return weights, -(means * weights).sum(0) / 2

    def forward(self, features: Tensor) -> Tensor:
        """Logits [B, C] for features [B, D]."""
        return as_logits(self.scores(features.double()), self.classes.seen)


class Slda(OnePassLearner):
    """Gathers class means and the scatter around them."""

    def __init__(self, config: Config, setup: Setup) -> None:
        width = num_features(setup)
        self.discriminant = Discriminant(width, setup.num_classes, config.shrinkage)
        super().__init__(config, setup, self.discriminant)

    def count(self, features: Tensor, y: Tensor, task: Task) -> None:
        """Merge features float32 [B, D] of classes int64 [B] into the statistics."""
        self.discriminant.add(self.distributed.gather(features), self.distributed.gather(y))
