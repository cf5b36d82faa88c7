from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from clray.errors import BadData
from clray.streams.examples import TensorExamples
from clray.task import Stream

MakeStream = Callable[..., Stream]


@pytest.mark.parametrize("split", ["validation", "test"])
def test_the_training_set_is_dealt_out(make_stream: MakeStream, split: str) -> None:
    stream = make_stream("chunked-digits", split)
    rows = []
    for task in stream.tasks:
        assert isinstance(task.train, TensorExamples)
        assert task.classes == tuple(range(10))
        assert set(task.train.labels[task.train.index].tolist()) == set(range(10))
        rows.append(task.train.index)
    whole = torch.cat(rows)
    assert len(set(whole.tolist())) == len(whole)
    sizes = [len(r) for r in rows]
    assert max(sizes) - min(sizes) <= 1
    assert {id(t.eval) for t in stream.tasks} == {id(stream.tasks[0].eval)}
    held = len(stream.tasks[0].eval) if split == "validation" else 0
    assert len(whole) + held == 1442


def test_another_seed_cuts_elsewhere(make_stream: MakeStream) -> None:
    indices = []
    for seed in (0, 0, 1):
        train = make_stream("chunked-digits", "test", seed=seed).tasks[0].train
        assert isinstance(train, TensorExamples)
        indices.append(train.index)
    assert torch.equal(indices[0], indices[1])
    assert not torch.equal(indices[0], indices[2])


def test_chunks_keep_their_names_when_reordered(make_stream: MakeStream) -> None:
    stream = make_stream("chunked-digits", task_order=[2, 0])
    assert [t.name for t in stream.tasks] == ["chunk-2", "chunk-0"]


def test_more_chunks_than_examples_of_a_class(make_stream: MakeStream) -> None:
    with pytest.raises(BadData, match="accepted: 500 or more, one for each task"):
        make_stream("chunked-digits", num_tasks=500)
