"""A memory with room set apart for each task of the stream, from its start."""

from __future__ import annotations

import torch
from torch import Tensor

from clray.distributed import Distributed
from clray.memory import Memory, ReservoirMemory


class PerTaskMemory(Memory):
    """An equal share of the capacity for each task of the stream, a reservoir inside each.

    What is kept of a task stays as it is when later ones come, whose shares are empty until then.
    Shares differ by one at most, where the capacity is no multiple of the number of tasks: the
    tasks that come first have more.

    Args:
        capacity: of all, at least one for each task.
        num_tasks: length of the stream.
        generator: randomness on the CPU, in step on all workers.
        distributed: the workers that share the trial.
    """

    def __init__(
        self, capacity: int, num_tasks: int, generator: torch.Generator, distributed: Distributed
    ) -> None:
        if capacity < num_tasks:
            raise ValueError(f"a memory of {capacity} examples for {num_tasks} tasks")
        super().__init__(capacity, generator, distributed)
        self.num_tasks = num_tasks
        # They say which slots are used, and hold no examples themselves.
        self.parts: list[ReservoirMemory] = []
        self.starts: list[int] = []
        self.filling: dict[int, int] = {}
        self.current = 0

    def __len__(self) -> int:
        """How many examples are kept."""
        return sum(len(part) for part in self.parts)

    def add(self, x: Tensor, y: Tensor, task_index: int) -> None:
        """See ``Memory.add``; a share is taken by the first examples of a task.

        Raises:
            ValueError: examples of more tasks than there are shares.
        """
        if task_index not in self.filling:
            position = len(self.parts)
            if position == self.num_tasks:
                raise ValueError(f"examples of more than {self.num_tasks} tasks")
            share = -((position - self.capacity) // self.num_tasks)
            self.starts.append(sum(part.capacity for part in self.parts))
            self.parts.append(ReservoirMemory(share, self.generator, self.distributed))
            self.filling[task_index] = position
        self.current = self.filling[task_index]
        super().add(x, y, task_index)

    def _place(self, y: Tensor) -> tuple[Tensor, Tensor]:
        rows, slots = self.parts[self.current]._place(y)
        return rows, slots + self.starts[self.current]

    def _occupied(self) -> Tensor | None:
        if not self.parts:
            return None
        pairs = zip(self.starts, self.parts, strict=True)
        return torch.cat([torch.arange(start, start + len(part)) for start, part in pairs])
