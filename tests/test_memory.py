"""What memories keep, and what they give back."""

from __future__ import annotations

import io
from collections import Counter

import pytest
import torch
from scipy.stats import chisquare
from torch import Tensor

from clray.distributed import Distributed
from clray.memory import ClassBalancedMemory, Memory, ReservoirMemory

KINDS = [ReservoirMemory, ClassBalancedMemory]


def make(kind: type[Memory], capacity: int, seed: int = 0) -> Memory:
    return kind(capacity, torch.Generator().manual_seed(seed), Distributed())


def stream(n: int) -> Tensor:
    """Images that tell which example they are, [n, 1, 1, 2]."""
    return torch.tensor([[i // 256, i % 256] for i in range(n)], dtype=torch.uint8)[:, None, None]


def kept(memory: Memory) -> list[int]:
    x, _, _ = memory.draw(len(memory))
    return sorted((x[:, 0, 0, 0].long() * 256 + x[:, 0, 0, 1].long()).tolist())


@pytest.mark.parametrize("kind", KINDS)
def test_every_example_is_as_likely_to_be_kept(kind: type[Memory]) -> None:
    """One class, or the class that arrived first: uniform, whatever the batches."""
    n, capacity, counts = 60, 10, Counter[int]()
    x = stream(n)
    y = torch.zeros(n, dtype=torch.int64)
    for seed in range(700):
        memory = make(kind, capacity, seed)
        start = 0
        for size in (3, 25, 32):
            memory.add(x[start : start + size], y[start : start + size], 0)
            start += size
        if kind is ClassBalancedMemory:  # a second class takes half of the slots
            memory.add(x[:20] + 100, torch.ones(20, dtype=torch.int64), 1)
            counts.update(i for i in kept(memory) if i < n)
        else:
            counts.update(kept(memory))
    seen = [counts[i] for i in range(n)]
    assert sum(seen) == 700 * (capacity if kind is ReservoirMemory else capacity // 2)
    assert chisquare(seen).pvalue > 0.001


def test_a_reservoir_does_not_depend_on_the_batches() -> None:
    x, y = stream(500), torch.arange(500) % 7
    whole, parts = make(ReservoirMemory, 40), make(ReservoirMemory, 40)
    whole.add(x, y, 0)
    for size in (1, 5, 64, 130, 300):
        start = {1: 0, 5: 1, 64: 6, 130: 70, 300: 200}[size]
        parts.add(x[start : start + size], y[start : start + size], 0)
    assert torch.equal(whole.images, parts.images)
    assert torch.equal(whole.labels, parts.labels)
    assert len(set(kept(whole))) == 40


def test_classes_have_equal_shares_that_shrink() -> None:
    memory = make(ClassBalancedMemory, 10)
    batches = [[0] * 50, [1] * 7 + [0] * 9, [2] * 1, [2] * 30 + [3] * 30]
    expected = [{0: 10}, {0: 5, 1: 5}, {0: 4, 1: 3, 2: 1}, {0: 3, 1: 3, 2: 2, 3: 2}]
    for index, (labels, shares) in enumerate(zip(batches, expected, strict=True)):
        memory.add(stream(len(labels)), torch.tensor(labels), index)
        assert Counter(memory.draw(99)[1].tolist()) == shares
    many = make(ClassBalancedMemory, 4)
    many.add(stream(60), torch.arange(60) % 6, 0)  # more classes than slots
    assert Counter(many.draw(9)[1].tolist()) == {0: 1, 1: 1, 2: 1, 3: 1}


@pytest.mark.parametrize("kind", KINDS)
def test_keeps_its_promises_over_a_long_stream(kind: type[Memory]) -> None:
    memories = [make(kind, 50), make(kind, 50)]
    generator = torch.Generator().manual_seed(1)
    for step in range(60):
        size = int(torch.randint(0, 40, (), generator=generator))
        y = torch.randint(step // 10 + 1, (size,), generator=generator)
        x = y.to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 2, 2, 3).contiguous()
        for memory in memories:
            memory.add(x, y, step)
        assert len(memories[0]) <= 50
    a, b = memories
    assert torch.equal(a.images, b.images)
    assert a.images.dtype == torch.uint8
    assert a.num_bytes == 50 * (12 + 8 + 8)
    x, y, task = a.draw(20)
    assert x.shape == (20, 2, 2, 3)
    assert task.dtype == torch.int64
    assert torch.equal(x[:, 0, 0, 0].long(), y)  # images stay with their labels
    assert len(a) == 50
    stored = io.BytesIO()
    torch.save(a, stored)
    stored.seek(0)
    loaded = torch.load(stored, weights_only=False)
    for one, two in zip(a.draw(7), loaded.draw(7), strict=True):
        assert torch.equal(one, two)


@pytest.mark.parametrize("kind", KINDS)
def test_draws_each_example_once_and_all_when_fewer_are_kept(kind: type[Memory]) -> None:
    memory = make(kind, 30)
    memory.add(stream(8), torch.zeros(8, dtype=torch.int64), 0)
    assert kept(memory) == list(range(8))
    assert len(memory.draw(30)[1]) == 8
    counts: Counter[int] = Counter()
    for _ in range(800):
        x, _, _ = memory.draw(3)
        drawn = x[:, 0, 0, 1].tolist()
        assert len(set(drawn)) == 3
        counts.update(drawn)
    assert chisquare([counts[i] for i in range(8)]).pvalue > 0.001


class Worker(Distributed):
    """Worker ``number`` of two, when the other's rows are known."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.others: dict[torch.dtype, Tensor] = {}

    @property
    def rank(self) -> int:
        return self.number

    @property
    def world(self) -> int:
        return 2

    def gather(self, x: Tensor) -> Tensor:
        rows = self.others[x.dtype]
        return torch.cat([x, rows] if self.number == 0 else [rows, x])


@pytest.mark.parametrize("kind", KINDS)
def test_two_workers_hold_and_draw_what_one_does(kind: type[Memory]) -> None:
    one = make(kind, 20)
    workers = [Worker(0), Worker(1)]
    two = [kind(20, torch.Generator().manual_seed(0), worker) for worker in workers]
    for step in range(5):
        x, y = stream(33), torch.arange(33) % (step + 2)
        one.add(x, y, step)
        for worker, memory in zip(workers, two, strict=True):
            mine, theirs = (slice(0, 16), slice(16, 33))[:: 1 - 2 * worker.number]
            worker.others = {x.dtype: x[theirs], y.dtype: y[theirs]}
            memory.add(x[mine], y[mine], step)
        drawn = [memory.draw(7) for memory in two]
        for whole, *parts in zip(one.draw(7), *drawn, strict=True):
            assert torch.equal(whole, torch.cat(parts))
