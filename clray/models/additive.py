"""Weights that are a masked share of what all tasks have, and sparse numbers of a task's own.

Additive parameter decomposition (Yoon et al. 2020, arXiv 1902.09432): a task's weight is

    theta = shared * sigmoid(scores) + adaptive,

with a mask over the outputs. Tasks may be stacked: then scores and adaptive numbers have a first
dimension more, and so has theta.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from clray.models.bitmask import pack, unpack
from clray.models.consolidation import clustered, split


@dataclass
class Parts:
    """What a task has of a layer, or several tasks of it, stacked.

    Attributes:
        scores: float [outputs], or [tasks, outputs].
        adaptive: float [outputs, ...], or [tasks, outputs, ...].
    """

    scores: Tensor
    adaptive: Tensor

    def parameters(self) -> list[nn.Parameter]:
        """Both, where they learn."""
        return [t for t in (self.scores, self.adaptive) if isinstance(t, nn.Parameter)]

    def weight(self, shared: Tensor) -> Tensor:
        """The weights theta, [outputs, ...] or [tasks, outputs, ...], for shared [outputs, ...]."""
        mask = self.scores.sigmoid()
        spread = mask.view(*mask.shape, *(1,) * (shared.ndim - 1))
        return torch.addcmul(self.adaptive, shared, spread)

    def drift(self, shared: Tensor, target: Tensor) -> Tensor:
        """Half the squared distance of stacked weights from a target of their shape, which gets no
        gradient; 0-d."""
        value: Tensor = _Drift.apply(shared, self.scores, self.adaptive, target)
        return value


class _Drift(torch.autograd.Function):
    """The distance is all that its gradients need, so nothing else of that size is kept."""

    @staticmethod
    def forward(ctx: Any, shared: Tensor, scores: Tensor, adaptive: Tensor, target: Tensor) -> Any:
        gap = Parts(scores, adaptive).weight(shared).sub_(target)
        ctx.save_for_backward(gap, shared, scores)
        flat = gap.flatten()
        return torch.dot(flat, flat) / 2

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> Any:
        gap, shared, scores = ctx.saved_tensors
        mask, pull = scores.sigmoid(), gap * outputs[0]
        rows = pull.flatten(2)
        # On CPUs a fifth of the time of the same as products of matrices.
        to_shared = (rows * mask.unsqueeze(2)).sum(0).view_as(shared)
        to_mask = torch.linalg.vecdot(rows, shared.flatten(1))
        return to_shared, to_mask * mask * (1 - mask), pull, None


def pruned(numbers: Tensor, threshold: float) -> Tensor:
    """A copy without the numbers whose magnitude is at most ``threshold``."""
    return torch.where(numbers.abs() <= threshold, 0.0, numbers)  # what is no number shows


class SparseStack(nn.Module):
    """Sparse tensors of one shape: for each, the values that are not zero and a bit for each place.

    Args:
        tensors: [n, ...].
    """

    def __init__(self, tensors: Tensor) -> None:
        super().__init__()
        self.shape = tensors.shape[1:]
        for i, tensor in enumerate(tensors.detach()):
            mask = tensor != 0
            self.register_buffer(f"values_{i}", tensor[mask])
            self.register_buffer(f"bits_{i}", pack(mask))

    def one(self, i: int) -> Tensor:
        """The tensor at a place, dense."""
        values = self.get_buffer(f"values_{i}")
        mask = unpack(self.get_buffer(f"bits_{i}"), self.shape)
        return values.new_zeros(self.shape).masked_scatter_(mask, values)

    @property
    def counts(self) -> list[int]:
        """How many numbers of each are not zero."""
        return [value.numel() for name, value in self.named_buffers() if name.startswith("values")]


class Held(nn.Module):
    """What all tasks have of one layer, in their order, and what groups of them have.

    Args:
        shared: the layer's weight, which is not held here.
        threshold: the largest magnitude of a number that is pruned.

    Attributes:
        adaptive: of each task.
        common: of each group, to be added to its tasks' adaptive numbers.
    """

    scores: Tensor
    labels: Tensor

    def __init__(self, shared: Tensor, threshold: float) -> None:
        super().__init__()
        self.threshold = threshold
        nothing = shared.detach().new_zeros(0, *shared.shape)
        self.register_buffer("scores", nothing.new_zeros(0, len(shared)))
        self.register_buffer("labels", torch.zeros(0, dtype=torch.int64, device=shared.device))
        self.adaptive, self.common = SparseStack(nothing), SparseStack(nothing)

    def parts(self) -> Parts:
        """Scores and adaptive numbers of all tasks, stacked."""
        each = [self.adaptive.one(i) for i in range(len(self.scores))]
        return Parts(self.scores, torch.stack(each))

    def keep(self, parts: Parts) -> None:
        """Hold these of all tasks from now on, pruned."""
        self.scores = parts.scores.detach().clone()
        self.adaptive = SparseStack(pruned(parts.adaptive, self.threshold))

    def added(self, i: int) -> Tensor | float:
        """What the group of a task adds to its adaptive numbers."""
        return self.common.one(int(self.labels[i])) if i < len(self.labels) else 0.0

    @torch.no_grad()
    def consolidate(self, number: int, tolerance: float, generator: torch.Generator) -> None:
        """Put the tasks into so many groups, or fewer, anew: see ``clray.models.consolidation``."""
        adaptive = self.parts().adaptive
        whole = torch.stack([own + self.added(i) for i, own in enumerate(adaptive)])
        labels = clustered(whole.flatten(1), number, self.labels.tolist(), generator)
        own, common = split(whole, labels, number, tolerance)
        self.labels = torch.tensor(labels, device=whole.device)
        self.adaptive = SparseStack(own)
        self.common = SparseStack(pruned(common, self.threshold))
