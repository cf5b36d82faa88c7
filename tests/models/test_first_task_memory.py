"""What a memory in two parts keeps, and what it gives back."""

from __future__ import annotations

import io
from collections import Counter

import pytest
import torch

from clray.distributed import Distributed
from clray.memory import ClassBalancedMemory, ReservoirMemory
from clray.models.first_task_memory import FirstTaskMemory
from tests.memories import Worker, rows, stream

Part = type[ReservoirMemory | ClassBalancedMemory]
PARTS: list[Part] = [ReservoirMemory, ClassBalancedMemory]


def parted(
    kind: Part = ClassBalancedMemory, capacity: int = 40, distributed: Distributed | None = None
) -> FirstTaskMemory:
    generator = torch.Generator().manual_seed(0)
    return FirstTaskMemory(capacity, 0.7, kind, generator, distributed or Distributed())


def feed(memory: FirstTaskMemory, task: int) -> None:
    """60 examples of two classes, which only that task has."""
    memory.add(stream(300)[60 * task : 60 * task + 60], torch.arange(60) % 2 + 2 * task, task)


@pytest.mark.parametrize("kind", PARTS)
def test_the_first_task_and_the_later_ones_have_a_part_each(kind: Part) -> None:
    memory = parted(kind)
    sizes = [(28, 0), (28, 12), (28, 12), (28, 12)]
    for task, (first, later) in enumerate(sizes):
        feed(memory, task)
        assert len(memory) == first + later
        assert len(memory.draw(99)[1]) == first + later
        x, y, origins = memory.draw_first(99)
        assert len(y) == first
        assert not origins.any()
        x, y, origins = memory.draw_later(99)
        assert set(origins.tolist()) == set(range(1, task + 1))
        assert rows(x) <= set(range(60, 60 * task + 60))
        assert torch.equal(y // 2, origins)
        if kind is ClassBalancedMemory and task:
            counts = Counter(y.tolist()).values()
            assert max(counts) - min(counts) <= 1
    assert memory.drawn == sum(2 * (first + later) for first, later in sizes)
    assert memory.num_bytes == 40 * (2 + 8 + 8)
    assert len(memory.draw_first(5)[1]) == len(memory.draw_later(5)[1]) == 5


def test_the_part_of_the_first_task_is_that_of_the_one_that_comes_first() -> None:
    """A learner that takes over in the middle of a stream."""
    memory = parted()
    feed(memory, 3)
    feed(memory, 4)
    assert set(memory.draw_first(99)[2].tolist()) == {3}
    assert set(memory.draw_later(99)[2].tolist()) == {4}
    with pytest.raises(ValueError, match="1 examples for two parts"):
        parted(capacity=1)
    small = parted(capacity=2)
    assert small.first.capacity == small.later.capacity == 1


@pytest.mark.parametrize("kind", PARTS)
def test_both_parts_hold_out_give_back_and_are_stored(kind: Part) -> None:
    memory = parted(kind)
    for task in range(3):
        feed(memory, task)
    held = rows(memory.hold_out(0.3, seed=1)[0])
    stored = io.BytesIO()
    torch.save(memory, stored)
    stored.seek(0)
    loaded: FirstTaskMemory = torch.load(stored, weights_only=False)
    for one in (memory, loaded):
        drawn = rows(one.draw_first(99)[0]) | rows(one.draw_later(99)[0])
        assert len(drawn) == 40 - len(held)
        assert drawn == rows(one.draw(99)[0])
        assert not drawn & held
        feed(one, 3)
        one.give_back()
    for a, b in zip(memory.draw_later(7), loaded.draw_later(7), strict=True):
        assert torch.equal(a, b)
    assert len(rows(memory.draw(99)[0])) == 40


def test_parts_of_two_workers_are_those_of_one() -> None:
    one, workers = parted(), [Worker(0), Worker(1)]
    two = [parted(distributed=worker) for worker in workers]
    for task in range(3):
        x, y = stream(300)[60 * task : 60 * task + 60], torch.arange(60) % 2 + 2 * task
        one.add(x, y, task)
        for worker, memory in zip(workers, two, strict=True):
            mine, theirs = (slice(0, 25), slice(25, 60))[:: 1 - 2 * worker.number]
            worker.others = {x.dtype: x[theirs], y.dtype: y[theirs]}
            memory.add(x[mine], y[mine], task)
        for whole, *pieces in zip(
            one.draw_first(7), *[memory.draw_first(7) for memory in two], strict=True
        ):
            assert torch.equal(whole, torch.cat(pieces))
        for whole, *pieces in zip(
            one.draw_later(5), *[memory.draw_later(5) for memory in two], strict=True
        ):
            assert torch.equal(whole, torch.cat(pieces))
    assert [memory.drawn for memory in two] == [one.drawn] * 2
