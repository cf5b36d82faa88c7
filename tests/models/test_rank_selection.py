"""Ranks hold the share or the budget that was asked for, and unknown directions never decide."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from functools import partial

import pytest
import torch

from clray.models.rank_selection import (
    Ambiguous,
    LayerScores,
    flat_ranks,
    ranks_within,
    retained,
    select_ranks,
)


def layer(*scores: float, rest: float = 0.0, cost: int = 1) -> LayerScores:
    return LayerScores(torch.tensor(scores, dtype=torch.float64), rest, cost)


def drawn(seed: int, num_layers: int = 4) -> list[LayerScores]:
    """Layers of different sizes, costs and decays."""
    rng = random.Random(seed)
    layers = []
    for _ in range(num_layers):
        decay, scale = rng.uniform(0.5, 2), 10 ** rng.uniform(-2, 1)
        scores = [scale * rng.random() ** decay for _ in range(rng.randint(2, 12))]
        layers.append(layer(*sorted(scores, reverse=True), cost=rng.randint(1, 30)))
    return layers


def known(full: LayerScores, size: int) -> LayerScores:
    """As if only the first few directions had been found."""
    return LayerScores(full.kept[:size], float(full.kept[size:].sum()), full.cost)


def share_kept(layers: list[LayerScores], ranks: list[int]) -> float:
    kept = sum(float(one.kept[:rank].sum()) for one, rank in zip(layers, ranks, strict=True))
    return kept / sum(float(one.kept.sum()) for one in layers)


def test_by_hand() -> None:
    layers = [layer(9, 1), layer(2 * 4, 2 * 4)]
    assert select_ranks(layers, 0.6, None) == [1, 1]
    assert select_ranks(layers, 0.9, None) == [1, 2]
    assert retained(layers, [1, 1]) == [0.9, 0.5]
    # A greater weight may cost a layer rank: the whole grows with it.
    assert select_ranks([layer(100, 5), layer(3, 3)], 0.95, None) == [2, 1]
    assert select_ranks([layer(1e9, 5e7), layer(3, 3)], 0.95, None) == [1, 1]


@pytest.mark.parametrize("seed", range(5))
def test_the_fewest_directions_that_hold_the_share(seed: int) -> None:
    layers = drawn(seed)
    sizes = [len(one.kept) for one in layers]
    before = [0] * len(layers)
    for share in (0.0, 0.3, 0.6, 0.9, 0.99):
        ranks = select_ranks(layers, share, None, least=0)
        assert share_kept(layers, ranks) > share
        pairs = zip(layers, ranks, strict=True)
        smallest = min((float(one.kept[k - 1]), i) for i, (one, k) in enumerate(pairs) if k)[1]
        fewer = [rank - (place == smallest) for place, rank in enumerate(ranks)]
        assert share_kept(layers, fewer) <= share
        assert all(a <= b for a, b in zip(before, ranks, strict=True))
        before = ranks
        capped = select_ranks(layers, share, 3, least=2)
        assert capped == [min(max(rank, 2), 3, s) for rank, s in zip(ranks, sizes, strict=True)]
        places = random.Random(seed).sample(range(len(layers)), len(layers))
        assert select_ranks([layers[p] for p in places], share, None, 0) == [
            ranks[p] for p in places
        ]
        scaled = [LayerScores(512 * one.kept, 0, one.cost) for one in layers]
        assert select_ranks(scaled, share, None, 0) == ranks
    assert select_ranks(layers, 1.0, None) == sizes == flat_ranks(sizes, None)
    assert select_ranks(layers, 1.0, 4) == [min(size, 4) for size in sizes] == flat_ranks(sizes, 4)


def test_nothing_to_keep() -> None:
    layers = [layer(0, 0, 0), layer(0)]
    for share in (0.0, 0.5, 1.0):
        assert select_ranks(layers, share, None) == [1, 1]
        assert select_ranks(layers, share, None, least=2) == [2, 1]
    assert ranks_within(layers, 100, None) == [1, 1]
    assert retained(layers, [1, 1]) == [1.0, 1.0]
    with pytest.raises(ValueError, match="not finite"):
        select_ranks([layer(float("nan"), 0)], 0.5, None)


@pytest.mark.parametrize("seed", range(5))
def test_a_budget_is_kept_and_spent(seed: int) -> None:
    layers = drawn(seed)
    costs = [one.cost for one in layers]
    held = 0.0
    for parameters in range(sum(costs), 12 * sum(costs), 17):
        ranks = ranks_within(layers, parameters, 6)
        spent = sum(k * cost for k, cost in zip(ranks, costs, strict=True))
        assert spent <= parameters
        for rank, one in zip(ranks, layers, strict=True):
            assert rank == min(6, len(one.kept)) or spent + one.cost > parameters
        assert share_kept(layers, ranks) >= held
        held = share_kept(layers, ranks)
    with pytest.raises(ValueError, match=rf"= {sum(costs)}$"):
        ranks_within(layers, sum(costs) - 1, None)


def test_a_budget_buys_more_than_the_share_does_for_as_much() -> None:
    """A direction of the first layer is worth a little more, and costs a hundred times as much."""
    layers = [layer(10, 9, 8, 7, cost=100), layer(6, 5, 4, 3, cost=1)]
    by_share = select_ranks(layers, 0.6, None)
    spent = sum(rank * one.cost for rank, one in zip(by_share, layers, strict=True))
    within = ranks_within(layers, spent, None)
    assert (by_share, within) == ([4, 1], [3, 4])
    assert share_kept(layers, within) > share_kept(layers, by_share)
    assert ranks_within(layers, 104, None) == [1, 4]


@pytest.mark.parametrize("cap", [None, 4])
def test_unknown_directions_are_asked_for_or_do_not_matter(cap: int | None) -> None:
    """Whatever is answered with some directions unknown is the answer with all known."""
    answered = refused = 0
    for seed, size, share in itertools.product(range(12), (2, 4, 6), (0.2, 0.5, 0.8, 0.95, 1.0)):
        full = drawn(seed)
        budget = int(share * 300) + sum(one.cost for one in full)
        for choose in (
            partial(select_ranks, share=share, cap=cap),
            partial(ranks_within, parameters=budget, cap=cap),
        ):
            layers = [known(one, size) for one in full]
            asked = missing(choose, layers)
            answered += not asked
            refused += bool(asked)
            while asked:
                assert all(layers[place].rest > 0 for place in asked)
                layers = [full[p] if p in asked else one for p, one in enumerate(layers)]
                asked = missing(choose, layers)
            assert choose(layers) == choose(full)
    assert answered > 50
    assert refused > 50


def missing(choose: Callable[..., list[int]], layers: list[LayerScores]) -> tuple[int, ...]:
    """The layers whose unknown directions are asked for."""
    try:
        choose(layers)
    except Ambiguous as error:
        return error.layers
    return ()


def test_what_a_cap_discards_is_not_ambiguous() -> None:
    layers = [layer(9, 8, 7, rest=3), layer(6.5, 0.1)]
    assert select_ranks(layers, 0.7, 3) == [3, 1]
    with pytest.raises(Ambiguous) as raised:
        select_ranks(layers, 0.95, None)
    assert raised.value.layers == (0,)
    with pytest.raises(Ambiguous):
        select_ranks(layers, 0.1, None, least=4)
