"""How much a network grows by the tasks after its first, and pruning that keeps it in bounds.

Growth is the numbers that all later tasks add, over those of the first task's whole network. As
HALRP's authors count (arXiv 2311.15161), a later task adds its scales of rows and columns, the
entries of its factors that are not zero, the scales and shifts of its normalisations, and its head;
its biases, the running statistics and the places of sparse entries are not counted. A budget
is kept to here with the biases: it bounds all numbers that are learned and kept.
"""

from __future__ import annotations

import math
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor

from clray.errors import Infeasible
from clray.models.bitmask import largest

NOTHING = 1e-8
"""Entries of factors up to this size are not counted, as in the released code."""
LEAST = 1e-5
"""The released rule prunes all entries up to this size, whenever it prunes."""
FACTORS = ("pairs", "values")
"""The names that entries of factors are kept under."""
UNCOUNTED = ("bits", "running_mean", "running_var")
"""The names of what is kept beside numbers that were learned."""


@dataclass(frozen=True)
class Sizes:
    """How many numbers a network has, beneath its head and in it.

    Attributes:
        weights: of the layers that are decomposed.
        biases: of the same.
        scales: rows and columns of the same.
        norms: scales and shifts of the normalisations.
        features: inputs of the head.
    """

    weights: int
    biases: int
    scales: int
    norms: int
    features: int

    def head(self, classes: int) -> int:
        """Weights and biases of a head of so many classes."""
        return classes * (self.features + 1)

    def first(self, classes: int) -> int:
        """All numbers that the first task learns."""
        return self.weights + self.biases + self.norms + self.head(classes)

    def fixed(self, classes: int) -> int:
        """What a later task adds, as it is counted, beside its factors: nothing that pruning could
        take away."""
        return self.scales + self.norms + self.head(classes)

    def least(self, classes: int) -> int:
        """All that a later task learns and keeps beside its factors."""
        return self.fixed(classes) + self.biases


@dataclass(frozen=True)
class Taken:
    """What a later task has of its own.

    Attributes:
        counted: numbers, as HALRP's authors count.
        numbers: all that it learned and keeps, biases among them, zeros not.
        entries: of its factors that are not zero.
        bytes: of all tensors, with running statistics and the places of sparse entries.
    """

    counted: int
    numbers: int
    entries: int
    bytes: int

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor], layers: Container[str]) -> Taken:
        """Count the tensors of a task.

        Args:
            tensors: by place, a path and a part: ``encoder.0.rows``.
            layers: paths of those with factors, whose biases the authors do not count.
        """
        counted = numbers = entries = num_bytes = 0
        for place, value in tensors.items():
            path, _, part = place.rpartition(".")
            num_bytes += value.numel() * value.element_size()
            if part in UNCOUNTED:
                continue
            if part in FACTORS:
                entries += int(value.count_nonzero())
                counted += int((value.abs() > NOTHING).sum())
                continue
            numbers += value.numel()
            if part != "bias" or path not in layers:
                counted += value.numel()
        return cls(counted, numbers + entries, entries, num_bytes)


def share_of(growth: float, base: int, num_tasks: int) -> int:
    """How many numbers each later task may add, for all of them to keep to a growth.

    Args:
        growth: of the whole stream, taken as the decimal number that it is written as.
        base: numbers of the first task.
        num_tasks: of the stream, 2 or more.
    """
    return math.floor(Fraction(str(growth)) * base / (num_tasks - 1))


def check_growth(
    growth: float, sizes: Sizes, num_tasks: int, largest_task: int, num_classes: int
) -> None:
    """Refuse a growth that later tasks exceed without any factors.

    Classes of the first task are not known yet: as few as the stream leaves it are assumed, so that
    what is accepted can be kept to whatever the order of the tasks.

    Args:
        growth: of the whole stream.
        sizes: of the network.
        num_tasks: of the stream.
        largest_task: the most classes that a task has.
        num_classes: of the whole stream.

    Raises:
        Infeasible: with the arithmetic.
    """
    later = num_tasks - 1
    if later < 1:
        return
    base = sizes.first(max(1, num_classes - later * largest_task))
    each, least = share_of(growth, base, num_tasks), sizes.least(largest_task)
    if least <= each:
        return
    bound = math.ceil(100 * Fraction(least * later, base)) / 100
    head = sizes.head(largest_task)
    raise Infeasible(
        "method.growth",
        growth,
        f"{bound:.2f} or more: {growth} * {base} numbers of the first task / {later} later tasks "
        f"leave {each} to each, and each takes {least} before any factors ({sizes.scales} scales "
        f"of rows and columns, {sizes.biases} biases, {sizes.norms} of normalisations, {head} of a "
        f"head for {largest_task} classes)",
    )


def keep_largest(factors: Sequence[Tensor], number: int) -> list[Tensor]:
    """Which entries of a task's factors have the largest magnitude, all factors together.

    Args:
        factors: float, of any shapes.
        number: how many to keep: exactly so many, or all; of equal ones the first. 0 or less: none.

    Returns:
        bool, of the factors' shapes.
    """
    pooled = torch.cat([factor.detach().flatten() for factor in factors])
    if number >= len(pooled):
        chosen = torch.ones_like(pooled, dtype=torch.bool)
    elif number <= 0:
        chosen = torch.zeros_like(pooled, dtype=torch.bool)
    else:
        chosen = largest(pooled, number)
    parts = torch.split(chosen, [factor.numel() for factor in factors])
    return [part.view(factor.shape) for part, factor in zip(parts, factors, strict=True)]


def released_rate(growth: float, dense: float) -> float:
    """Share of each task's entries that the released rule prunes; 0: nothing is pruned.

    Args:
        growth: the budget.
        dense: the growth with all entries of all factors counted, zeros too.
    """
    return 0.0 if dense < growth else 1 - growth / dense


def released_bar(factors: Sequence[Tensor], rate: float) -> Tensor:
    """The size up to which the released rule prunes a task's entries; 0-d.

    It prunes all tasks again and again, and more is left than the budget: with a growth of f by
    what cannot be pruned and of I before pruning, the budget B becomes B + f (1 - B / I).

    Args:
        factors: of a task, zeros included; not empty.
        rate: see ``released_rate``.
    """
    sizes = torch.cat([factor.detach().flatten() for factor in factors]).abs().sort().values
    place = rate * (len(sizes) - 1)
    below = min(math.floor(place), len(sizes) - 1)
    above = min(below + 1, len(sizes) - 1)
    return torch.lerp(sizes[below], sizes[above], place - below).clamp_min(LEAST)
