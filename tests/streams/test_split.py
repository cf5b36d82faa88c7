from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from clray import registry
from clray.errors import BadInput, BadSpec
from clray.spec import Component
from clray.streams import sources
from clray.streams.dataset import Source
from clray.streams.examples import TensorExamples
from clray.streams.superclasses import CIFAR100
from clray.task import Stream

MakeStream = Callable[..., Stream]
PARITY = {"odd": [1, 3, 5, 7, 9], "even": [0, 2, 4, 6, 8]}


def original(examples: Any) -> set[int]:
    """The dataset's classes of a task's training rows."""
    assert isinstance(examples, TensorExamples)
    labels = sources.load(Source("digits")).train_y
    return set(labels[examples.index].tolist())


def labels(examples: Any) -> set[int]:
    return {int(n) for _, y in examples.batches(64) for n in y}


def check(**knobs: Any) -> int:
    config = registry.configure("benchmark", Component(name="split-digits", **knobs))
    tasks: int = config.check()
    return tasks


@pytest.mark.parametrize("scenario", ["class-incremental", "task-incremental"])
def test_tasks_bring_new_classes(make_stream: MakeStream, scenario: str) -> None:
    stream = make_stream("split-digits", scenario=scenario)
    assert stream.scenario == scenario
    assert stream.num_classes == 10
    assert [t.name for t in stream.tasks] == ["0-1", "2-3", "4-5", "6-7", "8-9"]
    for t, task in enumerate(stream.tasks):
        assert task.index == t
        assert task.classes == (2 * t, 2 * t + 1)
        assert labels(task.train) == labels(task.eval) == set(task.classes)
        assert original(task.train) == {2 * t, 2 * t + 1}


def test_domain_incremental_labels_are_positions(make_stream: MakeStream) -> None:
    stream = make_stream(
        "split-digits", scenario="domain-incremental", class_order=[9, 0, 1, 8, 2, 7], num_tasks=3
    )
    assert stream.num_classes == 2
    assert [t.name for t in stream.tasks] == ["0-9", "1-8", "2-7"]
    assert all(t.classes == (0, 1) for t in stream.tasks)
    digits = sources.load(Source("digits")).train_y
    train = stream.tasks[0].train
    assert isinstance(train, TensorExamples)
    assert torch.equal(train.labels[train.index], (digits[train.index] == 0).long())


def test_units_follow_the_class_order(make_stream: MakeStream) -> None:
    stream = make_stream("split-digits", class_order=[7, 3, 5, 1], num_tasks=2)
    assert stream.num_classes == 4
    assert [t.name for t in stream.tasks] == ["3-7", "1-5"]
    assert [t.classes for t in stream.tasks] == [(0, 1), (2, 3)]
    assert original(stream.tasks[0].train) == {7, 3}


def test_orders_from_seeds(make_stream: MakeStream) -> None:
    names = [
        [t.name for t in make_stream("split-digits", seed=seed, **knobs).tasks]
        for knobs in ({"class_order": "trial-seed"}, {"class_order": 4}, {"task_order": 4})
        for seed in (0, 1)
    ]
    assert names[0] != names[1]
    assert names[2] == names[3]
    assert names[4] == names[5] != ["0-1", "2-3", "4-5", "6-7", "8-9"]
    assert sorted(names[4]) == ["0-1", "2-3", "4-5", "6-7", "8-9"]


def test_a_task_stays_what_it_is_wherever_it_stands(make_stream: MakeStream) -> None:
    plain = {t.name: t for t in make_stream("split-digits").tasks}
    stream = make_stream("split-digits", task_order=[3, 0, 4, 1, 2])
    assert [t.name for t in stream.tasks] == ["6-7", "0-1", "8-9", "2-3", "4-5"]
    for task in stream.tasks:
        same = plain[task.name]
        assert task.classes == same.classes
        assert isinstance(task.train, TensorExamples)
        assert isinstance(same.train, TensorExamples)
        assert torch.equal(task.train.index, same.train.index)


def test_tasks_left_out_take_no_units(make_stream: MakeStream) -> None:
    stream = make_stream("split-digits", task_order=[4, 2])
    assert stream.num_classes == 4
    assert [(t.name, t.classes) for t in stream.tasks] == [("8-9", (2, 3)), ("4-5", (0, 1))]
    assert check(task_order=[4, 2]) == 2


def test_uneven_tasks(make_stream: MakeStream) -> None:
    stream = make_stream("split-digits", task_sizes=[5, 1, 4])
    assert [t.name for t in stream.tasks] == ["0..4", "5", "6-7-8-9"]
    assert [len(t.classes) for t in stream.tasks] == [5, 1, 4]


def test_filled_in_knobs_mean_the_same() -> None:
    config = registry.configure("benchmark", Component(name="split-digits", task_sizes=[5, 1, 4]))
    again = Component(name="split-digits", **config.model_dump(mode="json"))
    assert registry.configure("benchmark", again) == config


class TestSuperclasses:
    def test_tasks_made_of_them(self, make_stream: MakeStream) -> None:
        stream = make_stream(
            "split-digits", superclasses=PARITY, tasks_of="superclasses", num_tasks=2
        )
        assert [t.name for t in stream.tasks] == ["even", "odd"]
        assert [t.classes for t in stream.tasks] == [tuple(range(5)), tuple(range(5, 10))]
        assert original(stream.tasks[1].train) == {1, 3, 5, 7, 9}

    def test_as_labels_of_tasks_made_of_them(self, make_stream: MakeStream) -> None:
        stream = make_stream(
            "split-digits",
            superclasses=PARITY,
            tasks_of="superclasses",
            label="superclass",
            num_tasks=2,
        )
        assert stream.num_classes == 2
        assert [t.classes for t in stream.tasks] == [(0,), (1,)]
        assert labels(stream.tasks[1].eval) == {1}

    def test_as_labels_across_tasks(self, make_stream: MakeStream) -> None:
        stream = make_stream(
            "split-digits",
            superclasses=PARITY,
            label="superclass",
            scenario="domain-incremental",
            num_tasks=5,
        )
        assert stream.num_classes == 2
        assert [t.name for t in stream.tasks] == ["0-1", "2-3", "4-5", "6-7", "8-9"]
        digits = sources.load(Source("digits")).train_y
        for task in stream.tasks:
            assert isinstance(task.train, TensorExamples)
            rows = task.train.index
            assert torch.equal(task.train.labels[rows], digits[rows] % 2)

    def test_those_of_cifar100(self) -> None:
        assert len(CIFAR100) == 20
        assert list(CIFAR100) == sorted(CIFAR100)
        assert {len(own) for own in CIFAR100.values()} == {5}
        assert CIFAR100["fish"] == (1, 32, 67, 73, 91)
        assert CIFAR100["people"] == (2, 11, 35, 46, 98)
        name = Component(name="split-cifar100", tasks_of="superclasses", num_tasks=20)
        assert registry.configure("benchmark", name).check() == 20


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"num_tasks": 11}, "num_tasks: got 11; accepted: 1 to 10, as many as classes"),
        ({"num_tasks": 3}, r"num_tasks: got 3; accepted: a divisor of the 10 classes \(1, 2, 5"),
        ({"num_tasks": 0}, "num_tasks: got 0; accepted: greater than or equal to 1"),
        ({"task_sizes": [5, 4]}, r"task_sizes: got '\[5, 4\], 9 in all'; accepted: sizes of 10"),
        ({"task_sizes": [5, 5], "num_tasks": 3}, "accepted: 3 sizes, as many as num_tasks"),
        ({"task_sizes": [10, 0]}, "task_sizes.1: got 0"),
        ({"class_order": [0, 1, 12, 3], "num_tasks": 2}, "class_order: got 12; accepted: indices"),
        ({"class_order": [0, 0]}, "class_order: got .0, 0.; accepted: natural, trial-seed, a seed"),
        ({"class_order": "random"}, "class_order: got 'random'; accepted: natural, trial-seed"),
        ({"class_order": -1}, "class_order: got -1"),
        ({"task_order": [5]}, "task_order: got 5; accepted: indices from 0 to 4"),
        (
            {"scenario": "domain-incremental", "task_sizes": [5, 5], "class_order": list(range(9))},
            r"9 classes in all|sizes of 9",
        ),
        ({"scenario": "domain-incremental", "task_sizes": [6, 4]}, "equally many labels"),
        ({"scenario": "domain-incremental", "num_tasks": 10}, "equally many labels, 2 or more"),
        (
            {"scenario": "data-incremental"},
            "scenario: got 'data-incremental'; accepted: class-incr",
        ),
        ({"tasks_of": "superclasses"}, "superclasses: got None; accepted: a map"),
        (
            {"label": "superclass", "superclasses": PARITY},
            "scenario, with label: superclass: got 'class-incremental'",
        ),
        (
            {"tasks_of": "superclasses", "superclasses": {"a": [0, 1], "b": [1]}},
            "superclasses: b: got 1; accepted: each class in one superclass, from 0 to 9",
        ),
        (
            {"tasks_of": "superclasses", "superclasses": {"a": [0, 1]}},
            "superclasses: got 'none for class 2'; accepted: every class",
        ),
        (
            {
                "label": "superclass",
                "superclasses": PARITY,
                "scenario": "domain-incremental",
                "num_tasks": 2,
            },
            "num_tasks: got 2; accepted: a divisor of 5, the classes of superclass even",
        ),
        ({"superclasses": "cifar10"}, "superclasses: got 'cifar10'; accepted: cifar100, or lists"),
        ({"superclasses": {"a": [1, -1]}}, "superclasses: got .*; accepted: cifar100, or lists"),
        ({"mean": [0.5]}, "mean and std: got '1 means and 0 deviations'"),
        ({"mean": [0.5], "std": [0.0]}, r"std.0: got 0.0; accepted: greater than 0"),
        ({"train_fraction": 0}, "train_fraction: got 0"),
        ({"augment": "crop"}, "augment: got 'crop'; accepted: none, flip, crop-flip"),
        ({"dataset": "digit"}, "dataset: got 'digit'.*Did you mean 'digits'"),
        ({"num_task": 5}, "got 'num_task'; .*Did you mean 'num_tasks'"),
    ],
)
def test_bad_knobs_are_refused_before_anything_is_loaded(
    knobs: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "load", lambda _: pytest.fail("data were loaded"))
    with pytest.raises(BadInput, match=message):
        check(**knobs)


def test_what_only_the_data_can_tell(make_stream: MakeStream) -> None:
    knobs = {"mean": [0.5] * 3, "std": [0.5] * 3}
    assert check(**knobs) == 5
    with pytest.raises(BadSpec, match="mean: got '3 values'; accepted: 1, one for each channel"):
        make_stream("split-digits", **knobs)


def test_a_part_of_the_training_set(make_stream: MakeStream) -> None:
    whole = make_stream("split-digits", "test")
    part = make_stream("split-digits", "test", train_fraction=0.1)
    held = make_stream("split-digits", train_fraction=0.1, fraction=0.5)
    for a, b, c in zip(whole.tasks, part.tasks, held.tasks, strict=True):
        assert len(b.train) == pytest.approx(len(a.train) / 10, abs=2)
        assert len(b.eval) == len(a.eval)
        assert len(c.train) + len(c.eval) == len(b.train)


def test_too_few_examples_to_hold_any_out(make_stream: MakeStream) -> None:
    with pytest.raises(BadInput, match="task '0-1': training examples of class 0: got 1"):
        make_stream("split-digits", train_fraction=0.001)
