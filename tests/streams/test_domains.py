from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from clray import registry
from clray.errors import BadInput
from clray.spec import Component
from clray.streams import sources
from clray.streams.dataset import Source
from clray.streams.examples import TensorExamples
from clray.task import Stream

MakeStream = Callable[..., Stream]


def first(examples: Any) -> tuple[Tensor, Tensor, Tensor]:
    """The first batch as it comes, and the images of its rows as they are stored."""
    assert isinstance(examples, TensorExamples)
    x, y = next(iter(examples.batches(32)))
    return x, y, examples.images[examples.index[: len(x)]]


def test_each_task_permutes_by_the_formula_of_the_reference(make_stream: MakeStream) -> None:
    stream = make_stream("permuted-digits", num_tasks=3)
    assert [t.name for t in stream.tasks] == ["permutation-0", "permutation-1", "permutation-2"]
    assert stream.num_classes == 10
    for t, task in enumerate(stream.tasks):
        table = torch.randperm(64, generator=torch.Generator().manual_seed(1000 + t))
        table = torch.arange(64) if t == 0 else table
        for examples in (task.train, task.eval):
            x, _, stored = first(examples)
            assert torch.equal(x, stored.flatten(2)[:, :, table].view(x.shape))


def test_other_permutations_on_request(make_stream: MakeStream) -> None:
    stream = make_stream("permuted-digits", num_tasks=1, permutation_seed=5, identity_first=False)
    table = torch.randperm(64, generator=torch.Generator().manual_seed(5))
    x, _, stored = first(stream.tasks[0].train)
    assert torch.equal(x, stored.flatten(2)[:, :, table].view(x.shape))


def test_channels_are_permuted_together_on_request(make_stream: MakeStream) -> None:
    stream = make_stream("permuted-digits", num_tasks=2, channels=3, across_channels=True)
    table = torch.randperm(192, generator=torch.Generator().manual_seed(1001))
    x, _, stored = first(stream.tasks[1].train)
    assert torch.equal(x, stored.flatten(1)[:, table].view(x.shape))
    assert not torch.equal(x[:, 0], x[:, 1])  # three equal channels are no longer equal


def test_tasks_turn_the_images(make_stream: MakeStream) -> None:
    stream = make_stream("rotated-digits", angles=[0, 90, 180])
    assert [t.name for t in stream.tasks] == ["rotation-0", "rotation-90", "rotation-180"]
    for t, task in enumerate(stream.tasks):
        x, _, stored = first(task.train)
        assert torch.equal(x, torch.rot90(stored, t, (2, 3)))


def test_even_and_random_angles(make_stream: MakeStream) -> None:
    even = make_stream("rotated-digits", num_tasks=4)
    assert [t.name for t in even.tasks] == [f"rotation-{a}" for a in (0, 45, 90, 135)]
    drawn = [
        [t.name for t in make_stream("rotated-digits", seed=s, angles="random", **k).tasks]
        for s, k in ((0, {}), (1, {}), (0, {"rotation_seed": 1}))
    ]
    assert drawn[0] == drawn[1] != drawn[2]
    assert len(set(drawn[0])) == 5


@pytest.mark.parametrize("name", ["permuted-digits", "rotated-digits"])
@pytest.mark.parametrize("scenario", ["class-incremental", "task-incremental"])
def test_every_task_may_have_its_own_units(
    make_stream: MakeStream, name: str, scenario: str
) -> None:
    stream = make_stream(name, scenario=scenario, num_tasks=3, task_order=[2, 0])
    digits = sources.load(Source("digits"))
    assert stream.num_classes == 20
    assert [t.classes for t in stream.tasks] == [tuple(range(10, 20)), tuple(range(10))]
    for task in stream.tasks:
        assert isinstance(task.train, TensorExamples)
        _, y, _ = first(task.train)
        assert torch.equal(y - task.classes[0], digits.train_y[task.train.index[: len(y)]])


@pytest.mark.parametrize("name", ["permuted-digits", "rotated-digits"])
def test_a_task_stays_what_it_is_wherever_it_stands(make_stream: MakeStream, name: str) -> None:
    plain = {t.name: first(t.train)[0] for t in make_stream(name).tasks}
    order = [4, 1, 3]
    stream = make_stream(name, task_order=order)
    assert [list(plain).index(t.name) for t in stream.tasks] == order
    for task in stream.tasks:
        assert torch.equal(first(task.train)[0], plain[task.name])


@pytest.mark.parametrize("name", ["permuted-digits", "rotated-digits"])
def test_an_image_that_is_held_out_is_learned_in_no_guise(
    make_stream: MakeStream, name: str
) -> None:
    stream = make_stream(name)
    learned, held = set[int](), set[int]()
    for task in stream.tasks:
        assert isinstance(task.train, TensorExamples)
        assert isinstance(task.eval, TensorExamples)
        learned |= set(task.train.index.tolist())
        held |= set(task.eval.index.tolist())
    assert not learned & held


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"angles": [0, 90], "num_tasks": 3}, r"angles: got \[0.0, 90.0\]; accepted: 3 angles"),
        ({"angles": [0, 360]}, "accepted: angles that differ"),
        ({"angles": [0, 400]}, r"angles: got \[0, 400\]; accepted: even, random, or a list"),
        ({"angles": "random", "max_angle": 0.02}, "num_tasks: got 5; accepted: at most 2"),
        ({"angles": "odd"}, "angles: got 'odd'; accepted: even, random, or"),
        ({"max_angle": 0}, "max_angle: got 0"),
        ({"task_order": [0, 7]}, "task_order: got 7; accepted: indices from 0 to 4"),
    ],
)
def test_bad_knobs(knobs: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        registry.configure("benchmark", Component(name="rotated-digits", **knobs)).check()
