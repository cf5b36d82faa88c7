"""How growth is counted, pruned and refused."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from clray.errors import Infeasible
from clray.models.classifier import Classifier
from clray.models.growth import (
    Sizes,
    Taken,
    check_growth,
    keep_largest,
    released_bar,
    released_rate,
    share_of,
)
from clray.models.low_rank import Dense
from clray.models.low_rank_learner import Choice, factorise, prune_as_released
from clray.models.low_rank_network import LowRankNetwork

LENET = 2_995_620
"""Numbers of the specification's LeNet on 32 x 32 images, 10 classes."""


def lenet(classes: int = 10) -> LowRankNetwork:
    """With batch normalisation after each layer."""
    encoder = nn.Sequential(
        *(nn.Conv2d(3, 20, 5, padding=2), nn.BatchNorm2d(20), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(20, 50, 5, padding=2), nn.BatchNorm2d(50), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(3200, 800), nn.BatchNorm1d(800), nn.ReLU()),
        *(nn.Linear(800, 500), nn.BatchNorm1d(500), nn.ReLU()),
    )
    return LowRankNetwork(Classifier(encoder, nn.Linear(500, classes)))


def kept_task(net: LowRankNetwork, rank: int | None, seed: int, drops: bool = True) -> Taken:
    """A task of 10 classes with random factors; what it takes."""
    torch.manual_seed(seed)
    free = net.free(net.drawn_head(10, seed))
    for layer, one in zip(net.layers.values(), free.layers.values(), strict=True):
        assert isinstance(one, Dense)
        window = (1,) * (layer.weight.ndim - 2)  # directions of all ranks, without decomposing
        one.weight.data += 0.1 * torch.randn(*layer.weight.shape[:2], *window)
    form, _, _ = factorise(net, free, torch.ones(4), Choice("flat", cap=rank))
    net.keep(str(seed), form, drops)
    return net.taken(str(seed))


def test_lenet_is_counted_as_specified() -> None:
    net = lenet()
    sizes = net.sizes
    assert sizes.first(10) == sum(
        p.numel() for p in [*net.model.parameters(), *vars(net.drawn_head(10, 0)).values()]
    )
    assert sizes.first(10) == LENET
    assert sizes.first(5) == 2_993_115
    assert (sizes.scales, sizes.norms, sizes.head(10)) == (5_393, 2_740, 5_010)
    assert (sizes.fixed(10), sizes.biases) == (13_143, 1_370)
    taken = kept_task(net, 100, 0)
    assert taken.entries == 531_469
    assert taken.counted == 13_143 + 531_469
    assert taken.numbers == taken.counted + 1_370
    assert taken.bytes == 4 * (taken.numbers + 2_740)  # with running means and variances


def test_what_is_not_counted() -> None:
    tensors = {
        "layer.rows": torch.ones(3),
        "layer.columns": torch.ones(2),
        "layer.bias": torch.ones(3),
        "layer.values": torch.tensor([1.0, 1e-8, -2e-8, 5.0]),
        "layer.bits": torch.ones(4, dtype=torch.uint8),
        "norm.weight": torch.ones(3),
        "norm.bias": torch.zeros(3),
        "norm.running_mean": torch.zeros(3),
        "head.weight": torch.zeros(2, 3),
        "head.bias": torch.zeros(2),
    }
    taken = Taken.of(tensors, ["layer"])
    assert taken == Taken(counted=5 + 3 + 6 + 8, numbers=5 + 3 + 4 + 6 + 8, entries=4, bytes=120)


# Budgets.


def test_the_largest_entries_are_kept_exactly_and_of_equal_ones_the_first() -> None:
    factors = [torch.tensor([[3.0, -1.0], [1.0, 0.5]]), torch.tensor([1.0, -4.0])]
    for number, kept in [(0, []), (-5, []), (2, [0, 5]), (3, [0, 1, 5]), (9, range(6))]:
        chosen = keep_largest(factors, number)
        assert [mask.shape for mask in chosen] == [factor.shape for factor in factors]
        flat = torch.cat([mask.flatten() for mask in chosen])
        assert flat.nonzero().flatten().tolist() == [*kept]


def test_shares_are_whole_and_never_too_large() -> None:
    for growth in (0.05, 0.1, 0.2, 0.6):
        each = share_of(growth, LENET, 10)
        assert 9 * each <= growth * LENET < 9 * (each + 1)
    assert share_of(0.3, 10, 4) == 1  # 0.3 * 10 falls short of 3 in floating point


def test_a_budget_that_cannot_be_kept_is_refused_with_the_arithmetic() -> None:
    sizes = Sizes(weights=1000, biases=30, scales=70, norms=20, features=9)
    first, own = 1000 + 30 + 20 + 50, 70 + 30 + 20 + 50  # with 5 classes
    least = 4 * own / first
    with pytest.raises(Infeasible) as refused:
        check_growth(0.5, sizes, num_tasks=5, largest_task=5, num_classes=25)
    each = int(0.5 * first / 4)
    said = str(refused.value)
    for number in (
        first,
        "4 later tasks",
        each,
        own,
        f"{math.ceil(least * 100) / 100:.2f}",
        70,
        20,
    ):
        assert str(number) in said
    assert "method.growth" in said
    check_growth(math.ceil(least * 100) / 100, sizes, 5, 5, 25)
    with pytest.raises(Infeasible):  # the first task may have 1 class
        check_growth(math.ceil(least * 100) / 100, sizes, 5, 5, 21)
    check_growth(1e-9, sizes, 1, 5, 5)  # no later task


# The released rule.


def test_the_released_bar_is_a_quantile_and_never_below_its_least() -> None:
    factors = [torch.randn(40, 3), torch.zeros(30), torch.randn(5, 7)]
    sizes = torch.cat([factor.flatten() for factor in factors]).abs()
    for rate in (0.3, 0.5, 0.77, 1.0):
        assert released_bar(factors, rate) == pytest.approx(float(sizes.quantile(rate)), rel=1e-5)
    assert float(released_bar(factors, 0.01)) == pytest.approx(1e-5)
    assert released_rate(0.5, 0.4) == 0
    assert released_rate(0.2, 0.8) == 0.75


def test_the_released_rule_leaves_what_the_formula_says() -> None:
    net = lenet()
    names = ["0", "1"]
    dense = sum(kept_task(net, 40, int(name), drops=False).counted for name in names) / LENET
    fixed = 2 * net.sizes.fixed(10) / LENET
    scales = {name: net.kept(name)["encoder.0.rows"].clone() for name in names}

    assert prune_as_released(net, names, 1.1 * dense, LENET) == pytest.approx(dense)
    budget = 0.04
    factors = [torch.cat([f.flatten() for f in factors_of(net, name)]).abs() for name in names]
    left = prune_as_released(net, names, budget, LENET)
    assert left == pytest.approx(budget + fixed * (1 - budget / dense), abs=4 / LENET)
    for name, before in zip(names, factors, strict=True):
        after = torch.cat([f.flatten() for f in factors_of(net, name)]).abs()
        kept = after > 0
        assert torch.equal(after[kept], before[kept])
        assert before[kept].min() > before[~kept].max()
        assert abs(int(kept.sum()) - len(before) * budget / dense) <= 1
        assert torch.equal(net.kept(name)["encoder.0.rows"], scales[name])
    again = prune_as_released(net, names, budget, LENET)
    assert again == left


def factors_of(net: LowRankNetwork, name: str) -> list[Tensor]:
    return net.form_of(net.kept(name)).factors()
