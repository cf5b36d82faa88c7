"""Approximations of a positive semi-definite curvature matrix, layer by layer.

Of each layer's weights, as G matrices [O, I] (``clray/models/matrix_layers.py``), a block knows the
product of the curvature with a step V [G, O, I] of these weights:

- ``Diagonal``: a number for each weight;
- ``Kronecker``: S V A, from a matrix S [G, O, O] of output gradients and one A [G, I, I] of inputs
  (Martens & Grosse 2015, arXiv 1503.05671), or that times what gives it a known trace (Gao et al.
  2021, arXiv 2011.10741);
- ``Rotated``: a number for each pair of an eigenvector of S and one of A (George et al. 2018, arXiv
  1806.03884);
- ``Summed``: several of them.

``mix`` makes the curvature of two tasks into their weighted mean: exact for ``Diagonal``; factor by
factor otherwise, which is an approximation unless a factor is the same in both. ``Summed`` is exact
and grows with each task.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor


class Block(ABC):
    """The curvature of one layer."""

    @abstractmethod
    def times(self, step: Tensor) -> Tensor:
        """Its product with a step [G, O, I]."""

    @abstractmethod
    def mix(self, other: Any, share: float) -> Self:
        """The mean with another one of the same kind and shapes, which weighs ``share``."""

    @property
    @abstractmethod
    def tensors(self) -> list[Tensor]:
        """All that is kept."""


@dataclass(frozen=True)
class Diagonal(Block):
    """``values`` [G, O, I]."""

    values: Tensor

    def times(self, step: Tensor) -> Tensor:
        """See ``Block.times``."""
        return self.values * step

    def mix(self, other: Diagonal, share: float) -> Diagonal:
        """See ``Block.mix``."""
        return Diagonal(self.values.lerp(other.values, share))

    @property
    def tensors(self) -> list[Tensor]:
        """See ``Block.tensors``."""
        return [self.values]


@dataclass(frozen=True)
class Kronecker(Block):
    """``outputs`` S [G, O, O], ``inputs`` A [G, I, I]; ``trace`` [G] of the block, or None: what
    the product of the two has."""

    outputs: Tensor
    inputs: Tensor
    trace: Tensor | None = None

    def times(self, step: Tensor) -> Tensor:
        """See ``Block.times``."""
        found = self.outputs @ step @ self.inputs
        if self.trace is None:
            return found
        product = trace(self.outputs) * trace(self.inputs)
        return found * torch.where(product > 0, self.trace / product, 0.0)[:, None, None]

    def mix(self, other: Kronecker, share: float) -> Kronecker:
        """See ``Block.mix``."""
        mixed = [
            mine.lerp(its, share) for mine, its in zip(self.tensors, other.tensors, strict=True)
        ]
        return Kronecker(*mixed)

    @property
    def tensors(self) -> list[Tensor]:
        """See ``Block.tensors``."""
        return [t for t in (self.outputs, self.inputs, self.trace) if t is not None]


@dataclass(frozen=True)
class Rotated(Block):
    """``factors``, their eigenvectors [G, O, O] and [G, I, I] as columns, and ``moments``
    [G, O, I], the curvature along each pair of eigenvectors."""

    factors: Kronecker
    outputs: Tensor
    inputs: Tensor
    moments: Tensor

    @classmethod
    def of(cls, factors: Kronecker) -> Rotated:
        """In the factors' eigenvectors, without moments yet."""
        outputs, inputs = _eigenvectors(factors.outputs), _eigenvectors(factors.inputs)
        shape = (len(outputs), outputs.shape[1], inputs.shape[1])
        return cls(factors, outputs, inputs, outputs.new_zeros(shape))

    def rotate(self, steps: Tensor) -> Tensor:
        """Steps [..., G, O, I] along the eigenvectors."""
        return self.outputs.mT @ steps @ self.inputs

    def times(self, step: Tensor) -> Tensor:
        """See ``Block.times``."""
        return self.outputs @ (self.moments * self.rotate(step)) @ self.inputs.mT

    def mix(self, other: Rotated, share: float) -> Rotated:
        """See ``Block.mix``: the moments of both along the eigenvectors of the mixed factors."""
        new = Rotated.of(self.factors.mix(other.factors, share))
        moments = self._along(new).lerp(other._along(new), share)
        return Rotated(new.factors, new.outputs, new.inputs, moments)

    def _along(self, other: Rotated) -> Tensor:
        """The curvature along other eigenvectors: the diagonal of the rotated block."""
        left = (other.outputs.mT @ self.outputs).square()
        right = (self.inputs.mT @ other.inputs).square()
        return left @ self.moments @ right

    @property
    def tensors(self) -> list[Tensor]:
        """See ``Block.tensors``."""
        return [*self.factors.tensors, self.outputs, self.inputs, self.moments]


@dataclass(frozen=True)
class Outputs(Block):
    """Of a linear layer whose outputs each have a squared loss of their own: I x A, exactly.

    ``rows`` bool [O], those that compete, and ``inputs`` A [I, I], or its diagonal [I].

    An output that no example named yet was right to be zero on all of them: with weights of zero it
    is where old tasks want it, and A is how much they do. So outputs that join later are pulled
    like all others.
    """

    rows: Tensor
    inputs: Tensor

    def times(self, step: Tensor) -> Tensor:
        """See ``Block.times``."""
        product = step * self.inputs if self.inputs.dim() == 1 else step @ self.inputs
        return product * self.rows[:, None]

    def mix(self, other: Outputs, share: float) -> Outputs:
        """See ``Block.mix``: exact."""
        return Outputs(self.rows | other.rows, self.inputs.lerp(other.inputs, share))

    @property
    def tensors(self) -> list[Tensor]:
        """See ``Block.tensors``."""
        return [self.rows, self.inputs]


@dataclass(frozen=True)
class Summed(Block):
    """``blocks``, each times its weight; the weights add up to 1."""

    blocks: tuple[Block, ...]
    weights: tuple[float, ...]

    def times(self, step: Tensor) -> Tensor:
        """See ``Block.times``."""
        pairs = zip(self.blocks, self.weights, strict=True)
        return torch.stack([block.times(step) * weight for block, weight in pairs]).sum(0)

    def mix(self, other: Summed, share: float) -> Summed:
        """See ``Block.mix``."""
        weights = [w * (1 - share) for w in self.weights] + [w * share for w in other.weights]
        return Summed(self.blocks + other.blocks, tuple(weights))

    @property
    def tensors(self) -> list[Tensor]:
        """See ``Block.tensors``."""
        return [t for block in self.blocks for t in block.tensors]


def joined(block: Block, rows: Tensor) -> Block:
    """The block once these outputs, bool [O], compete as well; any but ``Outputs`` as it is."""
    if isinstance(block, Outputs):
        return Outputs(block.rows | rows, block.inputs)
    if isinstance(block, Summed):
        return Summed(tuple(joined(each, rows) for each in block.blocks), block.weights)
    return block


def _eigenvectors(matrices: Tensor) -> Tensor:
    """Of each of [G, N, N], positive semi-definite, as columns; in float64, since in float32 the
    search may not end where eigenvalues are tiny.

    What is zero in all of them stands for itself and is not searched, which may not end either: of
    a 3 x 3 convolution of one place, eight inputs in nine.
    """
    seen = matrices.diagonal(dim1=1, dim2=2).any(0).nonzero()[:, 0]
    found = torch.eye(matrices.shape[1]).to(matrices).repeat(len(matrices), 1, 1)
    inner = matrices[:, seen][:, :, seen].double()
    found[:, seen[:, None], seen] = torch.linalg.eigh(inner).eigenvectors.to(matrices.dtype)
    return found


def trace(matrices: Tensor) -> Tensor:
    """Of each of [G, N, N]: [G]."""
    return matrices.diagonal(dim1=1, dim2=2).sum(1)
