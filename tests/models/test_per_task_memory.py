from __future__ import annotations

import pytest
import torch
from torch import Tensor

from clray.distributed import Distributed
from clray.models.per_task_memory import PerTaskMemory


def make(capacity: int, num_tasks: int) -> PerTaskMemory:
    return PerTaskMemory(capacity, num_tasks, torch.Generator().manual_seed(0), Distributed())


def contents(memory: PerTaskMemory) -> dict[int, list[int]]:
    """The values of the images that are kept of each task."""
    x, y, tasks = memory.draw(memory.capacity)
    assert torch.equal(x.flatten().long() % 5, y)
    return {t: sorted(x[tasks == t].flatten().tolist()) for t in set(tasks.tolist())}


def images(first: int, n: int) -> tuple[Tensor, Tensor]:
    x = torch.arange(first, first + n, dtype=torch.uint8).view(-1, 1, 1, 1)
    return x, x.flatten().long() % 5


def test_each_task_has_its_share_and_keeps_it() -> None:
    """In whatever order tasks are numbered; a task of few examples leaves its room empty."""
    memory = make(11, 3)
    assert len(memory.draw(5)[1]) == 0
    memory.add(*images(0, 3), 7)
    memory.add(*images(3, 40), 7)
    first = contents(memory)
    assert len(first[7]) == len(set(first[7])) == 4
    assert max(first[7]) >= 4  # not just those that came first
    memory.add(*images(100, 2), 2)
    memory.add(*images(200, 50), 5)
    kept = contents(memory)
    assert kept[7] == first[7]
    assert kept[2] == [100, 101]
    assert len(kept[5]) == 3
    assert len(memory) == 9


def test_what_is_held_out_of_any_share_is_not_drawn() -> None:
    memory = make(12, 2)
    memory.add(*images(0, 30), 0)
    memory.add(*images(100, 30), 1)
    before = contents(memory)
    held = memory.hold_out(0.6, seed=1)[0].flatten().tolist()
    drawn = memory.draw(12)[0].flatten().tolist()
    assert len(held) >= 5
    assert sorted(held + drawn) == sorted(before[0] + before[1])
    memory.give_back()
    assert contents(memory) == before


def test_more_tasks_than_shares_are_refused() -> None:
    with pytest.raises(ValueError, match="2 examples for 3 tasks"):
        make(2, 3)
    memory = make(1, 1)
    memory.add(*images(0, 3), 0)
    with pytest.raises(ValueError, match="more than 1 tasks"):
        memory.add(*images(0, 3), 1)
