"""Ridge regression onto the classes, from a frozen encoder's features: a probe that is exact.

The control of DLCFT (Shon et al. 2022, arXiv 2208.08112): its objective where the encoder stays as
it is. The squared loss of a linear layer is a quadratic, and all old examples' is known from
G = sum of h h' and Q = sum of h y', h being an example's features and a one, y its class, one-hot.
So tasks in any order, in batches of any size, give what all examples at once give:

    (G + ridge N I)^-1 Q,   N the examples of the whole stream.

If a linearised encoder does no better than this, its steps add nothing.

Class-incremental, old examples' target for a new class is 0, and so is their sum in Q: new classes
are exact as well. Task-incremental, each task's outputs are regressed on its examples alone, and
stay as they are when it has ended; what is kept beside them does not grow with tasks.

``ridge`` is a number, the same and as often counted as ``dlcft``'s, so that the two differ by what
learns and can be searched alike. Chosen on part of the last task, as ``ranpac`` chooses it, the
answers would depend on the order of tasks. The scale of targets changes no answer: it is 1 here.
The bias is pulled to zero like all weights. Examples come without augmentation, once. The best
class's logit is shifted to 0; those of unseen classes are -inf.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from clray.learner import MethodConfig, Setup
from clray.models.feature_statistics import OnePassLearner, Rule, num_features
from clray.models.ridge import RidgeRegression
from clray.task import Task


class Config(MethodConfig):
    """Knobs of the ridge probe."""

    ridge: float = Field(1e-5, gt=0)
    """Pull of every weight towards zero, per example of the whole stream; counted once, not once
    for each task."""


class AffineRidge(RidgeRegression):
    """Ridge regression with a bias, in place of a model's head.

    Args:
        num_features: D.
        num_classes: C.
        ridge: for each example.
        num_examples: N.
        by_task: whether outputs are settled task by task.
    """

    settled: Tensor | None

    def __init__(
        self, num_features: int, num_classes: int, ridge: float, num_examples: int, by_task: bool
    ) -> None:
        super().__init__(num_features + 1, num_classes, ridge, num_examples)
        self.register_buffer("settled", torch.zeros_like(self.Q) if by_task else None)

    def expand(self, features: Tensor) -> Tensor:
        """Features [B, D] and a one: float64 [B, D + 1]."""
        return F.pad(features.double(), (0, 1), value=1.0)

    def solve(self) -> Rule:
        """Weights [D + 1, C]: those that are settled, and the solution for all others."""
        weights, biases = super().solve()
        return weights if self.settled is None else weights + self.settled, biases

    def settle(self) -> None:
        """Fix the weights of all classes that were seen, and begin the sums anew."""
        if self.settled is not None:
            self.settled.copy_(self.solve()[0])
            for total in (self.G, self.Q, self.counts):
                total.zero_()
            self.forget()

    @property
    def seen(self) -> Tensor:
        """bool [C]: the classes of which there was an example."""
        return super().seen if self.settled is None else super().seen | self.settled.any(0)


class RidgeProbe(OnePassLearner):
    """Sums the products of features with themselves and with the classes."""

    def __init__(self, config: Config, setup: Setup) -> None:
        self.regression = AffineRidge(
            num_features(setup),
            setup.num_classes,
            config.ridge,
            setup.num_examples,
            setup.scenario == "task-incremental",
        )
        super().__init__(config, setup, self.regression)

    def count(self, features: Tensor, y: Tensor, task: Task) -> None:
        """Add features float32 [B, D] of classes int64 [B] to the sums."""
        self.regression.add(self.distributed.gather(features), self.distributed.gather(y))

    def end_task(self, task: Task) -> dict[str, Any] | None:
        """Where the task is told: its outputs are what they are."""
        self.regression.settle()
        return None
