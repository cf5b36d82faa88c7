from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from clray.distributed import Distributed
from clray.models import curvature_fit
from clray.models.curvature import Block, Diagonal, Kronecker, Rotated, trace
from clray.models.curvature_fit import Kind
from clray.models.squared_loss import Noise
from tests.models.toy_curvature import (
    NETWORKS,
    convolutions,
    dense,
    derivatives,
    exact,
    fit,
    layers_of,
    mlp,
)

pytestmark = pytest.mark.usefixtures("float64")

Network = Callable[[], tuple[nn.Module, Tensor]]
SEEDS = 64
KINDS: tuple[Kind, ...] = ("diag", "kfac", "tkfac", "ekfac")


def blocks(kind: Kind, network: nn.Module, x: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """Of each layer, what is found and what is exact: [G, O * I, O * I]."""
    return {
        name: (
            dense(block, derivatives(network, name, x[:1]).shape[2:]),
            exact(network, name, x),
        )
        for name, block in fit(kind, network, x).items()
    }


@pytest.mark.parametrize("build", NETWORKS)
def test_the_diagonal_is_exact(build: Network) -> None:
    torch.manual_seed(0)
    network, x = build()
    found = fit("diag", network, x)
    assert found.keys() == layers_of(network).keys()
    for name, block in found.items():
        assert isinstance(block, Diagonal)
        expected = derivatives(network, name, x).square().sum(1).mean(0)
        torch.testing.assert_close(block.values, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("build", NETWORKS)
def test_the_trace_of_restricted_factors_is_exact(build: Network) -> None:
    torch.manual_seed(0)
    network, x = build()
    for found, expected in blocks("tkfac", network, x).values():
        torch.testing.assert_close(trace(found), trace(expected), rtol=1e-10, atol=0)
    found, expected = blocks("kfac", network, x)["0"]
    assert ((trace(found) / trace(expected) - 1).abs() > 1e-5).all()


@pytest.mark.parametrize("build", NETWORKS)
def test_moments_along_eigenvectors_are_exact_and_bring_the_block_nearer(build: Network) -> None:
    torch.manual_seed(0)
    network, x = build()
    near = blocks("kfac", network, x)
    for name, block in fit("ekfac", network, x).items():
        assert isinstance(block, Rotated)
        found, expected = dense(block, block.moments.shape), exact(network, name, x)
        for s, a, moments, whole in zip(
            block.outputs, block.inputs, block.moments, expected, strict=True
        ):
            vectors = torch.kron(s, a)
            along = (vectors.T @ whole @ vectors).diagonal()
            torch.testing.assert_close(moments.flatten(), along, rtol=0, atol=1e-10)
        missed = (near[name][0] - expected).norm(dim=(1, 2))
        assert ((found - expected).norm(dim=(1, 2)) <= missed + 1e-10).all()


def test_factors_of_the_last_layer_are_exact_and_its_outer_one_is_the_identity() -> None:
    torch.manual_seed(0)
    network, x = mlp()
    last = fit("kfac", network, x)["4"]
    assert isinstance(last, Kronecker)
    torch.testing.assert_close(last.outputs, torch.eye(4).unsqueeze(0))
    found, expected = blocks("kfac", network, x)["4"]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


def test_factors_of_one_example_are_exact_in_linear_layers() -> None:
    torch.manual_seed(0)
    network, x = mlp()
    for found, expected in blocks("kfac", network, x[:1]).values():
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("kind", KINDS)
def test_blocks_are_symmetric_and_positive_semi_definite(kind: Kind) -> None:
    torch.manual_seed(0)
    network, x = convolutions()
    for found, _ in blocks(kind, network, x).values():
        torch.testing.assert_close(found, found.mT, rtol=0, atol=1e-12)
        assert torch.linalg.eigvalsh(found).min() > -1e-10


def test_factors_of_a_convolution_average_inputs_over_places_and_sum_gradients() -> None:
    torch.manual_seed(0)
    last, x = nn.Linear(8, 3), torch.randn(1, 1, 3, 3)
    network = nn.Sequential(nn.Conv2d(1, 2, 2), nn.Flatten(), last)
    patches = [
        torch.cat([x[0, 0, i : i + 2, j : j + 2].flatten(), torch.ones(1)])
        for i in range(2)
        for j in range(2)
    ]
    inputs = torch.stack([torch.outer(p, p) for p in patches]).mean(0)
    gradients = last.weight.detach().view(3, 2, 4).transpose(1, 2).reshape(12, 2)
    outputs = torch.stack([torch.outer(g, g) for g in gradients]).sum(0)
    found = fit("kfac", network, x)["0"]
    assert isinstance(found, Kronecker)
    torch.testing.assert_close(found.inputs[0], inputs, rtol=0, atol=1e-12)
    torch.testing.assert_close(found.outputs[0], outputs, rtol=0, atol=1e-12)


def noise_errors(noise: Noise, draws: int) -> tuple[Tensor, Tensor]:
    """How far the diagonal, and the factor of output gradients, of each layer are from the exact
    ones, relative to these: root mean squares over seeds."""
    torch.manual_seed(0)
    network, x = mlp()
    x = x[:10]
    many, found = x.repeat(draws, 1), []
    for kind in ("diag", "kfac"):
        exactly = [block.tensors[0] for block in fit(kind, network, x).values()]
        squares = torch.zeros(len(exactly))
        for seed in range(SEEDS):
            drawn = fit(kind, network, many, noise=noise, seed=seed, batch=len(many)).values()
            gaps = [block.tensors[0] - e for block, e in zip(drawn, exactly, strict=True)]
            pairs = zip(gaps, exactly, strict=True)
            squares += torch.stack([gap.norm() / e.norm() for gap, e in pairs]).square() / SEEDS
        found.append(squares.sqrt())
    return found[0], found[1]


def test_the_error_of_random_noise_falls_as_the_root_of_its_draws() -> None:
    for few, many in zip(noise_errors("gaussian", 5), noise_errors("gaussian", 500), strict=True):
        assert ((few / many > 7) & (few / many < 14)).all()
        assert (many < 0.05).all()


def test_random_signs_err_less_than_normal_numbers_and_in_the_last_diagonal_not_at_all() -> None:
    signs, numbers = noise_errors("rademacher", 100)[0], noise_errors("gaussian", 100)[0]
    assert (signs < numbers).all()
    assert signs[-1] < 1e-12 < numbers[-1]


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_seed_gives_the_same_curvature(kind: Kind) -> None:
    torch.manual_seed(0)
    network, x = mlp()
    first, again, other = (fit(kind, network, x, noise="rademacher", seed=s) for s in (0, 0, 1))
    for name in first:
        pairs = zip(first[name].tensors, again[name].tensors, strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)
    assert not torch.equal(first["0"].tensors[0], other["0"].tensors[0])


def same(one: dict[str, Block], other: dict[str, Block], shapes: dict[str, torch.Size]) -> None:
    for name, shape in shapes.items():
        found, expected = dense(one[name], shape), dense(other[name], shape)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("kind", KINDS)
def test_neither_batches_nor_memory_nor_frozen_weights_change_it(
    kind: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    network, x = convolutions()
    shapes = {name: derivatives(network, name, x[:1]).shape[2:] for name in layers_of(network)}
    whole = fit(kind, network, x, batch=len(x))
    for chunk in (1, 4000):
        monkeypatch.setattr(curvature_fit, "CHUNK", chunk)
        same(fit(kind, network, x), whole, shapes)
    same(fit(kind, copy.deepcopy(network).requires_grad_(False), x), whole, shapes)


class Worker(Distributed):
    """One of two, to which the other's sums are known in their order."""

    def __init__(self) -> None:
        self.told: list[Tensor] = []
        self.other: list[Tensor] = []

    def sum(self, value: Tensor) -> Tensor:
        self.told.append(value.clone())
        return value + self.other[len(self.told) - 1] if self.other else value


class Twin(Distributed):
    """One of two with the same examples."""

    def sum(self, value: Tensor) -> Tensor:
        return 2 * value


def test_moments_of_two_workers_are_those_of_one() -> None:
    torch.manual_seed(0)
    network, x = convolutions()
    shapes = {name: derivatives(network, name, x[:1]).shape[2:] for name in layers_of(network)}
    found = fit("ekfac", network, x, count=2 * len(x), distributed=Twin())
    same(found, fit("ekfac", network, x), shapes)


@pytest.mark.parametrize("kind", ["diag", "kfac", "tkfac"])
def test_two_workers_find_what_one_finds_also_when_one_has_no_examples(kind: Kind) -> None:
    torch.manual_seed(0)
    network, x = convolutions()
    shapes = {name: derivatives(network, name, x[:1]).shape[2:] for name in layers_of(network)}
    for mine in (3, 0):
        here, there = Worker(), Worker()
        fit(kind, network, x[mine:], count=len(x), distributed=there)
        here.other = there.told
        found = fit(kind, network, x[:mine], count=len(x), distributed=here)
        assert len(here.told) == len(there.told)
        same(found, fit(kind, network, x), shapes)
