from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import product

import pytest
import torch
from torch import Tensor, nn

from clray.models.curvature import Block, Diagonal, Kronecker, Outputs, Rotated, Summed
from clray.models.curved_penalty import Accumulate, CurvedPenalty, Part
from clray.models.matrix_layers import num_groups
from tests.models.toy_curvature import convolutions, dense, fit, layers_of, mlp

pytestmark = pytest.mark.usefixtures("float64")


def part(layer: nn.Module, groups: int | None) -> Part:
    return Part(tuple(layer.parameters()), groups)


def random_like(tensors: tuple[nn.Parameter, ...]) -> list[Tensor]:
    return [torch.randn(t.shape) for t in tensors]


def squared(size: int, groups: int) -> Tensor:
    half = torch.randn(groups, size, size)
    return half @ half.mT


def kronecker(shape: torch.Size) -> Kronecker:
    return Kronecker(squared(shape[1], shape[0]), squared(shape[2], shape[0]))


def outputs(shape: torch.Size) -> Block:
    return Outputs(torch.rand(shape[1]) < 0.7, squared(shape[2], 1)[0])


def rotated(shape: torch.Size) -> Rotated:
    return replace(Rotated.of(kronecker(shape)), moments=torch.rand(shape))


BLOCKS: dict[str, Callable[[torch.Size], Block]] = {
    "diagonal": lambda shape: Diagonal(torch.rand(shape)),
    "kronecker": kronecker,
    "restricted": lambda shape: replace(kronecker(shape), trace=torch.rand(shape[0])),
    "rotated": rotated,
    "summed": lambda shape: Summed((kronecker(shape), rotated(shape)), (0.4, 0.6)),
}
LAYERS = {
    "linear": lambda: part(nn.Linear(3, 4), 1),
    "no bias": lambda: part(nn.Linear(3, 4, bias=False), 1),
    "grouped": lambda: part(nn.Conv2d(4, 6, 2, groups=2), 2),
    "one column": lambda: part(nn.Linear(3, 4), None),
}


@pytest.mark.parametrize("layer", LAYERS)
def test_what_is_packed_unpacks(layer: str) -> None:
    some = LAYERS[layer]()
    values = random_like(some.parameters)
    packed = some.pack(values)
    assert packed.numel() == sum(value.numel() for value in values)
    for value, again in zip(values, some.unpack(packed), strict=True):
        assert torch.equal(value, again)


@pytest.mark.parametrize(
    ("layer", "block"), [*product(LAYERS, BLOCKS), ("linear", "outputs"), ("no bias", "outputs")]
)
def test_the_pull_is_half_the_quadratic_and_its_gradient(layer: str, block: str) -> None:
    torch.manual_seed(0)
    some = LAYERS[layer]()
    shape = some.pack(list(some.parameters)).shape
    curvature = outputs(shape) if block == "outputs" else BLOCKS[block](shape)
    penalty = CurvedPenalty({"": some}, "factors")
    penalty.add({"": curvature}, 10)
    at_rest = penalty(0.3, 2.0)
    assert at_rest == 0
    assert not any(g.any() for g in torch.autograd.grad(at_rest, some.parameters))

    centre = [p.detach().clone() for p in some.parameters]
    with torch.no_grad():
        for p in some.parameters:
            p.add_(torch.randn(p.shape))
    step = some.pack([p - c for p, c in zip(some.parameters, centre, strict=True)]).flatten(1)
    matrix = 0.3 * 10 * dense(curvature, shape) + 2.0 * torch.eye(step.shape[1])
    expected = torch.einsum("gi,gij,gj->", step, matrix, step) / 2
    value = penalty(0.3, 2.0)
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=0)
    assert value > 0
    scaled = torch.autograd.grad(7 * value, some.parameters)
    for found, true in zip(scaled, torch.autograd.grad(7 * expected, some.parameters), strict=True):
        torch.testing.assert_close(found, true, rtol=0, atol=1e-9)


SIZE = 6
EXAMPLES = (30, 7, 50)


def tasks() -> list[tuple[Tensor, Tensor]]:
    """The mean loss of each task, (w - c)' H (w - c) / 2, by H (singular) and c."""
    torch.manual_seed(0)
    found = []
    for _ in EXAMPLES:
        half = torch.randn(SIZE, SIZE - 2)
        found.append((half @ half.T, torch.randn(SIZE)))
    return found


def minimise(loss: Callable[[], Tensor], weights: nn.Parameter) -> None:
    """One Newton step, exact for a quadratic."""

    def gradient(at: Tensor) -> Tensor:
        with torch.no_grad():
            weights.copy_(at)
        return torch.autograd.grad(loss(), weights)[0]

    first = gradient(torch.zeros(SIZE))
    matrix = torch.stack([gradient(e) - first for e in torch.eye(SIZE)])
    with torch.no_grad():
        weights.copy_(torch.linalg.solve(matrix, -first))


@pytest.mark.parametrize("accumulate", ["factors", "sum"])
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
@pytest.mark.parametrize("mean", [False, True])
def test_tasks_one_by_one_end_where_all_at_once_do(
    accumulate: Accumulate, order: tuple[int, ...], mean: bool
) -> None:
    known, ridge = tasks(), 0.3
    pairs = list(zip(known, EXAMPLES, strict=True))
    whole = torch.stack([h * n for (h, _), n in pairs]).sum(0) + ridge * torch.eye(SIZE)
    joint = torch.linalg.solve(whole, torch.stack([h @ c * n for (h, c), n in pairs]).sum(0))

    def learn(ridge_again: bool) -> Tensor:
        weights = nn.Parameter(torch.zeros(SIZE))
        penalty = CurvedPenalty({"": Part((weights,), None)}, accumulate)
        for i in order:
            (matrix, centre), now = pairs[i]

            def loss(matrix: Tensor = matrix, centre: Tensor = centre, now: int = now) -> Tensor:
                gap = weights - centre
                total = gap @ matrix @ gap / 2 * now + penalty(1.0, ridge)
                if ridge_again:
                    total = total + ridge * weights.square().sum() / 2
                return total / (now + penalty.examples) if mean else total

            minimise(loss, weights)
            penalty.add({"": Kronecker(matrix.unsqueeze(0), torch.ones(1, 1, 1))}, now)
        return weights.detach()

    assert (learn(False) - joint).norm() < 1e-8 * joint.norm()
    assert (learn(True) - joint).norm() > 1e-3 * joint.norm()


@pytest.mark.parametrize("build", [mlp, convolutions])
def test_averaged_factors_are_exact_in_the_last_layer_alone_and_kept_ones_in_all(
    build: Callable[[], tuple[nn.Module, Tensor]],
) -> None:
    torch.manual_seed(0)
    network, x = build()
    old, new = fit("kfac", network, x), fit("kfac", network, 3 * x[:5] + 1)
    parts = {name: part(layer, num_groups(layer)) for name, layer in layers_of(network).items()}
    averaged, kept = CurvedPenalty(parts, "factors"), CurvedPenalty(parts, "sum")
    sizes = []
    for blocks, examples in ((old, 20), (new, 5)):
        for penalty in (averaged, kept):
            penalty.add(blocks, examples)
            sizes.append(penalty.num_bytes)
    errors = []
    for name, one in parts.items():
        shape = one.pack(one.parameters).shape
        exactly = 0.8 * dense(old[name], shape) + 0.2 * dense(new[name], shape)
        found, summed = (dense(p.blocks[name], shape) for p in (averaged, kept))
        torch.testing.assert_close(summed, exactly, rtol=0, atol=1e-10)
        errors.append(float((found - exactly).norm() / exactly.norm()))
    assert errors.pop() < 1e-12
    assert min(errors) > 1e-3
    assert sizes[0] == sizes[1] == sizes[2] < sizes[3]
