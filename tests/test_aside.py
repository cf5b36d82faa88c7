"""What a learner sets aside of its training examples."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from clray.aside import Aside
from clray.distributed import Distributed
from clray.errors import BadSpec
from clray.streams.examples import TensorExamples

GROUP = Distributed()


def examples(x: Tensor, y: Tensor) -> TensorExamples:
    return TensorExamples(x, y, torch.arange(len(y)))


def images(n: int, seed: int = 0, size: int = 6) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, (n, 1, size, size), dtype=torch.uint8, generator=generator)


def rows(x: Tensor) -> set[bytes]:
    return {row.numpy().tobytes() for row in x}


@pytest.mark.parametrize("size", [6, 5])  # pixels that are and are not a multiple of four bytes
def test_it_is_an_equal_share_of_each_class_and_found_again_anywhere(size: int) -> None:
    y = torch.tensor([7] * 200 + [2] * 60 + [4] * 3)
    x = images(len(y), size=size)
    task = examples(x, y)
    aside = Aside(task, 0.1, seed=3, distributed=GROUP)
    counts = {label: int((aside.y == label).sum()) for label in (7, 2, 4)}
    assert counts == {7: 20, 2: 6, 4: 0}
    found = set()
    for epoch, batch in ((0, 7), (1, 64)):
        for part, labels in task.batches(batch, seed=1, epoch=epoch):
            found |= rows(part[aside.holds(part, labels)])
    assert found == rows(aside.x)
    again = Aside(examples(x.flip(0), y.flip(0)), 0.1, seed=3, distributed=GROUP)
    assert rows(again.x) == rows(aside.x)
    assert rows(Aside(task, 0.1, seed=4, distributed=GROUP).x) != rows(aside.x)


def test_the_same_image_is_on_one_side_and_never_all_of_a_class() -> None:
    x, y = images(20), torch.zeros(20, dtype=torch.int64)
    twice = Aside(examples(torch.cat([x, x]), torch.cat([y, y])), 0.5, 0, GROUP)
    assert len(twice.y) == 20
    assert len(rows(twice.x)) == 10
    most = Aside(examples(x, y), 0.999, 0, GROUP)
    assert len(most.y) == 19
    least = Aside(examples(x, y), 0.001, 0, GROUP)
    assert len(least.y) == 1
    few = Aside(examples(x, y), 0.5, 0, GROUP, most=4)
    assert len(few.y) == 4


def test_features_are_told_apart_too() -> None:
    x = torch.randn(50, 16, 1, 1)
    aside = Aside(examples(x, torch.zeros(50, dtype=torch.int64)), 0.2, 0, GROUP)
    assert aside.x.shape == (10, 16, 1, 1)


def test_a_task_without_two_examples_of_a_class_is_refused() -> None:
    with pytest.raises(BadSpec, match=r"method.held_out: got 0.1; accepted: a task with two"):
        Aside(examples(images(3), torch.arange(3)), 0.1, 0, GROUP)
