"""A layer's weights as rescaled old ones and a few directions more: the fit behind low-rank tasks.

    free  ~  rows * base * columns  +  left @ diag(values) @ right

The scales are least squares; what they leave, the residual, is factorised. With A the sum of free *
base over a convolution's window and Q that of base^2, every update of the scales is two products of
a matrix and a vector. Directions come from the Gram matrix of the residual's short side, in float64
(exact), or from a random projection (the leading ones only, where few are asked for).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Convolutions = Literal["window-mean", "reshape"]

LEAST = 1e-20
"""What denominators are raised to."""
EXTRA = 10
"""Random directions beyond those that are asked for."""
POWERS = 2
"""Times that the random projection is sharpened."""
FEWER = 3
"""How many times fewer directions than there are make the random projection worth its while."""
RELATIVE = 1e-5
"""Singular values below this share of the largest make the Gram matrix's vectors less than
orthogonal."""


@torch.no_grad()
def fit_scales(
    free: Tensor, base: Tensor, rounds: int = 1, released: bool = False
) -> tuple[Tensor, Tensor]:
    """Scales of rows and columns that bring old weights near new ones, by least squares.

    Args:
        free: the new weights; float [o, i, ...window].
        base: the old weights, of the same shape.
        rounds: the first fits rows with columns of 1, then columns given the rows; each further
            one rows given the columns, then columns given the rows.
        released: the columns as HALRP's released code has them, whose rows and columns broadcast
            to an outer product; ``rounds`` is ignored.

    Returns:
        rows [o] and columns [i]: free is about rows[:, None] * base * columns. Where base is 0
        throughout, so is the scale.

    Raises:
        ValueError: other shapes, or no rounds.
    """
    if free.shape != base.shape or free.dim() < 2:
        raise ValueError(f"weights of {tuple(free.shape)} beside weights of {tuple(base.shape)}")
    if rounds < 1:
        raise ValueError(f"{rounds} rounds")
    both, square = _over_window(free * base), _over_window(base.square())
    rows = both.sum(1) / square.sum(1).clamp_min(LEAST)
    if released:
        factor = rows.sum() / rows.square().sum().clamp_min(LEAST)
        return rows, factor * both.sum(0) / square.sum(0).clamp_min(LEAST)
    columns = (rows @ both) / (rows.square() @ square).clamp_min(LEAST)
    for _ in range(rounds - 1):
        rows = (both @ columns) / (square @ columns.square()).clamp_min(LEAST)
        columns = (rows @ both) / (rows.square() @ square).clamp_min(LEAST)
    return rows, columns


@torch.no_grad()
def residual(free: Tensor, base: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """What the scales leave: free - rows[:, None] * base * columns, of the shape of free."""
    scale = torch.outer(rows, columns)
    return torch.addcmul(free, scale.view(*scale.shape, *[1] * (free.dim() - 2)), base, value=-1)


@dataclass(frozen=True)
class Directions:
    """The leading singular directions of a layer's residual.

    Attributes:
        left: [o, q], orthonormal columns.
        values: singular values [q], descending, 0 or more.
        right: [q, n], orthonormal rows; n is i, or i * window for ``reshape``.
        energy: 0-d, the sum of all squared singular values, those of unknown directions included.
        count: how many directions there are, min(o, n); q of them are known.
    """

    left: Tensor
    values: Tensor
    right: Tensor
    energy: Tensor
    count: int

    def factors(self, rank: int) -> tuple[Tensor, Tensor]:
        """U [o, rank] and V [rank, n], whose product is the best of that rank, in equal shares: the
        columns of U and the rows of V have the square roots of the singular values as norms.

        Raises:
            ValueError: more directions than are known.
        """
        if not 0 <= rank <= len(self.values):
            raise ValueError(f"{rank} of {len(self.values)} directions")
        root = self.values[:rank].sqrt()
        return self.left[:, :rank] * root, root[:, None] * self.right[:rank]


@torch.no_grad()
def directions(
    residual: Tensor, convolutions: Convolutions = "window-mean", most: int | None = None
) -> Directions:
    """The singular directions of a layer's residual, deterministic, without global randomness.

    Args:
        residual: float [o, i, ...window].
        convolutions: a window becomes its mean, or its places become columns.
        most: how many directions will be used at most: where that is few of them, only the first
            ``most + EXTRA`` are found, nearly exactly. None: all, exactly.

    Raises:
        ValueError: fewer than one direction is asked for.
        torch.linalg.LinAlgError: a residual that is not finite.
    """
    if most is not None and most < 1:
        raise ValueError(f"{most} directions")
    matrix = residual
    if residual.dim() > 2:
        reshaped = convolutions == "reshape"
        matrix = residual.flatten(1) if reshaped else residual.flatten(2).mean(2)
    count = min(matrix.shape)
    energy = torch.linalg.vector_norm(matrix, dtype=torch.float64).square()
    if most is None or FEWER * (most + EXTRA) > count:
        found = _exact(matrix)
    else:
        found = _leading(matrix, most + EXTRA)
    left, values, right = (tensor.to(residual.dtype) for tensor in found)
    return Directions(left, values, right, energy.to(residual.dtype), count)


def _over_window(weights: Tensor) -> Tensor:
    """Sums [o, i] over the window of [o, i, ...window]."""
    return weights if weights.dim() == 2 else weights.flatten(2).sum(2)


def _exact(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """All singular directions of [o, n] in float64: left [o, q], values [q] and right [q, n]."""
    if matrix.shape[0] > matrix.shape[1]:
        left, values, right = _exact(matrix.T)
        return right.T, values, left.T
    matrix = matrix.double()
    left = torch.linalg.eigh(matrix @ matrix.T).eigenvectors.flip(1)
    right = left.T @ matrix
    # Norms keep the digits of small singular values that roots of eigenvalues lose.
    values = torch.linalg.vector_norm(right, dim=1).cummin(0).values
    right /= values.clamp_min(LEAST)[:, None]
    if bool(values[-1] < RELATIVE * values[0]) or not bool(values[0] > 0):
        orthogonal, signs = torch.linalg.qr(right.T)
        right = (orthogonal * torch.where(signs.diagonal() < 0, -1.0, 1.0)).T
    return left, values, right


def _leading(matrix: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """The first singular directions of [o, n], by a random projection (Halko et al. 2011, arXiv
    0909.4061, algorithms 4.4 and 5.1)."""
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randn(matrix.shape[1], size, generator=generator).to(matrix)
    basis = torch.linalg.qr(matrix @ drawn).Q
    for _ in range(POWERS):
        basis = torch.linalg.qr(matrix.T @ basis).Q
        basis = torch.linalg.qr(matrix @ basis).Q
    left, values, right = _exact(basis.T @ matrix)
    return basis.to(left.dtype) @ left, values, right
