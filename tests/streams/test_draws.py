from __future__ import annotations

import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from clray.errors import BadData, BadSpec
from clray.streams.draws import PUBLISHED, Order, arrange, deal, hold_out, keep, share

LABELS = torch.tensor([0] * 10 + [1] * 5 + [2] * 25)
ROWS = torch.arange(40)


def test_orders() -> None:
    assert arrange("natural", 4, 7, "x") == [0, 1, 2, 3]
    assert arrange((3, 1), 4, 7, "x") == [3, 1]
    assert arrange((9, 1), None, 7, "x") == [9, 1]
    seeded = torch.randperm(9, generator=torch.Generator().manual_seed(5)).tolist()
    assert arrange(5, 9, 0, "x") == arrange(5, 9, 1, "x") == seeded
    drawn = [arrange("trial-seed", 9, seed, "x") for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert arrange("trial-seed", 9, 0, "y") != drawn[0]


def test_an_index_out_of_range_is_refused() -> None:
    with pytest.raises(BadSpec, match="x: got 4; accepted: indices from 0 to 3"):
        arrange((0, 4), 4, 0, "x")


@pytest.mark.parametrize(
    ("count", "fraction", "expected"),
    [(10, 0.1, 1), (15, 0.1, 2), (14, 0.1, 1), (50, 0.29, 15), (5, 0.1, 1), (4, 0.1, 0), (3, 1, 3)],
)
def test_shares_are_rounded_half_up_in_exact_decimals(
    count: int, fraction: float, expected: int
) -> None:
    assert share(count, fraction) == expected


@pytest.mark.parametrize("fraction", [0.01, 0.1, 0.3, 0.99])
def test_each_class_stands_on_both_sides(fraction: float) -> None:
    learned, held = hold_out(LABELS, ROWS, fraction, 3, "x")
    assert sorted([*learned.tolist(), *held.tolist()]) == ROWS.tolist()
    assert LABELS[learned].unique().tolist() == LABELS[held].unique().tolist() == [0, 1, 2]  # type: ignore[no-untyped-call]
    expected = [min(max(1, share(n, fraction)), n - 1) for n in (10, 5, 25)]
    assert LABELS[held].bincount().tolist() == expected
    again = hold_out(LABELS, ROWS, fraction, 3, "x")
    assert torch.equal(held, again[1])


def test_another_seed_holds_out_others() -> None:
    assert not torch.equal(
        hold_out(LABELS, ROWS, 0.3, 0, "x")[1], hold_out(LABELS, ROWS, 0.3, 1, "x")[1]
    )


def test_a_class_of_one_cannot_be_cut() -> None:
    labels = torch.tensor([0, 0, 1])
    with pytest.raises(BadData, match="examples of class 1: got 1; accepted: 2 or more"):
        hold_out(labels, torch.arange(3), 0.5, 0, "x")


def test_keeping_a_share() -> None:
    assert keep(LABELS, ROWS, 1.0, 0) is ROWS
    assert LABELS[keep(LABELS, ROWS, 0.2, 0)].bincount().tolist() == [2, 1, 5]
    assert LABELS[keep(LABELS, ROWS, 0.01, 0)].bincount().tolist() == [1, 1, 1]


def test_dealing_is_even_in_size_and_in_classes() -> None:
    parts = deal(LABELS, ROWS, 4, 0, "x")
    assert sorted(torch.cat(parts).tolist()) == ROWS.tolist()
    assert [len(p) for p in parts] == [10] * 4
    counts = torch.stack([LABELS[p].bincount(minlength=3) for p in parts])
    assert int((counts.max(0).values - counts.min(0).values).max()) <= 1
    with pytest.raises(BadData, match="class 1: got 5; accepted: 6 or more"):
        deal(LABELS, ROWS, 6, 0, "x")


def test_published_orders_go_by_their_name() -> None:
    assert arrange("cifar100-split/B", 10, 0, "order") == [1, 7, 4, 5, 2, 0, 8, 6, 9, 3]
    with pytest.raises(BadSpec, match="an order of 9, not of 10"):
        arrange("cifar100-split/B", 9, 0, "order")
    with pytest.raises(ValidationError, match="Did you mean 'cifar100-split/B'"):
        TypeAdapter(Order).validate_python("cifar10-split/B")
    assert all(sorted(order) == list(range(len(order))) for order in PUBLISHED.values())
