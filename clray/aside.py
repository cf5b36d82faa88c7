"""Training examples that a learner sets aside, to see how well it does while it learns.

They are told by their content alone, and so found again in batches of any order, on any worker, in
memory or streamed; examples that are the same stay on the same side. What a method is graded on by
the frame is another matter, and nothing that it can touch.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from clray.distributed import Distributed
from clray.errors import BadSpec
from clray.task import Examples

BATCH = 512
"""Examples at once while a task is read; it changes nothing but memory and time."""


class Aside:
    """A share of each class's examples of one task: of n different ones the nearest to
    ``share * n``, halves up, but never all nor more than ``most``; and one of the task at least.

    Args:
        examples: of the task; they are read twice.
        share: in (0, 1).
        seed: says which.
        distributed: the workers that share the trial.
        most: different ones of a class; None: as many as the share says.

    Raises:
        BadSpec: no class has two examples.

    Attributes:
        x, y: this worker's part of what is set aside, [n, C, H, W] and int64 [n].
    """

    def __init__(
        self,
        examples: Examples,
        share: float,
        seed: int,
        distributed: Distributed,
        most: int | None = None,
    ) -> None:
        self.seed = seed
        self.multipliers: Tensor | None = None
        hashed = [(self.hashes(x), y) for x, y in _batches(examples, distributed)]
        hashes, labels = (distributed.gather(torch.cat(part)) for part in zip(*hashed, strict=True))
        self.bars = _bars(hashes.cpu(), labels.cpu(), share, most).to(labels.device)
        held = []
        for x, y in _batches(examples, distributed):
            here = self.holds(x, y)
            held.append((x[here], y[here]))
        self.x, self.y = (torch.cat(part) for part in zip(*held, strict=True))

    def holds(self, x: Tensor, y: Tensor) -> Tensor:
        """Which examples of a batch are set aside; bool [B] for [B, C, H, W] and int64 [B]."""
        return self.hashes(x) <= self.bars[y]

    def hashes(self, x: Tensor) -> Tensor:
        """Of each example's bytes, and the seed; int64 [B]."""
        rows = x.flatten(1).contiguous().view(torch.uint8)
        if rows.shape[1] % 4 == 0:
            rows = rows.view(torch.int32)
        if self.multipliers is None:
            generator = torch.Generator().manual_seed(self.seed)
            drawn = torch.randint(2**62, (rows.shape[1],), generator=generator)
            self.multipliers = (2 * drawn + 1).to(x.device)
        return (rows * self.multipliers).sum(1)  # modulo 2^64


def _bars(hashes: Tensor, labels: Tensor, share: float, most: int | None) -> Tensor:
    """Of each class, the largest hash that is set aside; int64 [classes]."""
    none = torch.iinfo(torch.int64).min
    bars = torch.full((int(labels.max()) + 1,), none)
    groups = {
        label: torch.unique(hashes[labels == label]) for label in torch.unique(labels).tolist()
    }
    for label, own in groups.items():  # sorted, and each content once
        wanted = min(len(own) - 1, int(share * len(own) + 0.5))
        if most is not None:
            wanted = min(wanted, most)
        if wanted:
            bars[label] = own[wanted - 1]
    if (bars == none).all():
        label, own = max(groups.items(), key=lambda group: len(group[1]))
        if len(own) < 2:
            raise BadSpec("method.held_out", share, "a task with two examples of some class")
        bars[label] = own[0]
    return bars


def _batches(examples: Examples, distributed: Distributed) -> Iterator[tuple[Tensor, Tensor]]:
    """This worker's part of the task, in the order of its files."""
    return examples.batches(BATCH, rank=distributed.rank, world=distributed.world)
