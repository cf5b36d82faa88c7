from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from clray.errors import BadSpec
from clray.streams.examples import TensorExamples
from clray.streams.task_orders import ORDERS
from clray.task import Stream

MakeStream = Callable[..., Stream]
PARTS = ["digits", "synthetic/5x20", "synthetic/3x10"]


def make(make_stream: MakeStream, parts: list[str] = PARTS, **knobs: Any) -> Stream:
    return make_stream("several", "test", dataset=parts, image_size=8, channels=1, **knobs)


@pytest.mark.parametrize("scenario", ["class-incremental", "task-incremental"])
def test_each_dataset_is_a_task_with_its_own_units(make_stream: MakeStream, scenario: str) -> None:
    stream = make(make_stream, scenario=scenario, task_order=[2, 0])
    assert [t.name for t in stream.tasks] == [PARTS[2], PARTS[0]]
    assert [t.classes for t in stream.tasks] == [(10, 11, 12), tuple(range(10))]
    assert [len(t.train) for t in stream.tasks] == [30, 1442]
    assert [len(t.eval) for t in stream.tasks] == [6, 355]
    assert stream.num_classes == 13
    train = stream.tasks[0].train
    assert isinstance(train, TensorExamples)
    assert train.labels[train.index[:4]].tolist() == [10, 11, 12, 10]


def test_datasets_of_as_many_classes_may_share_units(make_stream: MakeStream) -> None:
    parts = ["digits", "synthetic/10x5"]
    stream = make(make_stream, parts, scenario="domain-incremental")
    assert [t.classes for t in stream.tasks] == [tuple(range(10))] * 2
    assert stream.num_classes == 10
    with pytest.raises(BadSpec, match=r"domain-incremental: classes: got .10, 5, 3."):
        make(make_stream, scenario="domain-incremental")


def test_bad_lists(make_stream: MakeStream) -> None:
    with pytest.raises(BadSpec, match="got 'digits twice'"):
        make(make_stream, ["digits", "digits"])
    with pytest.raises(BadSpec, match="num_tasks: got 2; accepted: 3, one for each dataset"):
        make(make_stream, num_tasks=2)


def test_published_orders_hold_each_task_once() -> None:
    for orders in ORDERS.values():
        for order in orders.values():
            assert sorted(order) == list(range(len(order)))
        assert len(set(orders.values())) == len(orders) > 3
