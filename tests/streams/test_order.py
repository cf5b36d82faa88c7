"""The order of a pass: what every way of reading a stored stream must keep."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from clray.spec import derive_seed
from clray.streams.order import EpochOrder, Indices
from clray.task import cut

RANDOM = np.random.default_rng(0)
RAGGED = tuple(RANDOM.integers(1, 40, 50).tolist())


def share(order: EpochOrder, rank: int, world: int) -> list[Indices]:
    """The batches of one worker, over all rounds."""
    batches = []
    for number in range(len(order.rounds)):
        rows, lengths = order.rows(number, rank, world)
        assert len(rows) == sum(lengths)
        batches += np.split(rows, np.cumsum(lengths)[:-1])
    return batches


@pytest.mark.parametrize("window", [20, 100, 10_000])
@pytest.mark.parametrize("size", [1, 33, 64])
@pytest.mark.parametrize("seed", [None, 3])
def test_each_row_comes_once_and_workers_share_every_batch(
    window: int, size: int, seed: int | None
) -> None:
    order = EpochOrder(RAGGED, size, window, seed, 0)
    whole = share(order, 0, 1)
    assert sorted(np.concatenate(whole).tolist()) == list(range(sum(RAGGED)))
    parts = cut(sum(RAGGED), size)
    assert [len(batch) for batch in whole] == [part.stop - part.start for part in parts]
    for world in range(2, 9):
        shares = [share(order, rank, world) for rank in range(world)]
        for index, batch in enumerate(whole):
            lengths = [len(own[index]) for own in shares]
            bounds = [rank * len(batch) // world for rank in range(world + 1)]
            assert lengths == np.diff(bounds).tolist()
            assert np.concatenate([own[index] for own in shares]).tolist() == batch.tolist()


def test_random_shapes() -> None:
    for trial in range(40):
        blocks = tuple(RANDOM.integers(1, 50, RANDOM.integers(1, 60)).tolist())
        size, window = int(RANDOM.integers(1, 70)), int(RANDOM.integers(1, sum(blocks) + 50))
        order = EpochOrder(blocks, size, window, trial if trial % 5 else None, trial)
        whole = np.concatenate(share(order, 0, 1))
        assert sorted(whole.tolist()) == list(range(sum(blocks)))
        shares = [share(order, rank, 5) for rank in range(5)]
        joined = [np.concatenate(own) for own in zip(*shares, strict=True)]
        assert np.concatenate(joined).tolist() == whole.tolist()


def test_the_order_is_a_function_of_seed_and_epoch() -> None:
    def rows(seed: int, epoch: int, window: int) -> list[int]:
        order = EpochOrder(RAGGED, 16, window, seed, epoch)
        # Rounds may be asked for in any order, as those who read ahead do.
        found = {n: order.rows(n)[0] for n in reversed(range(len(order.rounds)))}
        return np.concatenate([found[n] for n in sorted(found)]).tolist()  # type: ignore[no-any-return]

    for window in (100, 10_000):
        assert rows(1, 0, window) == rows(1, 0, window)
        assert rows(1, 0, window) != rows(1, 1, window)
        assert rows(1, 0, window) != rows(2, 0, window)


def test_a_task_that_fits_is_shuffled_as_one_in_memory() -> None:
    total = sum(RAGGED)
    natural = RANDOM.permutation(total)
    generator = torch.Generator().manual_seed(derive_seed(7, "epoch", 2))
    drawn = torch.randperm(total, generator=generator).numpy()
    for own in (None, natural):
        order = EpochOrder(RAGGED, 16, total, 7, 2, own)
        expected = drawn if own is None else natural[drawn]
        assert np.concatenate(share(order, 0, 1)).tolist() == expected.tolist()
    unshuffled = EpochOrder(RAGGED, 16, total, None, 0, natural)
    assert np.concatenate(share(unshuffled, 0, 1)).tolist() == natural.tolist()


def test_nothing_comes_of_nothing() -> None:
    assert EpochOrder((), 16, 10, 0, 0).rounds == []


@pytest.mark.parametrize(("world", "most"), [(1, 1.2), (2, 1.2), (4, 1.2), (5, 1.35), (7, 1.4)])
def test_a_worker_reads_little_more_than_its_rows(world: int, most: float) -> None:
    block = 256
    order = EpochOrder((block,) * 1000, 64, 21_000, 0, 0)
    for rank in (0, world - 1):
        for number in (0, 5):
            rows, _ = order.rows(number, rank, world)
            assert len(np.unique(rows // block)) * block < most * len(rows)


def test_batches_of_a_large_sorted_task_are_mixed() -> None:
    classes, block, size = 10, 64, 64
    order = EpochOrder((block,) * 2000, size, 128 * 100, 0, 0)
    labels = np.arange(order.total) * classes // order.total
    counts = np.stack([np.bincount(labels[own], minlength=10) for own in share(order, 0, 1)])
    seen = (counts > 0).sum(1)
    apart = np.abs(counts / size - 1 / classes).sum(1) / 2  # 0: the task's shares, 0.9: one class
    chance = np.stack([np.bincount(labels[own], minlength=10) for own in np.split(
        RANDOM.permutation(order.total), order.total // size)])  # fmt: skip
    even = np.abs(chance / size - 1 / classes).sum(1) / 2
    assert seen.min() >= 7
    assert apart.mean() < 1.25 * even.mean()
    assert apart.max() < 0.45
