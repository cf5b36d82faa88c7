"""What memories keep, and what they give back."""

from __future__ import annotations

import io
from collections import Counter

import pytest
import torch
from scipy.stats import chisquare
from torch import Tensor

from clray.distributed import Distributed
from clray.memory import ClassBalancedMemory, LogitsMemory, Memory, ReservoirMemory
from tests.memories import Worker, rows, stream

KINDS = [ReservoirMemory, ClassBalancedMemory]


def make(kind: type[Memory], capacity: int, seed: int = 0) -> Memory:
    return kind(capacity, torch.Generator().manual_seed(seed), Distributed())


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


def filled(kind: type[Memory], seed: int = 0) -> Memory:
    """At most 40 of 200 examples: many of classes 0 and 1, few of 2, and at most one of 3."""
    memory = make(kind, 40, seed)
    y = torch.tensor(([0] * 10 + [1] * 5 + [2]) * 12 + [0] * 7 + [3])
    memory.add(stream(200), y, 4)
    return memory


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", [0.01, 0.2, 0.5, 0.99])
def test_what_is_held_out_is_a_share_of_each_class_and_is_never_drawn(
    kind: type[Memory], share: float
) -> None:
    memory, untouched = filled(kind), filled(kind)
    before, labels, _ = untouched.draw(40)
    classes = Counter(labels.tolist())
    x, y, task = memory.hold_out(share, seed=3)
    assert Counter(y.tolist()) == {
        label: min(n - 1, max(1, int(share * n + 0.5))) for label, n in classes.items() if n > 1
    }
    assert set(task.tolist()) == {4}
    assert len(rows(x)) == len(y)
    assert len(memory) == len(untouched) == len(labels)
    assert memory.num_bytes == untouched.num_bytes
    others = rows(memory.draw(40)[0])
    assert others == rows(before) - rows(x)
    for n in (1, 7, 40):
        assert len(memory.draw(n)[1]) == min(n, len(others))
        assert not rows(memory.draw(n)[0]) & rows(x)
    counts = Counter(i for _ in range(400) for i in rows(memory.draw(5)[0]))
    assert chisquare([counts[i] for i in others]).pvalue > 0.001
    x.zero_()  # copies
    assert rows(memory.hold_out(share, seed=3)[0]) == rows(filled(kind).hold_out(share, 3)[0])


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_given_back_is_drawn_as_if_it_had_never_been_away(kind: type[Memory]) -> None:
    memory, untouched = filled(kind), filled(kind)
    choices = {frozenset(rows(memory.hold_out(0.3, seed)[0])) for seed in range(5)}
    assert len(choices) == 5  # the seed says which
    memory.give_back()
    for one, two in zip(memory.draw(9), untouched.draw(9), strict=True):
        assert torch.equal(one, two)
    assert len(memory.hold_out(0.3, 0)[1]) > 0
    assert len(make(kind, 5).hold_out(0.3, 0)[1]) == 0  # nothing is kept yet
    with pytest.raises(ValueError, match="share of 1"):
        memory.hold_out(1, 0)


@pytest.mark.parametrize("kind", KINDS)
def test_what_overwrites_an_example_that_is_held_out_is_drawn(kind: type[Memory]) -> None:
    memory = filled(kind)
    held = rows(memory.hold_out(0.5, seed=1)[0])
    stored = io.BytesIO()
    torch.save(memory, stored)
    stored.seek(0)
    loaded: Memory = torch.load(stored, weights_only=False)
    for one in (memory, loaded):
        new = stream(600)[200:]
        one.add(new, torch.arange(400) % 5, 5)
        drawn = rows(one.draw(40)[0])
        assert not drawn & held
        one.give_back()
        whole = rows(one.draw(40)[0])
        assert len(whole) == 40
        assert whole - drawn == whole & held  # only the old ones were away
        assert any(i >= 200 for i in drawn)
    for a, b in zip(memory.draw(9), loaded.draw(9), strict=True):
        assert torch.equal(a, b)


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
        apart = [memory.hold_out(0.3, step) for memory in (one, *two)] if step % 2 else []
        for whole, *copies in zip(*apart, strict=True):
            assert all(torch.equal(whole, other) for other in copies)
        drawn = [memory.draw(7) for memory in two]
        for whole, *parts in zip(one.draw(7), *drawn, strict=True):
            assert torch.equal(whole, torch.cat(parts))


@pytest.mark.parametrize("kind", KINDS)
def test_a_spread_takes_evenly_and_draws_nothing(kind: type[Memory]) -> None:
    memory, untouched = filled(kind), filled(kind)
    held = rows(memory.hold_out(0.2, seed=1)[0])
    whole = memory.spread(99)
    assert len(rows(whole[0])) == len(memory) - len(held)
    assert not rows(whole[0]) & held
    some = memory.spread(7)
    assert len(rows(some[0])) == 7
    assert rows(some[0]) <= rows(whole[0])
    assert all(torch.equal(a, b) for a, b in zip(some, memory.spread(7), strict=True))
    memory.give_back()
    assert memory.drawn == 0
    assert torch.equal(memory.draw(9)[0], untouched.draw(9)[0])
    assert memory.drawn == 9


@pytest.mark.parametrize("kind", KINDS)
def test_an_epoch_gives_each_example_that_is_not_held_out_once(kind: type[Memory]) -> None:
    memory = filled(kind)
    held = rows(memory.hold_out(0.2, seed=1)[0])
    count = len(memory) - len(held)
    orders = set()
    for number in range(1, 4):
        batches = list(memory.epoch(8))
        assert all(len(y) <= 8 for _, y, _ in batches)
        given = [i for x, _, _ in batches for i in (x[:, 0, 0, 0].long() * 256 + x[:, 0, 0, 1])]
        assert len(given) == count
        assert {int(i) for i in given} == rows(filled(kind).spread(99)[0]) - held
        assert memory.drawn == number * count
        orders.add(tuple(int(i) for i in given))
    assert len(orders) == 3


def dark(distributed: Distributed | None = None) -> LogitsMemory:
    return LogitsMemory(20, torch.Generator().manual_seed(0), distributed or Distributed())


def given(x: Tensor) -> Tensor:
    """Logits [B, 2] that tell which examples they were given to."""
    return torch.stack([x[:, 0, 0, 0].float(), x[:, 0, 0, 1].float() / 2], 1)


def test_logits_stay_with_their_example() -> None:
    """Also where they overwrite others, are held out, stored, or gathered from two workers."""
    memory, workers = dark(), [Worker(0), Worker(1)]
    two = [dark(worker) for worker in workers]
    for step in range(30):
        x = stream(20 * step + 20)[20 * step :]
        y = torch.arange(20) % 3
        memory.add(x, y, step, given(x).requires_grad_())
        for worker, half in zip(workers, two, strict=True):
            mine, theirs = (slice(0, 7), slice(7, 20))[:: 1 - 2 * worker.number]
            worker.others = {t.dtype: t[theirs] for t in (x, y, given(x))}
            half.add(x[mine], y[mine], step, given(x[mine]))
        held = rows(memory.hold_out(0.3, step)[0]) if step % 3 == 0 else set()
        for half in two:
            half.held = memory.held
        images, labels, logits = memory.draw_with_logits(9)
        assert torch.equal(logits, given(images))
        assert not rows(images) & held
        parts = [half.draw_with_logits(9) for half in two]
        for whole, *pieces in zip((images, labels, logits), *parts, strict=True):
            assert torch.equal(whole, torch.cat(pieces))
        memory.give_back()
    assert not memory.logits.requires_grad
    assert min(rows(memory.images)) >= 20  # the first have been overwritten
    assert memory.num_bytes == 20 * (2 + 8 + 8 + 2 * 4)
    stored = io.BytesIO()
    torch.save(memory, stored)
    stored.seek(0)
    loaded = torch.load(stored, weights_only=False)
    for one, other in zip(memory.draw_with_logits(9), loaded.draw_with_logits(9), strict=True):
        assert torch.equal(one, other)
    with pytest.raises(ValueError, match="given none"):
        memory.add(x, y, 30)


def test_logits_change_nothing_about_what_is_kept_and_drawn() -> None:
    plain, memory = make(ReservoirMemory, 20), dark()
    for step in range(5):
        x = stream(20 * step + 20)[20 * step :]
        plain.add(x, torch.zeros(20, dtype=torch.int64), step)
        memory.add(x, torch.zeros(20, dtype=torch.int64), step, given(x))
    assert torch.equal(plain.images, memory.images)
    assert torch.equal(plain.draw(7)[0], memory.draw_with_logits(7)[0])
    assert torch.equal(plain.draw(7)[0], memory.draw(7)[0])
