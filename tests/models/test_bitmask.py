"""How many weights a mask keeps, which ones, and how they are stored."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import pytest
import torch

from clray.models.bitmask import NotNegative, above, count, erdos_renyi, kept, largest, pack, unpack

SIZES = (1, 7, 10, 1000, 12345)
DENSITIES = (0.01, 0.02, 0.07, 0.1, 0.5, 0.9, 1.0)


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("density", DENSITIES)
def test_a_mask_keeps_exactly_its_share(n: int, density: float) -> None:
    exact = Fraction(str(density)) * n
    wanted = kept(density, n)
    assert wanted == max(1, int(exact + Fraction(1, 2)))
    distinct = torch.rand(n, generator=torch.Generator().manual_seed(n))
    repeated = distinct.mul(5).round()
    for scores in (distinct, repeated, torch.ones(n), torch.zeros(n)):
        chosen = largest(scores, wanted)
        assert int(chosen.sum()) == wanted
        assert torch.equal(chosen, above(scores, wanted))  # as on GPUs


def test_the_released_count_is_off_by_one_where_it_was_seen_to_be() -> None:
    seen = {(0.9, 10): 10, (0.07, 1000): 71, (0.9, 10**6): 900_001}
    for (density, n), number in seen.items():
        assert kept(density, n, released=True) == number
        assert kept(density, n) == number - 1


def test_the_largest_magnitudes_are_selected_and_of_equal_ones_the_first() -> None:
    scores = torch.randn(40, 30, generator=torch.Generator().manual_seed(0))
    chosen = largest(scores, 137)
    order = scores.abs().flatten().sort(descending=True).indices
    assert set(order[:137].tolist()) == set(chosen.flatten().nonzero().squeeze(1).tolist())
    assert torch.equal(chosen, largest(-scores, 137))
    assert torch.equal(chosen, largest(7.5 * scores, 137))
    tied = torch.tensor([1.0, -2.0, 2.0, 1.0, -1.0, 0.5])
    assert largest(tied, 4).tolist() == [True, True, True, True, False, False]
    assert NotNegative()(tied).tolist() == [True, False, True, True, False, True]


@pytest.mark.parametrize("n", [1, 7, 8, 9, 63, 10**6 + 3])
@pytest.mark.parametrize("density", [0, 0.02, 0.5, 1])
def test_bits_hold_masks(n: int, density: float, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(n)
    a, b = (torch.rand(n, generator=generator) < density for _ in range(2))
    bits = pack(a)
    assert bits.dtype == torch.uint8
    assert len(bits) == -(-n // 8)
    assert torch.equal(unpack(bits, a.shape), a)
    assert count(bits) == int(a.sum())
    assert torch.equal(unpack(bits & pack(b), a.shape), a & b)
    assert torch.equal(unpack(bits | pack(b), a.shape), a | b)
    assert torch.equal(unpack(bits & ~pack(b), a.shape), a & ~b)
    torch.save(bits, tmp_path / "bits")
    assert torch.equal(torch.load(tmp_path / "bits"), bits)


def test_the_first_weight_is_the_lowest_bit_and_padding_is_zero() -> None:
    mask = torch.tensor([[True, False, True], [False, False, False], [False, True, True]])
    assert pack(mask).tolist() == [0b10000101, 0b1]


def test_small_layers_keep_more_by_erdos_renyi() -> None:
    shapes = [torch.Size(s) for s in ((20, 3, 3, 3), (40, 20, 3, 3), (160, 160, 3, 3), (5, 160))]
    sizes = [shape.numel() for shape in shapes]
    found = erdos_renyi(shapes, 0.05, cap=0.5)
    assert found is not None
    assert sum(k * n for k, n in zip(found, sizes, strict=True)) == pytest.approx(0.05 * sum(sizes))
    assert max(found) == 0.5
    shares = [(s[0] + s[1]) / n for s, n in zip(shapes, sizes, strict=True)]
    free = [k / share for k, share in zip(found, shares, strict=True) if k < 0.5]
    assert free == pytest.approx([free[0]] * len(free))  # SupSup's factor s, the same everywhere
    uncapped = erdos_renyi(shapes, 0.3, cap=None)
    assert uncapped is not None
    assert max(uncapped) > 0.5
    assert erdos_renyi(shapes, 0.6, cap=0.5) is None
