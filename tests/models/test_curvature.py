from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from clray.models.curvature import (
    Block,
    Diagonal,
    Kronecker,
    Outputs,
    Rotated,
    Summed,
    joined,
    trace,
)
from tests.models.toy_curvature import dense

pytestmark = pytest.mark.usefixtures("float64")

SHAPE = torch.Size((2, 3, 4))
ONE = torch.Size((1, 3, 4))


def product(size: int, groups: int = 2) -> Tensor:
    """Random, symmetric and positive semi-definite, of a rank below its size: [G, N, N]."""
    half = torch.randn(groups, size, size - 1)
    return half @ half.mT


def kronecker() -> Kronecker:
    return Kronecker(product(3), product(4))


def restricted() -> Kronecker:
    return Kronecker(product(3), product(4), torch.rand(2) + 1)


def rotated() -> Rotated:
    return Rotated(kronecker(), *rotations(), torch.rand(SHAPE))


def rotations() -> tuple[Tensor, Tensor]:
    return torch.linalg.eigh(product(3)).eigenvectors, torch.linalg.eigh(product(4)).eigenvectors


def outputs() -> Outputs:
    return Outputs(torch.tensor([True, False, True]), product(4, 1)[0])


def explicit(block: Block) -> Tensor:
    """[G, O * I, O * I], from its definition."""
    if isinstance(block, Diagonal):
        return block.values.flatten(1).diag_embed()
    if isinstance(block, Kronecker):
        pairs = zip(block.outputs, block.inputs, strict=True)
        found = torch.stack([torch.kron(s, a) for s, a in pairs])
        if block.trace is None:
            return found
        return found * (block.trace / trace(found))[:, None, None]
    if isinstance(block, Rotated):
        pairs = zip(block.outputs, block.inputs, strict=True)
        vectors = torch.stack([torch.kron(s, a) for s, a in pairs])
        return vectors @ block.moments.flatten(1).diag_embed() @ vectors.mT
    if isinstance(block, Outputs):
        inputs = block.inputs.diag() if block.inputs.dim() == 1 else block.inputs
        return torch.kron(block.rows.double().diag(), inputs).unsqueeze(0)
    assert isinstance(block, Summed)
    return sum(
        (explicit(b) * w for b, w in zip(block.blocks, block.weights, strict=True)),
        torch.zeros(()),
    )


KINDS: dict[str, Callable[[], Block]] = {
    "diagonal": lambda: Diagonal(torch.rand(SHAPE)),
    "kronecker": kronecker,
    "restricted": restricted,
    "rotated": rotated,
    "outputs": outputs,
    "outputs, diagonal": lambda: Outputs(torch.tensor([True, False, True]), torch.rand(4)),
    "summed": lambda: Summed((kronecker(), rotated()), (0.3, 0.7)),
}
EXACT = "diagonal", "outputs", "outputs, diagonal", "summed"


@pytest.mark.parametrize("name", KINDS)
def test_a_product_is_that_of_the_matrix(name: str) -> None:
    torch.manual_seed(0)
    block = KINDS[name]()
    found = dense(block, ONE if isinstance(block, Outputs) else SHAPE)
    torch.testing.assert_close(found, explicit(block), rtol=0, atol=1e-12)
    assert torch.linalg.eigvalsh(found).min() > -1e-12


@pytest.mark.parametrize("name", EXACT)
def test_a_mixture_is_the_mean_of_the_matrices(name: str) -> None:
    torch.manual_seed(0)
    one, other = KINDS[name](), KINDS[name]()
    expected = explicit(one) * 0.8 + explicit(other) * 0.2
    torch.testing.assert_close(explicit(one.mix(other, 0.2)), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("trace_known", [False, True])
def test_factors_mix_exactly_where_one_is_common_and_else_do_not(trace_known: bool) -> None:
    torch.manual_seed(0)
    traces = [torch.rand(2) + 1 if trace_known else None for _ in range(2)]
    outer, inputs = product(3), (product(4), product(4))
    one, other = (Kronecker(outer, a, t) for a, t in zip(inputs, traces, strict=True))
    if trace_known:  # of the same ratio to their factors
        one = Kronecker(outer, inputs[0], 2 * trace(outer) * trace(inputs[0]))
        other = Kronecker(outer, inputs[1], 2 * trace(outer) * trace(inputs[1]))
    expected = (explicit(one) + explicit(other)) / 2
    torch.testing.assert_close(explicit(one.mix(other, 0.5)), expected, rtol=0, atol=1e-12)

    apart = Kronecker(product(3), inputs[1], traces[1])
    expected = (explicit(one) + explicit(apart)) / 2
    found = explicit(one.mix(apart, 0.5))
    assert (found - expected).norm() > 0.1 * expected.norm()
    if trace_known:
        torch.testing.assert_close(trace(found), trace(expected))


def test_rotated_blocks_mix_exactly_along_the_eigenvectors_of_the_mixed_factors() -> None:
    torch.manual_seed(0)
    one, other = rotated(), rotated()
    mixed = one.mix(other, 0.3)
    expected = explicit(one) * 0.7 + explicit(other) * 0.3
    factors = one.factors.mix(other.factors, 0.3)
    for group in range(2):
        vectors = torch.kron(mixed.outputs[group], mixed.inputs[group])
        turned = vectors.T @ explicit(factors)[group] @ vectors
        torch.testing.assert_close(turned, turned.diagonal().diag(), rtol=0, atol=1e-10)
        along = (vectors.T @ expected[group] @ vectors).diagonal()
        torch.testing.assert_close(mixed.moments[group].flatten(), along, rtol=0, atol=1e-12)
    torch.testing.assert_close(trace(explicit(mixed)), trace(expected))


def test_inputs_that_never_were_there_are_not_searched_for_eigenvectors() -> None:
    # Where all is searched, torch's search has failed on a 3 x 3 convolution of one place.
    spread = torch.zeros(2, 7, 3)
    spread[:, [1, 2, 5], [0, 1, 2]] = 1
    inputs = spread @ product(3) @ spread.mT
    found = Rotated.of(Kronecker(torch.zeros(2, 3, 3), inputs))
    absent = [0, 3, 4, 6]
    assert torch.equal(found.inputs[:, :, absent], torch.eye(7)[:, absent].repeat(2, 1, 1))
    assert torch.equal(found.outputs, torch.eye(3).repeat(2, 1, 1))
    values = found.inputs.mT @ inputs @ found.inputs
    torch.testing.assert_close(values, values.diagonal(dim1=1, dim2=2).diag_embed())
    torch.testing.assert_close(found.inputs.mT @ found.inputs, torch.eye(7).repeat(2, 1, 1))


def test_a_layer_that_never_got_a_gradient_is_free() -> None:
    block = Kronecker(torch.zeros(2, 3, 3), product(4), torch.zeros(2))
    assert not block.times(torch.ones(SHAPE)).any()


def test_outputs_that_join_are_held_like_all_others() -> None:
    block, rows = outputs(), torch.tensor([False, True, False])
    every = Outputs(torch.ones(3, dtype=torch.bool), block.inputs)
    assert torch.equal(explicit(joined(block, rows)), explicit(every))
    mixed = block.mix(Outputs(rows, torch.zeros(4, 4)), 0.5)
    torch.testing.assert_close(explicit(mixed), explicit(every) / 2)
    summed = joined(Summed((block, every), (0.5, 0.5)), rows)
    torch.testing.assert_close(explicit(summed), explicit(every))
    other = kronecker()
    assert joined(other, rows) is other
