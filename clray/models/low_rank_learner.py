"""From a network that learned a later task freely to one of low rank: what is kept of each layer,
the penalties that keep it small, and the released way of pruning.

Each layer's importance is a summary of its squared gradients; that of a singular direction of the
layer's residual is the layer's times the square of the singular value, times the entries of the
kernel's window that the direction fills. It estimates what the loss would grow by without it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from clray.distributed import Distributed
from clray.models.growth import released_bar, released_rate
from clray.models.low_rank import Dense, Factored, LowRankLayer
from clray.models.low_rank_fit import Convolutions, Directions, directions, fit_scales, residual
from clray.models.low_rank_form import Form
from clray.models.low_rank_network import LowRankNetwork
from clray.models.rank_selection import (
    Ambiguous,
    LayerScores,
    flat_ranks,
    ranks_within,
    retained,
    select_ranks,
)

Ranks = Literal["importance", "flat", "parameters"]
Importance = Literal["mean", "sum"]


def importances(
    weights: Sequence[Tensor],
    loss_of: Callable[[Tensor, Tensor], Tensor],
    batches: Iterable[tuple[Tensor, Tensor]],
    distributed: Distributed,
    importance: Importance = "mean",
) -> Tensor:
    """The mean over batches of B * mean(g^2), with B examples and the gradient g of a layer.

    Args:
        weights: of each layer; they require gradients, and get none.
        loss_of: mean loss over the batch of all workers, as ``Learner.cross_entropy`` has it.
        batches: this worker's parts ``(x, y)``; those empty on all workers do not count.
        distributed: the workers that share them.
        importance: the mean of squared entries, as released, or their sum, as the bound has it.

    Returns:
        float [layers], the same on all workers.
    """
    totals = torch.zeros(len(weights), device=weights[0].device, dtype=weights[0].dtype)
    num_batches = 0
    for x, y in batches:
        count = int(distributed.sum(torch.tensor(len(y), device=x.device)))
        if count == 0:
            continue
        gradients = torch.autograd.grad(loss_of(x, y), weights, materialize_grads=True)
        if distributed.world > 1:
            flat = distributed.sum(torch.cat([g.flatten() for g in gradients])) / distributed.world
            parts = torch.split(flat, [w.numel() for w in weights])
        else:
            parts = tuple(g.flatten() for g in gradients)
        squares = torch.stack([part.dot(part) for part in parts])
        totals += count * squares
        num_batches += 1
    if importance == "mean":
        totals /= torch.tensor([w.numel() for w in weights]).to(totals)
    return totals / max(1, num_batches)


@dataclass(frozen=True)
class Choice:
    """How scales are fitted and ranks are chosen; see the knobs of ``halrp``."""

    ranks: Ranks = "importance"
    share: float = 0.9
    cap: int | None = None
    parameters: int | None = None
    rounds: int = 1
    released: bool = False


@torch.no_grad()
def factorise(
    network: LowRankNetwork, free: Form, importance: Tensor, choice: Choice
) -> tuple[Form, dict[str, int], dict[str, float]]:
    """The low-rank form of a network that learned freely.

    Directions whose singular value is exactly 0 are dropped, also where that leaves a rank of 0:
    both of their factors would be 0, and so would the gradients of both, for ever.

    Args:
        network: whose layers' weights are the first task's.
        free: all of whose layers are dense; biases, normalisations and head go over as they are.
        importance: float [layers].
        choice: of the ranks.

    Returns:
        The form, all of which learns; each layer's rank; the share of each layer's scores that the
        rank retains. Where weights or the importance are not finite, ranks are 0 and scales are no
        numbers, so that the loss is none either.
    """
    fitted = [_fit(layer, free, path, choice) for path, layer in network.layers.items()]
    known = [importance, *(left for _, _, left in fitted)]
    if all(bool(tensor.isfinite().all()) for tensor in known):
        residuals = [left for _, _, left in fitted]
        found, ranks, shares = _ranked(network, residuals, importance, choice)
        factors = [of.factors(rank) for of, rank in zip(found, ranks, strict=True)]
    else:
        ranks, shares = [0] * len(fitted), [0.0] * len(fitted)
        factors = [
            (rows.fill_(torch.nan).new_zeros(len(rows), 0), rows.new_zeros(0, layer.width))
            for (rows, _, _), layer in zip(fitted, network.layers.values(), strict=True)
        ]
    layers: dict[str, Dense | Factored | None] = {}
    for path, (rows, columns, _), (left, right) in zip(
        network.layers, fitted, factors, strict=True
    ):
        one = free.layers[path]
        assert isinstance(one, Dense)
        own = [nn.Parameter(t.contiguous()) for t in (rows, columns, left, right)]
        layers[path] = Factored(own[0], own[1], own[2], own[3], one.bias)
    form = Form(layers, free.norms, free.head)
    by_layer = dict(zip(layers, ranks, strict=True)), dict(zip(layers, shares, strict=True))
    return form, *by_layer


def _fit(
    layer: LowRankLayer, free: Form, path: str, choice: Choice
) -> tuple[Tensor, Tensor, Tensor]:
    """Rows, columns, and what they leave of the free weight."""
    one = free.layers[path]
    assert isinstance(one, Dense)
    rows, columns = fit_scales(one.weight, layer.weight, choice.rounds, choice.released)
    return rows, columns, residual(one.weight, layer.weight, rows, columns)


def _ranked(
    network: LowRankNetwork, residuals: Sequence[Tensor], importance: Tensor, choice: Choice
) -> tuple[list[Directions], list[int], list[float]]:
    """The directions of each layer, its rank, and the share of its scores that this retains."""
    kind = network.convolutions
    layers = list(network.layers.values())
    found = [directions(one, kind, choice.cap) for one in residuals]
    while True:
        scores = [
            _scores(layer, of, weight, kind)
            for layer, of, weight in zip(layers, found, importance, strict=True)
        ]
        try:
            if choice.ranks == "flat":
                ranks = flat_ranks([of.count for of in found], choice.cap)
            elif choice.ranks == "parameters":
                assert choice.parameters is not None
                ranks = ranks_within(scores, choice.parameters, choice.cap)
            else:
                ranks = select_ranks(scores, choice.share, choice.cap)
            break
        except Ambiguous as unclear:
            for place in unclear.layers:
                found[place] = directions(residuals[place], kind)
    alive = [int((of.values[:rank] > 0).sum()) for of, rank in zip(found, ranks, strict=True)]
    return found, alive, retained(scores, alive)


def _scores(
    layer: LowRankLayer, found: Directions, importance: Tensor, kind: Convolutions
) -> LayerScores:
    window = layer.window if kind == "window-mean" else 1
    squares = found.values.double().square()
    worth = importance.double() * window
    known = len(found.values) == found.count
    rest = 0.0 if known else float(worth * (found.energy.double() - squares.sum()).clamp_min(0))
    return LayerScores(worth * squares, rest, layer.weight.shape[0] + layer.width)


def decayed(layers: Iterable[LowRankLayer], decay: float) -> Tensor:
    """Half the squares of all shared weights, times ``decay``; 0-d."""
    weights = [layer.weight.flatten() for layer in layers]
    return decay / 2 * torch.stack([weight.dot(weight) for weight in weights]).sum()


def penalty(form: Form, l1: float, decay: float, decay_toward: Literal["zero", "one"]) -> Tensor:
    """On a later task's factors and scales; 0-d.

    Args:
        form: factored.
        l1: of the magnitudes of the factors.
        decay: of half the squares of factors and scales.
        decay_toward: what the scales' squares are taken from.
    """
    factors = torch.cat([factor.flatten() for factor in form.factors()])
    scales = torch.cat(form.scales())
    if decay_toward == "one":
        scales = scales - 1
    return l1 * factors.abs().sum() + decay / 2 * (factors.dot(factors) + scales.dot(scales))


@torch.no_grad()
def prune_as_released(
    network: LowRankNetwork, names: Sequence[str], growth: float | None, base: int
) -> float:
    """Prune all later tasks, old ones too, by the released rule: see ``growth.released_bar``.

    Args:
        network: which keeps the tasks without dropping directions.
        names: of the later tasks.
        growth: the budget; None: nothing is pruned.
        base: numbers of the first task's network.

    Returns:
        The growth that is left, as the authors count.
    """
    forms = {name: network.form_of(network.kept(name)) for name in names}
    dense = sum(
        network.sizes.fixed(len(form.head.weight)) + sum(f.numel() for f in form.factors())
        for form in forms.values()
    )
    rate = 0.0 if growth is None else released_rate(growth, dense / base)
    for name, form in forms.items():
        factors = form.factors()
        if rate and sum(factor.numel() for factor in factors):
            bar = released_bar(factors, rate)
            for one in form.factored():
                one.left = one.left * (one.left.abs() > bar)
                one.right = one.right * (one.right.abs() > bar)
            network.keep(name, form, drops=False)
    return sum(network.taken(name).counted for name in names) / base
