from __future__ import annotations

import pytest
import torch
from torch import Tensor

from clray.streams.examples import TensorExamples, cumulate
from clray.streams.transforms import PixelPermutations, permutation_tables
from clray.task import Sealed, Stream, Task

IMAGES = torch.arange(40 * 4, dtype=torch.uint8).view(40, 1, 2, 2)
LABELS = torch.arange(40) % 4
INDEX = torch.arange(1, 40, 3)


def collect(examples: TensorExamples, size: int, **options: int | None) -> tuple[Tensor, Tensor]:
    xs, ys = zip(*examples.batches(size, **options), strict=True)  # type: ignore[arg-type]
    return torch.cat(xs), torch.cat(ys)


@pytest.fixture
def examples() -> TensorExamples:
    return TensorExamples(IMAGES, LABELS, INDEX)


def test_no_batch_is_a_small_rest(examples: TensorExamples) -> None:
    assert [len(x) for x, _ in examples.batches(5)] == [4, 4, 5]
    assert [len(x) for x, _ in examples.batches(6, seed=0)] == [4, 4, 5]
    assert [len(x) for x, _ in examples.batches(99)] == [13]


def test_without_a_seed_batches_come_in_file_order(examples: TensorExamples) -> None:
    x, y = collect(examples, 5)
    assert x.dtype == torch.uint8
    assert y.dtype == torch.int64
    assert torch.equal(x, IMAGES[INDEX])
    assert torch.equal(y, LABELS[INDEX])


@pytest.mark.parametrize("size", [1, 4, 13, 99])
def test_each_epoch_shuffles_all_rows_anew(examples: TensorExamples, size: int) -> None:
    first = collect(examples, size, seed=3, epoch=0)[0]
    again = collect(examples, size, seed=3, epoch=0)[0]
    other = collect(examples, size, seed=3, epoch=1)[0]
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert sorted(first[:, 0, 0, 0].tolist()) == sorted(other[:, 0, 0, 0].tolist())


def test_the_order_does_not_depend_on_the_batch_size(examples: TensorExamples) -> None:
    whole = collect(examples, 99, seed=1)
    parts = collect(examples, 4, seed=1)
    assert torch.equal(whole[0], parts[0])
    assert torch.equal(whole[1], parts[1])


@pytest.mark.parametrize("world", [2, 3, 8])
@pytest.mark.parametrize("seed", [None, 5])
def test_ranks_share_every_batch(examples: TensorExamples, world: int, seed: int | None) -> None:
    whole = list(examples.batches(6, seed))
    shares = [list(examples.batches(6, seed, rank=r, world=world)) for r in range(world)]
    for i, (x, y) in enumerate(whole):
        assert torch.equal(torch.cat([share[i][0] for share in shares]), x)
        assert torch.equal(torch.cat([share[i][1] for share in shares]), y)


def test_what_is_yielded_may_be_written_to(examples: TensorExamples) -> None:
    before = IMAGES.clone(), LABELS.clone()
    for x, y in examples.batches(4):
        x.zero_()
        y.zero_()
    assert torch.equal(IMAGES, before[0])
    assert torch.equal(LABELS, before[1])


def test_labels_move_with_the_domain() -> None:
    examples = TensorExamples(IMAGES, LABELS, INDEX, domain=2, label_stride=4)
    assert torch.equal(collect(examples, 5)[1], LABELS[INDEX] + 8)
    assert torch.equal(LABELS, torch.arange(40) % 4)


def test_a_batch_size_of_none_is_refused(examples: TensorExamples) -> None:
    with pytest.raises(ValueError, match="1 or more, got 0"):
        next(examples.batches(0))


def test_joined_rows_keep_their_domains() -> None:
    tables = permutation_tables(range(3), 4, 7)
    transform = PixelPermutations(tables)
    parts = [
        TensorExamples(IMAGES, LABELS, INDEX, domain=t, transform=transform, label_stride=4)
        for t in range(3)
    ]
    joined = parts[0].join(parts[1:])
    x, y = collect(joined, 5)
    assert len(joined) == 3 * len(INDEX)
    assert torch.equal(x, torch.cat([collect(p, 99)[0] for p in parts]))
    assert torch.equal(y, torch.cat([collect(p, 99)[1] for p in parts]))
    shuffled_x, shuffled_y = collect(joined, 5, seed=2)
    rows = sorted(zip(x.flatten(1).tolist(), y.tolist(), strict=True))
    assert sorted(zip(shuffled_x.flatten(1).tolist(), shuffled_y.tolist(), strict=True)) == rows


def test_examples_of_different_streams_cannot_be_joined(examples: TensorExamples) -> None:
    other = TensorExamples(IMAGES.clone(), LABELS, INDEX)
    with pytest.raises(ValueError, match="one stream"):
        examples.join([other])


def test_sealed_examples_cannot_be_cumulated(examples: TensorExamples) -> None:
    task = Task(0, "a", (0, 1, 2, 3), Sealed("nothing"), examples)
    with pytest.raises(TypeError, match="Sealed cannot be joined"):
        cumulate(Stream((task,), "class-incremental", 4, (1, 2, 2)))
