"""Tasks whose weights are alike are put into groups, which keep once what their tasks share.

The hierarchical consolidation of Yoon et al. 2020 (arXiv 1902.09432), one layer at a time: k-means
over the tasks' numbers; then, within a group, the places at which all tasks agree go to the group.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

ROUNDS = 100
"""Most rounds of k-means, as in the authors' code."""


def clustered(
    points: Tensor, number: int, before: Sequence[int], generator: torch.Generator
) -> list[int]:
    """Which cluster each point belongs to, by k-means.

    Centres stay means of points, so that all distances follow from the points' products.

    Args:
        points: [n, D].
        number: of clusters; n at most are used, and some may stay empty.
        before: clusters of the first points, where these were known: such clusters begin there, the
            others at points that are drawn.
        generator: on the CPU.
    """
    n = len(points)
    centred = points - points.mean(0)
    products = (centred @ centred.T).double().cpu()
    drawn = torch.randperm(n, generator=generator)[:number]
    centres = torch.eye(n, dtype=torch.float64)[drawn]
    labels = torch.tensor([*before, *[-1] * (n - len(before))])
    for _ in range(ROUNDS):
        members = (labels == torch.arange(len(centres))[:, None]).double()
        sizes = members.sum(1, keepdim=True)
        centres = torch.where(sizes > 0, members / sizes.clamp_min(1), centres)
        across = centres @ products
        nearest = ((across * centres).sum(1, keepdim=True) - 2 * across).argmin(0)
        if torch.equal(nearest, labels):
            break
        labels = nearest
    return [int(label) for label in labels]


def split(
    points: Tensor, labels: Sequence[int], number: int, tolerance: float
) -> tuple[Tensor, Tensor]:
    """Part each group's numbers into those that its points share and those that they do not.

    Where the largest and the smallest of a group differ by at most ``tolerance``, the group keeps
    the middle of the two and its points nothing; elsewhere points keep what they have. A point that
    is alone in its group keeps everything.

    Args:
        points: [n, ...].
        labels: the group of each.
        number: of groups.
        tolerance: 0 or more.

    Returns:
        What the points keep, [n, ...], and what the groups keep, [number, ...].
    """
    own, common = points.clone(), points.new_zeros(number, *points.shape[1:])
    for label in range(number):
        members = [i for i, other in enumerate(labels) if other == label]
        if len(members) > 1:
            most, least = points[members].amax(0), points[members].amin(0)
            alike = most - least <= tolerance
            common[label] = torch.where(alike, (most + least) / 2, 0.0)
            own[members] = torch.where(alike, 0.0, points[members])
    return own, common
