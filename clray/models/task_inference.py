"""Which task some examples are of, found by superposing the masks of all tasks.

After SupSup (Wortsman et al. 2020, arXiv 2006.14769): with weights W * sum_i alpha_i M_i and all
alpha equal, the task whose alpha should grow for the answers to become surer is taken. The gradient
of all alphas costs one pass through the network with the mean mask, and one sum over each mask.

A network whose normalisations keep statistics of each task has none for superposed ones, and cannot
be asked.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import torch
from torch import Tensor

from clray.errors import BadSpec
from clray.models.masked import on_mask
from clray.models.subnetworks import Subnetworks

Objective = Literal["entropy", "superfluous"]
Search = Literal["one-shot", "binary"]


def infer_task(
    subnetworks: Subnetworks,
    names: Sequence[str],
    logits: Callable[[], Tensor],
    search: Search = "one-shot",
    objective: Objective = "entropy",
    real: int | None = None,
) -> int:
    """The place in ``names`` of the task that a batch is most likely of.

    Args:
        subnetworks: left as they were.
        names: of kept tasks, one or more.
        logits: computes the network's, [B, outputs], of the batch.
        search: the smallest gradient of all; or those up to the median, again and again.
        objective: what should shrink, see ``entropy`` and ``superfluous``.
        real: outputs that stand for classes; for ``superfluous``.

    Raises:
        BadSpec: a network with statistics of each task, or no superfluous output.
    """

    def loss() -> Tensor:
        if objective == "entropy":
            return entropy(logits())
        assert real is not None
        return superfluous(logits(), real)

    if len(names) == 1:
        return 0
    places = list(range(len(names)))
    if search == "binary":
        *_, places = halved(
            places, lambda left: alpha_gradients(subnetworks, [names[i] for i in left], loss)
        )
        return places[0]
    return int(alpha_gradients(subnetworks, names, loss).argmin())


def halved(
    candidates: Sequence[int], gradients: Callable[[list[int]], Tensor]
) -> Iterator[list[int]]:
    """The candidates that are left after each round: those up to the lower median, until one is.

    Where a round tells none from the others, or after ceil(log2 n) + 1 rounds, the one with the
    smallest gradient is left, the first of equal ones.

    Args:
        candidates: two or more.
        gradients: of those given, [n].
    """
    left = list(candidates)
    most = math.ceil(math.log2(len(left))) + 1
    for number in range(most):
        found = gradients(left)
        below = (found <= found.median()).tolist()
        fewer = [candidate for candidate, stays in zip(left, below, strict=True) if stays]
        if not 0 < len(fewer) < len(left) or number == most - 1:
            fewer = [left[int(found.argmin())]]
        left = fewer
        yield left
        if len(left) == 1:
            return


def alpha_gradients(
    subnetworks: Subnetworks, names: Sequence[str], loss: Callable[[], Tensor]
) -> Tensor:
    """The gradient of a loss by each task's share of the superposed masks, all 1 / n; float [n].

    With G the gradient by the superposed weights, it is the sum of G * W over the task's mask.

    Args:
        subnetworks: left as they were.
        names: of kept tasks, n of them.
        loss: computes it, 0-d, with the network.

    Raises:
        BadSpec: a network with statistics of each task.
    """
    if subnetworks.norms:
        accepted = "a network without running statistics, where the task is to be inferred"
        raise BadSpec("model", next(iter(subnetworks.norms)), accepted)
    layers = list(subnetworks.layers.values())
    before = [layer.put_together for layer in layers]
    superposed: list[Tensor] = []
    try:
        for layer in layers:
            share = torch.zeros_like(layer.weight)
            for name in names:
                share += layer.mask_of(name)
            share /= len(names)
            weights = torch.where(share > 0, layer.weight.detach() * share, 0)
            layer.put_together = weights.requires_grad_()
            superposed.append(weights)
        with torch.enable_grad():
            slopes = torch.autograd.grad(loss(), superposed)
    finally:
        for layer, restored in zip(layers, before, strict=True):
            layer.put_together = restored
    total = slopes[0].new_zeros(len(names))
    for layer, slope in zip(layers, slopes, strict=True):
        pulls = slope * layer.weight.detach()
        masked = [on_mask(pulls, layer.mask_of(name)).sum() for name in names]
        total += torch.stack(masked)
    return total


def entropy(logits: Tensor) -> Tensor:
    """How unsure answers are: mean entropy of softmax, in nats; 0-d for [B, outputs]."""
    log_shares = logits.log_softmax(1)
    return -(log_shares.exp() * log_shares).sum(1).mean()


def superfluous(logits: Tensor, real: int) -> Tensor:
    """How much the outputs say that no class uses; 0-d for [B, outputs].

    It is the mean log-sum-exp of all outputs, whose gradient goes through the superfluous alone.

    Args:
        logits: of the network.
        real: outputs that stand for classes, the first ones.

    Raises:
        BadSpec: no output is superfluous.
    """
    if logits.shape[1] <= real:
        raise BadSpec("outputs", logits.shape[1], f"more than {real}, for superfluous ones")
    return torch.cat([logits[:, :real].detach(), logits[:, real:]], 1).logsumexp(1).mean()
