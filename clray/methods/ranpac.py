"""RanPAC: ridge regression onto the classes, from a fixed random expansion of the features.

McDonnell, Gong, Parvaneh, Abbasnejad & van den Hengel 2023 (NeurIPS, arXiv 2307.02251), its second
phase alone: no adaptation of the encoder to the first task. Features z become h = max(0, W' z),
with W [D, M] drawn once from N(0, 1); the stream is kept as G = sum of h h' and Q = sum of h y', y
being one-hot, and logits are h' (G + ridge I)^-1 Q. G and Q do not depend on the order of examples.

``ridge``: a number makes the method blind to where tasks begin. None, the default, chooses it when
a task ends, as the paper does: of 10^-8, 10^-7 ... 10^9, the one with the least mean squared error
on a fifth of that task's training examples, every fifth in the (shuffled) order in which they came.
What is fitted for the choice is all of G and Q, old tasks too, less that fifth; the classifier then
has all of them. Values for which the matrix is not positive definite in float64 are passed over. A
task of fewer than five examples leaves the ridge as it was; before the first task has ended it is
1. This choice uses the end of a task, and nothing else does.

Differences:

- M is 2,000 (the paper's is 10,000): G takes 8 M^2 bytes, here 32 MB, there 800 MB.
- All of G is float64, in place of float32. On 1,000 examples at M = 2,000, the rounding of a
  float32 G makes it indefinite for every ridge below 1; float64 holds from 10^-8 on, and costs
  twice the time (65 against 31 ms for a batch of 256 on one core). Choosing the ridge solves 18
  times: about 5 s a task on one core, where each candidate's Cholesky alone takes 0.1 s.
- The released code fits each candidate, of 10^-8 to 10^8, on the current task alone.
- The best class's logit is shifted to 0; those of unseen classes are -inf.
"""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from clray.learner import MethodConfig, Setup
from clray.models.feature_statistics import OnePassLearner, num_features
from clray.models.ridge import RidgeRegression, ridge_solution
from clray.task import Task

RIDGES = tuple(10.0**power for power in range(-8, 10))
"""That are chosen from."""
FIRST_RIDGE = 1.0
"""Before one was chosen."""
EVERY = 5
"""One example in so many is held out to choose."""


class Config(MethodConfig):
    """Knobs of RanPAC."""

    dimension: int = Field(2000, ge=1)
    """Width M of the random expansion; memory grows with its square, time with its cube."""
    ridge: float | None = Field(None, gt=0)
    """Added to the diagonal of G; none: chosen on a fifth of each task, when it ends."""


class RandomRidge(RidgeRegression):
    """The random expansion and its ridge regression, in place of a model's head.

    Args:
        num_features: D.
        num_classes: C.
        dimension: M.
        ridge: to begin with.
        generator: draws the expansion, on the CPU.
    """

    projection: Tensor

    def __init__(
        self,
        num_features: int,
        num_classes: int,
        dimension: int,
        ridge: float,
        generator: torch.Generator,
    ) -> None:
        super().__init__(dimension, num_classes, ridge)
        projection = torch.randn(num_features, dimension, generator=generator)
        self.register_buffer("projection", projection)

    def expand(self, features: Tensor) -> Tensor:
        """Features [B, D], expanded to float64 [B, M]."""
        return (features @ self.projection).relu_().double()

    def choose(self, features: Tensor, y: Tensor) -> float:
        """Set the ridge to the one of ``RIDGES`` with the least error, and say which.

        Args:
            features, y: see ``errors``.
        """
        errors = self.errors(features, y)
        chosen = min(errors, key=errors.__getitem__)
        self.ridge.fill_(chosen)
        self.forget()
        return chosen

    def errors(self, features: Tensor, y: Tensor) -> dict[float, float]:
        """Mean squared error by ridge, of those that can be solved with.

        Args:
            features, y: float32 [B, D] and int64 [B] that were counted, are held out of what is
                fitted here, and give the error.
        """
        h, target = self.expand(features), self.target(y)
        G, Q = self.G.addmm(h.T, h, alpha=-1), self.Q.addmm(h.T, target, alpha=-1)
        errors = {}
        for ridge in RIDGES:
            weights = ridge_solution(G, Q, ridge)
            if weights is not None:
                errors[ridge] = float((h @ weights - target).square().mean())
        return errors


class Ranpac(OnePassLearner):
    """Sums the products of expanded features with themselves and with the classes."""

    def __init__(self, config: Config, setup: Setup) -> None:
        self.regression = RandomRidge(
            num_features(setup),
            setup.num_classes,
            config.dimension,
            FIRST_RIDGE if config.ridge is None else config.ridge,
            setup.generator,
        )
        super().__init__(config, setup, self.regression)
        self.choosing = config.ridge is None
        self.in_task = 0
        self.held_out: list[tuple[Tensor, Tensor]] = []

    def begin_task(self, task: Task) -> None:
        """Hold out examples of this task alone."""
        self.in_task, self.held_out = 0, []

    def count(self, features: Tensor, y: Tensor, task: Task) -> None:
        """Add features float32 [B, D] of classes int64 [B] to the sums."""
        features, y = self.distributed.gather(features), self.distributed.gather(y)
        self.regression.add(features, y)
        if self.choosing:
            first = (EVERY - 1 - self.in_task) % EVERY
            self.held_out.append((features[first::EVERY].clone(), y[first::EVERY].clone()))
            self.in_task += len(y)

    def end_task(self, task: Task) -> dict[str, Any] | None:
        """Choose the ridge, unless it was given; ``ridge`` in the record's facts."""
        if self.in_task < EVERY:
            return None
        features, y = (torch.cat(part) for part in zip(*self.held_out, strict=True))
        self.begin_task(task)
        return {"ridge": self.regression.choose(features, y)}
