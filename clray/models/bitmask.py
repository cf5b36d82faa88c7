"""Masks over weights: how many to keep, which ones, and one bit for each in store.

Bits are packed along the flattened weights, the first weight in the lowest bit of the first byte,
and padded with zeros: ``ceil(n / 8)`` bytes for n weights, the same on every machine.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import torch
from torch import Tensor


def pack(mask: Tensor) -> Tensor:
    """bool of any shape with n entries to uint8 [ceil(n / 8)]."""
    flat = mask.flatten()
    padding = -len(flat) % 8
    if padding:
        flat = torch.cat([flat, flat.new_zeros(padding)])
    return (flat.view(-1, 8) * _places(flat.device)).sum(1, dtype=torch.uint8)


def unpack(bits: Tensor, shape: torch.Size) -> Tensor:
    """uint8 [ceil(n / 8)] to bool of a shape with n entries."""
    mask = bits.unsqueeze(1).bitwise_and(_places(bits.device)) != 0
    return mask.flatten()[: shape.numel()].view(shape)


def count(bits: Tensor) -> int:
    """How many bits are set."""
    return int(unpack(bits, torch.Size([8 * len(bits)])).sum())


def _places(device: torch.device) -> Tensor:
    return torch.tensor([1, 2, 4, 8, 16, 32, 64, 128], dtype=torch.uint8, device=device)


def kept(density: float, n: int, released: bool = False) -> int:
    """How many of n weights a mask of that density keeps.

    Args:
        density: in (0, 1], taken as the decimal number that it is written as.
        n: 1 or more.
        released: count as the authors' code does, in floating point: one more for some (density,
            n), such as all of 10 at 0.9.

    Returns:
        ``density * n`` to the nearest, halves up; 1 at least.
    """
    if released:
        return n - math.floor((1 - density) * n)
    return min(n, max(1, math.floor(Fraction(str(density)) * n + Fraction(1, 2))))


def largest(scores: Tensor, number: int) -> Tensor:
    """Which entries have the largest magnitude: exactly ``number`` of them, and of equal ones the
    first; bool of the same shape.

    Args:
        scores: float, of any shape.
        number: 1 to all.
    """
    size = scores.detach().abs().flatten()
    chosen = _largest_on_host(size, number) if size.device.type == "cpu" else above(size, number)
    return chosen.view(scores.shape)


def above(size: Tensor, number: int) -> Tensor:
    """As ``largest``, of sizes [n], without waiting for the device."""
    bar = size.kthvalue(len(size) - number + 1).values
    chosen, level = size > bar, size == bar
    return chosen | (level & (level.cumsum(0) <= number - chosen.sum()))


def _largest_on_host(size: Tensor, number: int) -> Tensor:
    values = size.numpy()  # its selection is five times as fast as torch's
    bar = np.partition(values, len(values) - number)[len(values) - number]
    chosen = values > bar
    missing = number - int(np.count_nonzero(chosen))
    chosen[np.flatnonzero(values == bar)[:missing]] = True
    return torch.from_numpy(chosen)


@dataclass(frozen=True)
class Largest:
    """Selects the weights whose scores have the largest magnitudes.

    Attributes:
        number: how many.
    """

    number: int

    def __call__(self, scores: Tensor) -> Tensor:
        """bool of the scores' shape."""
        return largest(scores, self.number)

    def through(self, gradient: Tensor, scores: Tensor) -> Tensor:
        """The gradient of the mask, passed straight through to the scores' magnitudes."""
        return gradient * scores.sign()


@dataclass(frozen=True)
class NotNegative:
    """Selects the weights whose scores are 0 or more: about half of them, as it comes."""

    def __call__(self, scores: Tensor) -> Tensor:
        """bool of the scores' shape."""
        return scores.detach() >= 0

    def through(self, gradient: Tensor, scores: Tensor) -> Tensor:
        """The gradient of the mask, passed straight through to the scores."""
        return gradient


Selection = Largest | NotNegative


def erdos_renyi(shapes: list[torch.Size], density: float, cap: float | None) -> list[float] | None:
    """A density for each layer in proportion to (inputs + outputs) / weights.

    After SupSup (Wortsman et al. 2020, arXiv 2006.14769), which gives the factor of proportion
    instead: k_l = min(cap, s * (c_out + c_in) / (c_out * c_in * kh * kw)).

    Args:
        shapes: of the weights, outputs and inputs first.
        density: share of the weights of all layers together.
        cap: the most for one layer; None: 1.

    Returns:
        None where the cap leaves less than ``density``.
    """
    most = 1.0 if cap is None else cap
    sizes = [shape.numel() for shape in shapes]
    shares = [(shape[0] + shape[1]) / n for shape, n in zip(shapes, sizes, strict=True)]
    left, capped = density * sum(sizes), [False] * len(shapes)
    if left > most * sum(sizes) * (1 + 1e-9):
        return None
    while True:  # each round caps a layer, or ends
        open_ = [i for i, full in enumerate(capped) if not full]
        filled = most * sum(n for n, full in zip(sizes, capped, strict=True) if full)
        total = sum(shares[i] * sizes[i] for i in open_)
        scale = (left - filled) / total if open_ else 0.0
        over = [i for i in open_ if scale * shares[i] > most]
        if not over:
            return [most if capped[i] else scale * shares[i] for i in range(len(shapes))]
        for i in over:
            capped[i] = True
