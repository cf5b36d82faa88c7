"""Groups: k-means finds what is apart, and a group keeps where its points agree."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from clray.models.consolidation import clustered, split


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def lloyd(points: Tensor, centres: Tensor) -> list[int]:
    """k-means in coordinates, for centres none of which is left empty."""
    for _ in range(100):
        nearest = torch.cdist(points, centres).argmin(1)
        centres = torch.stack([points[nearest == i].mean(0) for i in range(len(centres))])
    return [int(label) for label in nearest]


@pytest.mark.parametrize("seed", range(5))
def test_clusters_are_those_of_k_means(seed: int) -> None:
    points = torch.randn(12, 6, generator=generator(seed))
    first = torch.randperm(12, generator=generator(seed))[:3]
    assert clustered(points, 3, [], generator(seed)) == lloyd(points, points[first])


def test_clusters_that_were_known_begin_where_they_were() -> None:
    corners = torch.tensor([[0.0, 0.0], [0.0, 9.0], [9.0, 0.0]])
    points = corners[[1, 0, 1, 0, 2]] + 0.1 * torch.randn(5, 2, generator=generator())
    for seed in range(8):
        assert clustered(points, 2, [0, 1, 0, 1], generator(seed))[:4] == [0, 1, 0, 1]


def test_equal_points_leave_clusters_empty() -> None:
    assert len(set(clustered(torch.ones(4, 3), 3, [], generator()))) == 1
    assert sorted(clustered(torch.eye(2), 5, [], generator())) == [0, 1]


def test_a_group_keeps_the_middle_where_its_points_are_alike() -> None:
    points = torch.tensor([[1.0, 5.0, 0.0], [1.5, 2.0, 0.25], [7.0, 7.0, 7.0]])
    own, common = split(points, [1, 1, 0], 3, tolerance=0.5)
    assert own.tolist() == [[0, 5, 0], [0, 2, 0], [7, 7, 7]]
    assert common.tolist() == [[0, 0, 0], [1.25, 0, 0.125], [0, 0, 0]]
    assert (own + common[[1, 1, 0]] - points).abs().max() <= 0.25
