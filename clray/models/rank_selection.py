"""How many directions each layer of a low-rank task keeps, by what dropping them would cost.

A direction's score is an estimate of how much the loss would grow without it. Scores of all layers
compete: the fewest directions that hold a share of the whole score are kept, or those that hold the
most of it within a number of parameters. Where the small directions of a layer are not known one by
one, only the sum of their scores is, and no one of them exceeds the last that is known: an answer
that they could change is refused, so that the caller can find them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


class Ambiguous(Exception):
    """Directions that are not known could change the ranks.

    Args:
        layers: whose, by their place in the sequence that was given.
    """

    def __init__(self, layers: Sequence[int]) -> None:
        super().__init__(f"the ranks depend on unknown directions of layers {[*layers]}")
        self.layers = tuple(layers)

    def __reduce__(self) -> tuple[object, ...]:
        return (Ambiguous, (self.layers,))


@dataclass(frozen=True)
class LayerScores:
    """What the directions of a layer are worth.

    Attributes:
        kept: scores of the known directions, descending, 0 or more; float [q].
        rest: sum of the scores of the unknown directions; 0: all are known.
        cost: parameters of a direction.
    """

    kept: Tensor
    rest: float
    cost: int


def select_ranks(
    layers: Sequence[LayerScores], share: float, cap: int | None, least: int = 1
) -> list[int]:
    """The ranks of the fewest directions whose scores hold more than a share of the whole.

    Ranks are clamped afterwards: what a cap sets free goes to no other layer. Among equal scores
    the earlier layer's are kept first. Scores that are all 0 give the least ranks.

    Args:
        layers: at least one.
        share: of the sum of all scores, 0 to 1; 1 keeps every direction.
        cap: largest rank; None: as many as there are directions.
        least: smallest rank, where a layer has as many directions and the cap allows it.

    Raises:
        Ambiguous: directions that are not known could change the ranks.
        ValueError: scores that are not finite.
    """
    scores, owners = _pooled(layers)
    rests = scores.new_tensor([max(layer.rest, 0.0) for layer in layers])
    lasts = torch.stack([layer.kept[-1].to(scores) for layer in layers])
    order = scores.argsort(descending=True, stable=True)
    scores, owners = scores[order], owners[order]
    sums = scores.cumsum(0)
    before = sums - scores
    before[1:] = sums[:-1]  # without the rounding of a difference
    total = sums[-1] + rests.sum()
    goal = share * total if share < 1 else total + torch.inf
    if not bool(total > 0):
        goal = total - 1  # nothing is worth keeping

    # A direction is kept if all before it hold no more than the share. Unknown ones may come before
    # it if they may be larger; those of its own layer never do.
    others = owners[:, None] != torch.arange(len(layers), device=owners.device)
    perhaps = (lasts >= scores[:, None]) & others & (rests > 0)
    surely = before + (perhaps * rests).sum(1) <= goal
    low = torch.bincount(owners[surely], minlength=len(layers))
    high = torch.bincount(owners[before <= goal], minlength=len(layers))

    # The first unknown direction of a layer: all that is known and larger comes before it.
    at_least = (scores[:, None] * ((scores[:, None] > lasts) | ~others)).sum(0)
    beyond = (rests > 0) & (at_least <= goal)
    ranks, unclear = [], set()
    for place, layer in enumerate(layers):
        size = len(layer.kept)
        lower, upper = int(low[place]), int(high[place]) + bool(beyond[place])
        rank = _clamped(lower, size, cap, least)
        wanted = least if cap is None else min(least, cap)
        short = layer.rest > 0 and wanted > size
        if short or _clamped(upper, size + bool(beyond[place]), cap, least) != rank:
            doubtful = (owners == place) & ~surely & (before <= goal)
            unclear |= {int(other) for other in perhaps[doubtful].any(0).nonzero()}
            unclear |= {place} if short or bool(beyond[place]) else set()
        ranks.append(rank)
    if unclear:
        raise Ambiguous(sorted(unclear))
    return ranks


def flat_ranks(sizes: Sequence[int], cap: int | None, least: int = 1) -> list[int]:
    """The same rank for all layers, as far as they have so many directions.

    Args:
        sizes: directions of each layer.
        cap: the rank; None: all directions.
        least: smallest rank, where the cap allows it.
    """
    return [_clamped(size, size, cap, least) for size in sizes]


def ranks_within(
    layers: Sequence[LayerScores], parameters: int, cap: int | None, least: int = 1
) -> list[int]:
    """The ranks that hold much of the scores within a number of parameters.

    After the least ranks, directions are taken by their score for each parameter, as long as they
    fit; those whose score is 0 are left. More parameters never hold less.

    Args:
        layers: at least one.
        parameters: at most so many, over all layers.
        cap: largest rank; None: as many as there are directions.
        least: smallest rank, where a layer has as many directions and the cap allows it.

    Raises:
        Ambiguous: directions that are not known could be among those kept.
        ValueError: the least ranks do not fit, or scores are not finite.
    """
    scores, owners = _pooled(layers)
    sizes = [len(layer.kept) for layer in layers]
    ranks = torch.tensor([_clamped(0, size, cap, least) for size in sizes])
    costs = torch.tensor([layer.cost for layer in layers])
    left = parameters - int(ranks @ costs)
    if left < 0:
        terms = " + ".join(
            f"{k} * {c}" for k, c in zip(ranks.tolist(), costs.tolist(), strict=True)
        )
        raise ValueError(
            f"{parameters} parameters, but the least ranks take {terms} = {parameters - left}"
        )
    places = torch.cat([torch.arange(size) for size in sizes])
    open_ = (scores > 0) & (places >= ranks[owners])
    if cap is not None:
        open_ &= places < cap
    owners, worth = owners[open_], (scores / costs[owners])[open_]
    owners = owners[worth.argsort(descending=True, stable=True)]
    # Each round takes what fits, then leaves out the layer whose next direction no longer does.
    while len(owners):
        spent = costs[owners].cumsum(0)
        fitting = int((spent <= left).sum())
        ranks += torch.bincount(owners[:fitting], minlength=len(layers))
        left -= int(spent[fitting - 1]) if fitting else 0
        owners = owners[fitting:][owners[fitting:] != owners[fitting : fitting + 1]]
    chosen: list[int] = ranks.tolist()
    unclear = [
        place
        for place, (layer, rank) in enumerate(zip(layers, chosen, strict=True))
        if layer.rest > 0 and rank == len(layer.kept) and (cap is None or rank < cap)
    ]
    if unclear:
        raise Ambiguous(unclear)
    return chosen


def retained(layers: Sequence[LayerScores], ranks: Sequence[int]) -> list[float]:
    """The share of each layer's scores that its rank keeps; 1.0 where there is nothing to keep."""
    shares = []
    for layer, rank in zip(layers, ranks, strict=True):
        kept = layer.kept.double()
        total = float(kept.sum()) + max(layer.rest, 0.0)
        shares.append(float(kept[:rank].sum()) / total if total > 0 else 1.0)
    return shares


def _clamped(rank: int, size: int, cap: int | None, least: int) -> int:
    rank = max(rank, least)
    return min(rank, size) if cap is None else min(rank, size, cap)


def _pooled(layers: Sequence[LayerScores]) -> tuple[Tensor, Tensor]:
    """All known scores in float64 on the CPU, and the place of the layer of each.

    Raises:
        ValueError: scores that are not finite.
    """
    scores = torch.cat([layer.kept.detach().double().cpu() for layer in layers])
    sizes = torch.tensor([len(layer.kept) for layer in layers])
    if not bool(scores.isfinite().all()):
        raise ValueError("scores of directions that are not finite")
    return scores, torch.repeat_interleave(torch.arange(len(layers)), sizes)
