"""A surface over scattered points: a mean of the points around, by distance."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

CELLS = 18
"""Cells of the surface along each side."""
REACH = 0.09
"""How far a point reaches: the standard deviation of its weight, the side being 1."""
NEAR = 0.3
"""A cell with less weight than this has no point near, and is left out."""


def surface(points: Sequence[tuple[float, float, float]]) -> list[tuple[int, int, float]]:
    """The cells that have points near, with the mean of the points by Gaussian weights.

    Args:
        points: (x, y, value), the places from 0 to 1.

    Returns:
        (column, row, value) of each such cell.
    """
    places = np.array([point[:2] for point in points])
    values = np.array([point[2] for point in points])
    middles = (np.arange(CELLS) + 0.5) / CELLS
    grid = np.stack(np.meshgrid(middles, middles, indexing="ij"), axis=-1).reshape(-1, 1, 2)
    # fewer points reach further, so that a search of 10 trials shows something as well
    reach = REACH * max(1.0, (60 / len(values)) ** 0.25)
    weights = np.exp(-((grid - places) ** 2).sum(-1) / (2 * reach**2))
    total = weights.sum(1)
    means = weights @ values / np.maximum(total, 1e-300)
    return [
        (int(n) // CELLS, int(n) % CELLS, float(means[n])) for n in np.flatnonzero(total >= NEAR)
    ]
