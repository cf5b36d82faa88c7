"""Examples kept from the stream, and drawn again.

Contents lie on the device; which example goes where is decided on the CPU with the learner's
generator, for a whole batch at once. With several workers, every worker holds the same memory:
``add`` gathers all workers' rows, and ``draw`` gives each worker its part of one common draw.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator

import torch
from torch import Tensor

from clray.distributed import Distributed
from clray.task import cut

Batch = tuple[Tensor, Tensor, Tensor]


class Memory(ABC):
    """At most ``capacity`` examples: image or features, label, index of the task it came with.

    Args:
        capacity: the most examples that are kept, 1 or more.
        generator: randomness on the CPU, in step on all workers.
        distributed: the workers that share the trial.

    Attributes:
        drawn: how many examples draws have given so far, over all workers.
    """

    drawn: int = 0

    def __init__(self, capacity: int, generator: torch.Generator, distributed: Distributed) -> None:
        if capacity < 1:
            raise ValueError(f"a memory of {capacity} examples")
        self.capacity = capacity
        self.generator = generator
        self.distributed = distributed
        self.images = torch.empty(0, dtype=torch.uint8)
        self.labels = torch.empty(0, dtype=torch.int64)
        self.tasks = torch.empty(0, dtype=torch.int64)
        self.held: frozenset[int] = frozenset()

    @abstractmethod
    def __len__(self) -> int:
        """How many examples are kept."""

    @abstractmethod
    def _place(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Where a batch with labels ``y`` goes: rows of the batch and as many distinct slots."""

    @abstractmethod
    def _occupied(self) -> Tensor | None:
        """The slots in use; None: the first ``len(self)``."""

    def add(self, x: Tensor, y: Tensor, task_index: int) -> None:
        """Offer this worker's examples [B, C, H, W], kept in their type, and labels int64 [B]; all
        workers must call it."""
        self._add(x, y, task_index)

    def _add(self, x: Tensor, y: Tensor, task_index: int) -> tuple[Tensor, Tensor]:
        """Rows of all workers' examples that were kept, and their slots."""
        x, y = self.distributed.gather(x), self.distributed.gather(y)
        if len(self.images) == 0:
            self.images = x.new_zeros((self.capacity, *x.shape[1:]))
            self.labels = y.new_zeros(self.capacity)
            self.tasks = y.new_zeros(self.capacity)
        rows, slots = self._place(y)
        if self.held:
            self.held -= set(slots.tolist())
        rows, slots = rows.to(x.device), slots.to(x.device)
        self.images[slots] = x[rows]
        self.labels[slots] = y[rows]
        self.tasks[slots] = task_index
        return rows, slots

    def draw(self, n: int) -> Batch:
        """Images, labels and task indices of ``n`` distinct examples, drawn uniformly.

        All of them, in random order, where fewer are kept; none that is held out. With several
        workers, this worker's part of the draw (possibly empty).
        """
        return self._draw(self._candidates(), n)

    def epoch(self, size: int) -> Iterator[Batch]:
        """All that may be drawn, once, in random order and in batches of at most ``size``: whole
        ones, the same on all workers."""
        slots = self._drawable()
        slots = slots[torch.randperm(len(slots), generator=self.generator)]
        self.drawn += len(slots)
        slots = slots.to(self.images.device)
        for part in cut(len(slots), size):
            yield self._at(slots[part])

    def _draw(self, occupied: Tensor | None, n: int) -> Batch:
        return self._at(self._choose(occupied, n))

    def _choose(self, occupied: Tensor | None, n: int) -> Tensor:
        """Draw from these slots; None: from the first ``len(self)``."""
        count = len(self) if occupied is None else len(occupied)
        index = torch.randperm(count, generator=self.generator)[:n]
        self.drawn += len(index)
        index = index[self.distributed.slice(len(index))]
        return (index if occupied is None else occupied[index]).to(self.images.device)

    def _at(self, slots: Tensor) -> Batch:
        return self.images[slots], self.labels[slots], self.tasks[slots]

    def spread(self, n: int) -> Batch:
        """Images, labels and task indices of at most ``n`` examples, evenly spread over those that
        may be drawn; the same on all workers. Nothing random, and not counted as drawn."""
        occupied = self._drawable()
        if len(occupied) > n:
            occupied = occupied[torch.arange(n) * len(occupied) // n]
        return self._at(occupied.to(self.images.device))

    def hold_out(self, share: float, seed: int) -> Batch:
        """Keep a share of each class's examples out of later draws, until ``give_back``.

        Of n examples of a class: ``share * n`` to the nearest (halves up), but at least one and at
        most n - 1; none of a class with one example. What was held out before is given back first.
        ``add`` may overwrite what is held out; the new example is then drawn as any other. The
        learner's own randomness is not touched.

        Args:
            share: in (0, 1).
            seed: says which; the same on all workers.

        Returns:
            Copies of these examples, the same on all workers: images, labels, task indices.

        Raises:
            ValueError: a share out of bounds.
        """
        if not 0 < share < 1:
            raise ValueError(f"a share of {share} of the memory, accepted: above 0, below 1")
        occupied = self._slots()
        labels = self.labels[occupied.to(self.labels.device)].cpu()
        generator = torch.Generator().manual_seed(seed)
        mixed = torch.randperm(len(occupied), generator=generator)
        taken = [mixed[:0]]
        for label in sorted(set(labels.tolist())):
            found = mixed[labels[mixed] == label]
            count = max(1, int(share * len(found) + 0.5))
            taken.append(found[: min(len(found) - 1, count)])
        slots = occupied[torch.cat(taken)]
        self.held = frozenset(slots.tolist())
        return self._at(slots.to(self.images.device))

    def give_back(self) -> None:
        """Let everything that is kept be drawn again."""
        self.held = frozenset()

    def _candidates(self) -> Tensor | None:
        """The slots that are drawn from; None: the first ``len(self)``."""
        return self._drawable() if self.held else self._occupied()

    def _drawable(self) -> Tensor:
        return self._unheld(self._slots())

    def _unheld(self, slots: Tensor) -> Tensor:
        return slots[~torch.isin(slots, torch.tensor(sorted(self.held)))] if self.held else slots

    def _slots(self) -> Tensor:
        occupied = self._occupied()
        return torch.arange(len(self)) if occupied is None else occupied.cpu()

    @property
    def num_bytes(self) -> int:
        """What the memory takes on each worker, filled or not."""
        kept = (self.images, self.labels, self.tasks)
        return sum(t.numel() * t.element_size() for t in kept)


class ReservoirMemory(Memory):
    """A uniform sample of the stream: algorithm R (Vitter 1985, doi 10.1145/3147.3165).

    What is kept does not depend on how the stream is cut into batches.
    """

    def __init__(self, capacity: int, generator: torch.Generator, distributed: Distributed) -> None:
        super().__init__(capacity, generator, distributed)
        self.seen = 0

    def __len__(self) -> int:
        """How many examples are kept."""
        return min(self.seen, self.capacity)

    def _place(self, y: Tensor) -> tuple[Tensor, Tensor]:
        slots = _reservoir(self.seen, len(y), self.capacity, self.generator)
        self.seen += len(y)
        return _last_writers(slots, self.capacity)

    def _occupied(self) -> Tensor | None:
        return None


class ClassBalancedMemory(Memory):
    """An equal share of the capacity for each class seen so far, a reservoir inside each.

    Shares differ by one at most, where the capacity is no multiple of the number of classes: the
    classes that came first have more. When a class arrives, the others give up examples at
    random. ``add`` reads the labels on the CPU, and so waits for the device.
    """

    def __init__(self, capacity: int, generator: torch.Generator, distributed: Distributed) -> None:
        super().__init__(capacity, generator, distributed)
        self.seen: dict[int, int] = {}
        self.slots: dict[int, Tensor] = {}
        self.free = torch.arange(capacity)

    def __len__(self) -> int:
        """How many examples are kept."""
        return self.capacity - len(self.free)

    def share(self, label: int) -> int:
        """The most examples that a seen class may hold now."""
        position = list(self.seen).index(label)
        return -((position - self.capacity) // len(self.seen))

    def _place(self, y: Tensor) -> tuple[Tensor, Tensor]:
        labels = y.cpu()
        present = sorted(set(labels.tolist()))
        arrived = [label for label in present if label not in self.seen]
        if arrived:
            self._make_room(arrived)
        rows, slots = [labels[:0]], [labels[:0]]
        for label in present:
            found = (labels == label).nonzero().squeeze(1)
            count, share = self.seen[label], self.share(label)
            wanted = _reservoir(count, len(found), share, self.generator)
            self.seen[label] = count + len(found)
            new = min(self.seen[label], share) - len(self.slots[label])
            self.slots[label] = torch.cat([self.slots[label], self.free[:new]])
            self.free = self.free[new:]
            row, place = _last_writers(wanted, share)
            rows.append(found[row])
            slots.append(self.slots[label][place])
        return torch.cat(rows), torch.cat(slots)

    def _make_room(self, arrived: list[int]) -> None:
        for label in arrived:
            self.seen[label] = 0
            self.slots[label] = self.free[:0]
        for label, slots in self.slots.items():
            if (share := self.share(label)) < len(slots):
                mixed = slots[torch.randperm(len(slots), generator=self.generator)]
                self.slots[label] = mixed[:share]
                self.free = torch.cat([self.free, mixed[share:]])

    def _occupied(self) -> Tensor | None:
        return torch.cat(list(self.slots.values())) if self.slots else None


class LogitsMemory(ReservoirMemory):
    """A reservoir that keeps, with each example, the logits that came with it."""

    def __init__(self, capacity: int, generator: torch.Generator, distributed: Distributed) -> None:
        super().__init__(capacity, generator, distributed)
        self.logits = torch.empty(0)

    def add(self, x: Tensor, y: Tensor, task_index: int, logits: Tensor | None = None) -> None:
        """See ``Memory.add``; with logits [B, D], kept in their type.

        Raises:
            ValueError: no logits.
        """
        if logits is None:
            raise ValueError("this memory keeps logits, and was given none")
        logits = self.distributed.gather(logits.detach())
        rows, slots = self._add(x, y, task_index)
        if len(self.logits) == 0:
            self.logits = logits.new_zeros((self.capacity, *logits.shape[1:]))
        self.logits[slots] = logits[rows]

    def draw_with_logits(self, n: int) -> Batch:
        """Like ``draw``: images, labels, and the logits in place of task indices."""
        slots = self._choose(self._candidates(), n)
        return self.images[slots], self.labels[slots], self.logits[slots]

    @property
    def num_bytes(self) -> int:
        """See ``Memory.num_bytes``; logits count."""
        return super().num_bytes + self.logits.numel() * self.logits.element_size()


def _reservoir(seen: int, n: int, capacity: int, generator: torch.Generator) -> Tensor:
    """The slot of each of ``n`` arrivals, int64 [n]; ``capacity`` or above: not kept."""
    number = torch.arange(seen, seen + n)
    uniform = torch.rand(n, dtype=torch.float64, generator=generator)
    return torch.where(number < capacity, number, (uniform * (number + 1)).long())


def _last_writers(slots: Tensor, capacity: int) -> tuple[Tensor, Tensor]:
    """Rows and distinct slots below ``capacity``: where several rows want one, the last has it."""
    last = torch.full((capacity,), -1)
    kept = slots < capacity
    rows = torch.arange(len(slots))[kept]
    last.scatter_reduce_(0, slots[kept], rows, "amax")
    written = (last >= 0).nonzero().squeeze(1)
    return last[written], written
