"""What is taken from a gradient, and which directions a space holds."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from clray.distributed import Distributed
from clray.models.gradient_projection import InputSpace, input_moments, remove_conflict
from clray.models.matrix_layers import as_matrix, inputs_of, num_groups, with_ones

pytestmark = pytest.mark.usefixtures("float64")


def test_a_conflict_is_removed_over_all_tensors_together() -> None:
    """By hand: g = (1, -3, 0), r = (2, 2, 1), so g . r = -4, r . r = 9."""
    gradients = [torch.tensor([1.0, -3.0]), torch.tensor([[0.0]])]
    reference = [torch.tensor([2.0, 2.0]), torch.tensor([[1.0]])]
    assert remove_conflict(gradients, reference)
    expected = torch.tensor([1 + 8 / 9, -3 + 8 / 9, 4 / 9])
    found = torch.cat([g.flatten() for g in gradients])
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(found @ torch.tensor([2.0, 2.0, 1.0]), torch.tensor(0.0))


@pytest.mark.parametrize("reference", [[2.0, -1.0], [0.0, 0.0], [3.0, 1.0]])
def test_without_a_conflict_a_gradient_stays_to_the_bit(reference: list[float]) -> None:
    gradients = [torch.tensor([1 / 3]), torch.tensor([-1.0])]
    again = [g.clone() for g in gradients]
    assert not remove_conflict(gradients, [torch.tensor([value]) for value in reference])
    assert all(torch.equal(g, old) for g, old in zip(gradients, again, strict=True))


def spread(lengths: list[float], turn: Tensor) -> Tensor:
    """A sum of x x' [1, I, I] with these squared lengths along the columns of ``turn``."""
    return (turn @ torch.diag(torch.tensor(lengths)) @ turn.T).unsqueeze(0)


def turned(width: int, seed: int) -> Tensor:
    matrix = torch.randn(width, width, generator=torch.Generator().manual_seed(seed))
    turn: Tensor = torch.linalg.qr(matrix).Q
    return turn


@pytest.mark.parametrize(
    ("threshold", "size"),
    [(0.0, 0), (0.3, 1), (0.5, 1), (0.51, 2), (0.8, 2), (0.81, 3), (0.95, 3), (0.96, 4), (1.0, 4)],
)
def test_a_space_takes_the_fewest_directions_that_meet_the_threshold(
    threshold: float, size: int
) -> None:
    """Squared lengths 50, 30, 15 and 5 of 100; along the fifth direction there is nothing."""
    turn = turned(5, seed=0)
    space = InputSpace(1, 5, torch.empty(0))
    space.grow(spread([50.0, 30.0, 15.0, 5.0, 0.0], turn), threshold)
    assert space.sizes == [size]
    assert space.share == size / 5
    inside = space.basis[0] @ space.basis[0].T
    torch.testing.assert_close(inside, turn[:, :size] @ turn[:, :size].T)


def test_what_is_already_in_a_space_counts_towards_the_threshold() -> None:
    turn = turned(5, seed=1)
    space = InputSpace(1, 5, torch.empty(0))
    space.grow(spread([1.0, 0.0, 0.0, 0.0, 0.0], turn), 0.9)
    old = space.basis.clone()
    # 60 of 100 lie within: 25 and 10 more are needed for 0.9, and 5 are not.
    space.grow(spread([60.0, 5.0, 25.0, 10.0, 0.0], turn), 0.9)
    assert space.sizes == [3]
    assert torch.equal(space.basis[:, :, :1], old)
    kept = turn[:, [0, 2, 3]]
    torch.testing.assert_close(space.basis[0] @ space.basis[0].T, kept @ kept.T)
    space.grow(spread([60.0, 5.0, 25.0, 10.0, 0.0], turn), 0.9)
    assert space.sizes == [3]


def test_bases_of_groups_stay_orthonormal_and_within_their_width() -> None:
    """In float32, over tasks whose inputs lie nearly whole in the space already."""
    generator = torch.Generator().manual_seed(0)
    space = InputSpace(2, 12, torch.empty(0, dtype=torch.float32))
    sizes = [0, 0]
    for threshold in (0.9, 0.99, 0.999, 1.0, 1.0, 1.0, 1.0, 1.0):
        lengths = torch.logspace(0, -4, 12)[:, None]
        x = turned(12, seed=1) @ (torch.randn(2, 12, 3, generator=generator) * lengths)
        x[1, 8:] = 0
        space.grow(x @ x.mT, threshold)
        assert all(new >= old for new, old in zip(space.sizes, sizes, strict=True))
        sizes = space.sizes
        for group, size in enumerate(sizes):
            product = space.basis[group].T @ space.basis[group]
            expected = torch.diag((torch.arange(len(product)) < size).float())
            torch.testing.assert_close(product, expected, rtol=0, atol=1e-6)
    assert sizes == [12, 8]  # where a group's inputs are always zero there is no direction
    assert not space.full


def test_a_space_of_all_directions_is_full_and_inputs_that_are_no_numbers_add_none() -> None:
    space = InputSpace(1, 3, torch.empty(0))
    space.grow(torch.full((1, 3, 3), torch.nan), 1.0)
    assert space.sizes == [0]
    space.grow(torch.eye(3).unsqueeze(0), 1.0)
    assert space.full
    assert space.share == 1


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("threshold", [0.6, 1.0])
def test_a_step_changes_no_layer_s_answer_to_what_lies_in_its_space(
    bias: bool, threshold: float
) -> None:
    """Of grouped convolutions and linear layers on tokens too; whatever the batches."""
    torch.manual_seed(0)
    conv = nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2, bias=bias)
    model = nn.Sequential(conv, nn.ReLU(), nn.Flatten(2), nn.Linear(16, 5, bias=bias))
    layers = {name: model.get_submodule(name) for name in ("0", "3")}
    x = torch.randn(2, 4, 8, 8)
    x[:, 1] = x[:, 0]  # so that inputs do not span all directions
    x[:, 3] = 0
    one = input_moments(model, layers, [x], bias, Distributed())
    two = input_moments(model, layers, [x[:1], x[:0], x[1:]], bias, Distributed())
    with torch.no_grad():
        met = {"0": x, "3": model[:3](x)}
    for name, layer in layers.items():
        torch.testing.assert_close(one[name], two[name])
        inputs = inputs_of(layer, met[name])
        inputs = with_ones(inputs) if bias else inputs
        torch.testing.assert_close(one[name], (inputs @ inputs.mT).sum(0))
        space = InputSpace(num_groups(layer), inputs.shape[2], torch.empty(0))
        space.grow(one[name], threshold)
        steps = [torch.randn_like(p) for p in layer.parameters()]
        space.remove(steps[0], steps[1] if bias else None)
        matrix = as_matrix(steps[0], steps[1] if bias else None, num_groups(layer))
        assert matrix.norm() > 0.1
        change, length = (matrix @ inputs).square().sum(), inputs.square().sum()
        within = (space.basis.mT @ inputs).square().sum() / length
        assert threshold - 1e-9 <= within
        inside = space.basis @ (space.basis.mT @ inputs)
        assert (matrix @ inside).abs().max() < 1e-9
        if threshold == 1:
            assert change < 1e-9
