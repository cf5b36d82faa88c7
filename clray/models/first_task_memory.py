"""A memory in two parts: the first task's examples, and those of all later ones."""

from __future__ import annotations

import torch
from torch import Tensor

from clray.distributed import Distributed
from clray.memory import Batch, ClassBalancedMemory, Memory, ReservoirMemory


class FirstTaskMemory(Memory):
    """One part for the examples of the first task, another for those of all later ones.

    Args:
        capacity: of both, 2 or more.
        share: of the capacity that the first task has, in (0, 1); each part has one slot at least.
        kind: the memory that each part is.
        generator: randomness on the CPU, in step on all workers.
        distributed: the workers that share the trial.
    """

    def __init__(
        self,
        capacity: int,
        share: float,
        kind: type[ReservoirMemory | ClassBalancedMemory],
        generator: torch.Generator,
        distributed: Distributed,
    ) -> None:
        if capacity < 2:
            raise ValueError(f"a memory of {capacity} examples for two parts")
        super().__init__(capacity, generator, distributed)
        size = min(capacity - 1, max(1, int(share * capacity + 0.5)))
        # They say which slots are used, and hold no examples themselves.
        self.first = kind(size, generator, distributed)
        self.later = kind(capacity - size, generator, distributed)
        self.first_index: int | None = None
        self.filling_first = True

    def __len__(self) -> int:
        """How many examples are kept."""
        return len(self.first) + len(self.later)

    def add(self, x: Tensor, y: Tensor, task_index: int) -> None:
        """See ``Memory.add``; the task that comes first is the first task."""
        if self.first_index is None:
            self.first_index = task_index
        self.filling_first = task_index == self.first_index
        super().add(x, y, task_index)

    def draw_first(self, n: int) -> Batch:
        """Like ``draw``, of the first task's examples."""
        return self._draw(self._unheld(self.first._slots()), n)

    def draw_later(self, n: int) -> Batch:
        """Like ``draw``, of the later tasks' examples."""
        return self._draw(self._unheld(self.later._slots() + self.first.capacity), n)

    def _place(self, y: Tensor) -> tuple[Tensor, Tensor]:
        if self.filling_first:
            return self.first._place(y)
        rows, slots = self.later._place(y)
        return rows, slots + self.first.capacity

    def _occupied(self) -> Tensor | None:
        return torch.cat([self.first._slots(), self.later._slots() + self.first.capacity])
