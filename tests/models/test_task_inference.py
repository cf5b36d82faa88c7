from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor, nn

from clray.errors import BadSpec
from clray.models.classifier import Classifier
from clray.models.masked import MaskedLayer
from clray.models.task_inference import (
    Search,
    alpha_gradients,
    entropy,
    halved,
    infer_task,
    superfluous,
)
from tests.models.toy_subnetworks import CLASSES, CLUSTERS, WIDTH, Toy, clusters, network


@pytest.fixture
def three() -> Toy:
    """Random masks of three tasks, never trained."""
    torch.manual_seed(0)
    toy, x, y = Toy(network(), 0.1, outputs=8), torch.zeros(8, WIDTH, 1, 1), torch.zeros(8).long()
    for _ in range(3):
        toy.learn(x, y, 0, 0)
    return toy


def by_autograd(toy: Toy, x: Tensor, real: int | None) -> Tensor:
    """The gradients, by each share itself."""
    alphas = torch.full((3,), 1 / 3, requires_grad=True)
    for layer in toy.subnetworks.layers.values():
        masks = torch.stack([layer.mask_of(name).float() for name in toy.kept])
        layer.put_together = layer.weight * torch.tensordot(alphas, masks, 1)
    logits = toy.model(x)
    (entropy(logits) if real is None else superfluous(logits, real)).backward()  # type: ignore[no-untyped-call]
    toy.subnetworks.learn()
    assert alphas.grad is not None
    return alphas.grad


@pytest.mark.parametrize("real", [None, CLASSES])
def test_gradients_of_shares_are_those_of_autograd_and_leave_no_trace(
    three: Toy, real: int | None
) -> None:
    x = torch.randn(32, WIDTH, 1, 1)
    expected = by_autograd(three, x, real)
    layers: list[MaskedLayer] = list(three.subnetworks.layers.values())
    layers[0].weight.data[~layers[0].is_claimed()] = torch.inf  # of another task's no concern
    before = three.state()
    three.subnetworks.show("1")
    shown = [layer.put_together for layer in layers]
    loss = entropy if real is None else lambda logits: superfluous(logits, real)
    with torch.no_grad():
        found = alpha_gradients(three.subnetworks, three.kept, lambda: loss(three.model(x)))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-8)
    assert not found.requires_grad
    assert all(
        layer.put_together is was and not layer.weight.requires_grad and layer.weight.grad is None
        for layer, was in zip(layers, shown, strict=True)
    )
    assert all(torch.equal(value, before[name]) for name, value in three.state().items())


def test_superfluous_outputs_alone_pass_a_gradient() -> None:
    logits = torch.randn(4, 6, requires_grad=True)
    (gradient,) = torch.autograd.grad(superfluous(logits, 4), logits)
    assert (gradient[:, :4] == 0).all()
    torch.testing.assert_close(gradient[:, 4:], logits.softmax(1)[:, 4:] / 4)
    with pytest.raises(BadSpec, match="more than 6"):
        superfluous(logits, 6)


@pytest.mark.parametrize("kind", ["distinct", "few values", "equal", "not a number"])
def test_binary_search_ends(kind: str) -> None:
    generator = torch.Generator().manual_seed(0)

    def gradients(left: list[int]) -> Tensor:
        drawn = torch.rand(len(left), generator=generator)
        if kind == "few values":
            return (2 * drawn).round()
        return (
            drawn
            if kind == "distinct"
            else torch.full_like(drawn, math.nan if "not" in kind else 1)
        )

    for n in range(1, 34):
        rounds = list(halved(range(n), gradients))
        assert len(rounds) <= math.ceil(math.log2(n)) + 1
        assert len(rounds[-1]) == 1
        lines = [set(range(n)), *map(set, rounds)]
        assert n == 1 or all(fewer < more for more, fewer in itertools.pairwise(lines))
        if kind == "equal":
            assert rounds[-1] == [0]


def test_binary_search_finds_the_smallest_of_steady_gradients() -> None:
    steady = torch.randperm(33, generator=torch.Generator().manual_seed(1)).float()
    rounds = list(halved(range(33), lambda left: steady[left]))
    assert [len(left) for left in rounds] == [17, 9, 5, 3, 2, 1]  # up to the lower median
    assert rounds[-1] == [int(steady.argmin())]


@pytest.fixture(scope="module")
def permuted() -> tuple[Toy, Tensor, list[Tensor]]:
    """Eight permutations of one toy task, learned by masks alone; centres and permutations."""
    torch.set_num_threads(1)
    torch.manual_seed(1)
    generator = torch.Generator().manual_seed(1)
    centres = 0.6 * torch.randn(CLUSTERS, WIDTH, generator=generator)
    orders = [torch.randperm(WIDTH, generator=generator) for _ in range(8)]
    toy = Toy(network(), 0.1, outputs=100)
    for number, order in enumerate(orders):
        x, y = clusters(centres, 1000, number)
        toy.learn(x[:, order], y, 160, 0)
    return toy, centres, orders


@pytest.mark.parametrize("search", ["one-shot", "binary"])
def test_permuted_tasks_are_told_apart(
    permuted: tuple[Toy, Tensor, list[Tensor]], search: Search
) -> None:
    toy, centres, orders = permuted
    right = 0
    for number, order in enumerate([*orders, *orders]):
        x = clusters(centres, 128, 900 + number)[0][:, order]
        with torch.no_grad():
            found = infer_task(toy.subnetworks, toy.kept, lambda x=x: toy.model(x), search)  # type: ignore[misc]
        right += found == number % 8
    assert right / 16 >= 0.8  # chance: 0.125


def test_normalisations_with_statistics_of_each_task_are_refused() -> None:
    encoder = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
    toy = Toy(Classifier(encoder, nn.Linear(4, CLASSES)), 0.5)
    with pytest.raises(BadSpec, match="without running statistics"):
        alpha_gradients(toy.subnetworks, [], lambda: torch.zeros(()))
