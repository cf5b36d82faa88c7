"""The workers that share one trial: rank, world size, exact means over examples, gradients.

Every worker cuts the same global batch and takes its slice, so that N workers compute what one
worker computes, up to rounding. A process outside any group is a group of one, and pays nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

if dist.is_available():
    # Its functions keep the group that is there when it is imported, which torch's optimizers do at
    # their first use: imported while there is none, it lets a group end when it is destroyed.
    import torch.distributed.nn


class Distributed:
    """The group of workers that this process belongs to.

    Stateless: it pickles to nothing and is restored as the group of the process that loads it.
    """

    def __reduce__(self) -> tuple[type[Distributed], tuple[()]]:
        return (Distributed, ())

    @property
    def rank(self) -> int:
        """This worker's number, from 0."""
        return dist.get_rank() if _grouped() else 0

    @property
    def world(self) -> int:
        """How many workers share the trial."""
        return dist.get_world_size() if _grouped() else 1

    def slice(self, n: int) -> slice:
        """This worker's contiguous part of ``n`` items; the parts in rank order are all of them."""
        return slice(self.rank * n // self.world, (self.rank + 1) * n // self.world)

    def sum(self, value: Tensor) -> Tensor:
        """The sum of ``value`` over workers, the same on each; never changes ``value``."""
        if self.world == 1:
            return value
        total = value.detach().clone()
        dist.all_reduce(total)
        return total

    def mean(self, values: Tensor) -> Tensor:
        """Mean of per-example ``values`` [B, ...] over the first dimension and all workers.

        Differentiable such that the mean of the workers' gradients is the gradient of the global
        mean, also when the workers hold unequal shares. With several workers, the value itself is
        this worker's part of it; ``Distributed.sum(value) / world`` is the whole.
        """
        if self.world == 1:
            return values.mean(0)
        count = self.sum(torch.tensor(float(len(values)), device=values.device))
        return values.sum(0) * (self.world / count)

    def gather(self, x: Tensor) -> Tensor:
        """All workers' ``x`` [B_rank, ...], of any sizes, joined in rank order."""
        if self.world == 1:
            return x
        counts = [torch.zeros(1, dtype=torch.int64, device=x.device) for _ in range(self.world)]
        dist.all_gather(counts, torch.tensor([len(x)], device=x.device))
        sizes = [int(c) for c in counts]
        padded = x.new_zeros((max(sizes), *x.shape[1:]))
        padded[: len(x)] = x
        parts = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(parts, padded)
        return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace each gradient by its mean over workers, in one exchange."""
        if self.world == 1:
            return
        gradients = [p.grad for p in parameters if p.grad is not None]
        if not gradients:
            return
        flat = torch.cat([g.reshape(-1) for g in gradients])
        dist.all_reduce(flat)
        flat /= self.world
        start = 0
        for gradient in gradients:
            gradient.copy_(flat[start : start + gradient.numel()].view_as(gradient))
            start += gradient.numel()

    def broadcast(self, value: Any) -> Any:
        """Worker 0's picklable ``value``, on every worker."""
        if self.world == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]


def _grouped() -> bool:
    return dist.is_available() and dist.is_initialized()
