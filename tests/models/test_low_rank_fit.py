"""Scales are least squares, directions the best of their number, and neither divides by zero."""

from __future__ import annotations

import time

import pytest
import torch
from torch import Tensor

from clray.models.low_rank_fit import EXTRA, directions, fit_scales, residual

SHAPES = [(7, 11), (11, 7), (6, 4, 3, 3)]


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def over(rows: Tensor, base: Tensor) -> Tensor:
    """Rows as a factor of weights."""
    return rows.view(-1, *[1] * (base.dim() - 1))


def left_over(free: Tensor, base: Tensor, rounds: int = 1, released: bool = False) -> float:
    return float(residual(free, base, *fit_scales(free, base, rounds, released)).norm())


@pytest.mark.parametrize("shape", SHAPES)
def test_exact_scales_are_found(shape: tuple[int, ...]) -> None:
    base, rows, columns = (
        drawn(*shape),
        drawn(shape[0], seed=1).exp(),
        drawn(shape[1], seed=2).exp(),
    )
    free = over(rows, base) * base
    found = fit_scales(free, base)
    assert torch.allclose(found[0], rows)
    assert torch.allclose(found[1], torch.ones_like(columns))
    assert left_over(free, base) < 1e-12
    free = free * columns.view(1, -1, *[1] * (len(shape) - 2))
    assert left_over(free, base, 1) > 1e-3 * float(free.norm())
    assert left_over(free, base, 40) < 1e-8 * float(free.norm())


@pytest.mark.parametrize("shape", SHAPES)
def test_each_update_leaves_less(shape: tuple[int, ...]) -> None:
    base = drawn(*shape)
    free = base + 0.3 * drawn(*shape, seed=1)
    rows, columns = fit_scales(free, base)
    rows_only = float((free - over(rows, base) * base).norm())
    left = [left_over(free, base, rounds) for rounds in range(1, 8)]
    assert left == sorted(left, reverse=True)
    assert left[-1] < left[0] < rows_only < float((free - base).norm())
    # A least-squares fit: nothing is left along any scale.
    rest = residual(free, base, rows, columns) * over(rows, base) * base
    assert rest.transpose(0, 1).flatten(1).sum(1).abs().max() < 1e-12


def test_the_released_columns_are_those_of_its_loop() -> None:
    base, free = drawn(7, 11), drawn(7, 11, seed=1)
    rows, columns = fit_scales(free, base, released=True)
    assert torch.equal(rows, fit_scales(free, base)[0])
    for column in range(11):
        slip = rows[:, None] * base[:, column]  # [o, o]: an outer product
        expected = (free[:, column] * slip).sum() / slip.square().sum()
        assert abs(columns[column] - expected) < 1e-12


@pytest.mark.parametrize("released", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_zeros_give_finite_scales(released: bool, dtype: torch.dtype) -> None:
    base, free = drawn(5, 6).to(dtype), drawn(5, 6, seed=1).to(dtype)
    base[2], base[:, 3] = 0, 0
    for old in (base, torch.zeros_like(base)):
        scales = fit_scales(free, old, 3, released)
        assert all(scale.isfinite().all() for scale in scales)
        assert residual(free, old, *scales).isfinite().all()


def test_refuses_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match="beside"):
        fit_scales(drawn(2, 3), drawn(3, 2))
    with pytest.raises(ValueError, match="0 rounds"):
        fit_scales(drawn(2, 3), drawn(2, 3), 0)
    with pytest.raises(ValueError, match="0 directions"):
        directions(drawn(2, 3), most=0)
    with pytest.raises(ValueError, match="3 of 2"):
        directions(drawn(2, 3)).factors(3)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("convolutions", ["window-mean", "reshape"])
def test_factors_are_the_best_of_their_rank_and_balanced(
    shape: tuple[int, ...], convolutions: str
) -> None:
    left = drawn(*shape)
    found = directions(left, convolutions)  # type: ignore[arg-type]
    matrix = left
    if len(shape) > 2:
        mean = left.mean((2, 3))
        matrix = left.flatten(1) if convolutions == "reshape" else mean
        spread = (left - mean[:, :, None, None]).square().sum()
        assert left.square().sum() == pytest.approx(float(9 * mean.square().sum() + spread))
    assert found.count == len(found.values) == min(matrix.shape)
    assert torch.allclose(found.values, torch.linalg.svdvals(matrix), atol=1e-12)
    assert found.energy == pytest.approx(float(matrix.square().sum()))
    for rank in range(found.count + 1):
        u, v = found.factors(rank)
        squares = found.values.square()
        assert (matrix - u @ v).square().sum() == pytest.approx(
            float(squares[rank:].sum()), abs=1e-12
        )
        for gram in (u.T @ u, v @ v.T):
            assert torch.allclose(gram, found.values[:rank].diag(), atol=1e-12)


@pytest.mark.parametrize("rank", [0, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_directions_stay_orthonormal_where_there_is_nothing(rank: int, dtype: torch.dtype) -> None:
    matrix = (drawn(20, rank) @ drawn(rank, 30, seed=1)).to(dtype)
    found = directions(matrix)
    tolerance = 1e-5 if dtype == torch.float32 else 1e-12
    assert found.left.dtype == found.values.dtype == found.right.dtype == dtype
    assert torch.allclose(found.left.T @ found.left, torch.eye(20, dtype=dtype), atol=tolerance)
    assert torch.allclose(found.right @ found.right.T, torch.eye(20, dtype=dtype), atol=tolerance)
    assert (found.values >= 0).all()
    assert (found.values.diff() <= 0).all()
    assert float(found.values[rank:].max()) < 10 * tolerance
    u, v = found.factors(20)
    assert torch.allclose(u @ v, matrix, atol=10 * tolerance)


def test_what_is_lost_is_bounded_by_curvature_and_what_is_dropped() -> None:
    free, root = drawn(4, 5), drawn(20, 20, seed=1)
    found, hessian = directions(free), root @ root.T / 20
    spectral, frobenius = (float(torch.linalg.matrix_norm(hessian, ord=o)) for o in (2, "fro"))
    for rank in range(5):
        u, v = found.factors(rank)
        gap = (u @ v - free).flatten()
        tail = float(found.values[rank:].square().sum())
        lost = 0.5 * float(gap @ hessian @ gap)
        assert -1e-12 <= lost <= 0.5 * spectral * tail + 1e-12 <= 0.5 * frobenius * tail + 2e-12
        assert 0.5 * 3 * float(gap @ gap) == pytest.approx(0.5 * 3 * tail, abs=1e-12)
    assert lost < 1e-12


def test_few_of_many_directions_are_found_fast_and_near_the_exact_ones() -> None:
    """With a gap after the tenth; twice the same, whatever torch's global generator does."""
    size, most = 600, 10
    left, right = (torch.linalg.qr(drawn(n, size, seed=n)).Q for n in (size, 900))
    values = torch.cat([torch.linspace(10, 5, most), torch.linspace(1, 0, size - most)]).double()
    matrix = (left * values @ right.T).float()
    before = torch.get_rng_state()
    start = time.perf_counter()
    found = directions(matrix, most=most)
    took = time.perf_counter() - start
    assert torch.equal(torch.get_rng_state(), before)
    again = directions(matrix, most=most)
    assert torch.equal(found.left, again.left)
    assert torch.equal(found.right, again.right)
    assert found.count == size
    assert len(found.values) == most + EXTRA
    start = time.perf_counter()
    exact = directions(matrix)
    assert took < time.perf_counter() - start
    assert found.energy == exact.energy
    for one, other in ((found.left, exact.left), (found.right.T, exact.right.T)):
        one, other = one[:, :most].double(), other[:, :most].double()
        assert torch.linalg.matrix_norm(one @ one.T - other @ other.T, ord=2) < 1e-3
    assert torch.allclose(found.values[:most], exact.values[:most], rtol=1e-4)
    # Were few not much fewer than there are, all would be exact.
    assert len(directions(matrix, most=size // 2).values) == size


def test_a_wide_layer_costs_less_than_a_full_decomposition() -> None:
    """Five rounds of scales and all directions, exactly, beside LAPACK's in float64."""
    base, change = torch.randn(500, 2000), 0.1 * torch.randn(500, 2000)
    start = time.perf_counter()
    scales = fit_scales(base + change, base, rounds=5)
    directions(residual(base + change, base, *scales))
    took = time.perf_counter() - start
    start = time.perf_counter()
    torch.linalg.svd(change.double(), full_matrices=False)
    assert took < 1.5 * (time.perf_counter() - start)
