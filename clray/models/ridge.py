"""Ridge regression onto the classes, from sums over a stream of examples.

With inputs h [M] made of an example's features, and y its class, one-hot, the stream is kept as
G = sum of h h' and Q = sum of h y', whatever its order; logits are h' (G + ridge I)^-1 Q. All is
float64.
"""

from __future__ import annotations

from abc import abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor

from clray.errors import Infeasible
from clray.models.feature_statistics import Rule, Solved, as_logits


class RidgeRegression(Solved):
    """The sums, in place of a model's head; what makes inputs of features is filled in.

    Args:
        width: M.
        num_classes: C.
        ridge: the knob ``method.ridge``.
        times: how often it is added to G's diagonal.
    """

    G: Tensor
    Q: Tensor
    counts: Tensor
    ridge: Tensor

    def __init__(self, width: int, num_classes: int, ridge: float, times: int = 1) -> None:
        super().__init__()
        self.register_buffer("G", torch.zeros(width, width, dtype=torch.float64))
        self.register_buffer("Q", torch.zeros(width, num_classes, dtype=torch.float64))
        self.register_buffer("counts", torch.zeros(num_classes, dtype=torch.int64))
        self.register_buffer("ridge", torch.tensor(ridge, dtype=torch.float64))
        self.times = times

    @abstractmethod
    def expand(self, features: Tensor) -> Tensor:
        """Inputs float64 [B, M] of features float32 [B, D]."""

    def add(self, features: Tensor, y: Tensor) -> None:
        """Count features float32 [B, D] with labels int64 [B]."""
        h, target = self.expand(features), self.target(y)
        self.G.addmm_(h.T, h)
        self.Q.addmm_(h.T, target)
        self.counts += target.sum(0).long()
        self.forget()

    def solve(self) -> Rule:
        """Weights [M, C] of the regression; biases are zero.

        Raises:
            Infeasible: the ridge is too small for the matrix to be positive definite in float64.
        """
        ridge = float(self.ridge)
        weights = ridge_solution(self.G, self.Q, ridge * self.times)
        if weights is None:
            raise Infeasible("method.ridge", ridge, "more: G is singular to rounding")
        return weights, weights.new_zeros(weights.shape[1])

    def forward(self, features: Tensor) -> Tensor:
        """Logits [B, C] for features float32 [B, D]; -inf for classes that were not seen."""
        return as_logits(self.scores(self.expand(features)), self.seen)

    @property
    def seen(self) -> Tensor:
        """bool [C]: the classes of which there was an example."""
        return self.counts > 0

    def target(self, y: Tensor) -> Tensor:
        """Labels int64 [B] as one-hot float64 [B, C]."""
        return F.one_hot(y, len(self.counts)).double()


def ridge_solution(G: Tensor, Q: Tensor, ridge: float) -> Tensor | None:
    """(G + ridge I)^-1 Q, [M, C]; None where the matrix is not positive definite to rounding."""
    matrix = G.clone()
    matrix.diagonal().add_(ridge)
    factor, failed = torch.linalg.cholesky_ex(matrix)
    return None if int(failed) else torch.cholesky_solve(Q, factor)
