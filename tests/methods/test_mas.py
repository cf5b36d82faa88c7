"""The importance and how it adds up over tasks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from clray.methods.mas import Mas
from clray.models import task_sample
from clray.streams.examples import TensorExamples
from clray.task import Task

Build = Callable[..., Mas]


def pixels_and_logits(learner: Mas, task: Task) -> tuple[Tensor, Tensor]:
    x, _ = next(task.train.batches(50))
    with torch.no_grad():
        return x.flatten(1) / 255, learner.forward(x)


@pytest.mark.parametrize("units", [[0, 1, 2, 3], [1, 3]])
def test_importance_of_a_linear_network(build: Build, tasks: list[Task], units: list[int]) -> None:
    """d f_c^2 / dW_ci = 2 f_c x_i: a mean of 2 |f_c| |x_i|, for the units that compete alone."""
    learner = build("mas", linear=True)
    learner.rivals[:] = False
    learner.rivals[1, units] = True
    pixels, logits = pixels_and_logits(learner, tasks[0])
    sizes = torch.zeros(50, 4)
    sizes[:, units] = 2 * logits[:, units].abs()
    found = learner.importance_for(replace(tasks[0], classes=(1,)))
    torch.testing.assert_close(found["head.weight"], sizes.T @ pixels / 50)
    torch.testing.assert_close(found["head.bias"], sizes.mean(0))


def test_importance_does_not_depend_on_batches(
    build: Build, tasks: list[Task], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for size in (1, 7, 64):
        monkeypatch.setattr(task_sample, "BATCH", size)
        found.append(build("mas").importance_for(tasks[0]))
    for name, value in found[0].items():
        assert float(value.max()) > 0, name
        for other in found[1:]:
            torch.testing.assert_close(value, other[name], rtol=1e-5, atol=1e-8)


def test_importance_needs_no_labels(build: Build, tasks: list[Task]) -> None:
    x, y = next(tasks[0].train.batches(50))
    unlabelled = TensorExamples(x, torch.full_like(y, -1), torch.arange(50))
    found = build("mas").importance_for(replace(tasks[0], train=unlabelled))
    expected = build("mas").importance_for(tasks[0])
    assert all(torch.equal(value, expected[name]) for name, value in found.items())


def test_a_subset_of_the_examples(build: Build, tasks: list[Task]) -> None:
    everything = build("mas").importance_for(tasks[0])["head.bias"]
    part = build("mas", examples=10).importance_for(tasks[0])["head.bias"]
    assert not torch.allclose(part, everything)
    torch.testing.assert_close(part, everything, rtol=0.5, atol=0)


@pytest.mark.parametrize("decay", [0.0, 0.5, 1.0])
def test_old_importances_decay_and_the_centre_is_the_latest(
    build: Build, tasks: list[Task], decay: float
) -> None:
    learner = build("mas", decay=decay)
    expected = torch.zeros(())
    for task in tasks:
        for x, y in task.train.batches(8, seed=0):
            learner.observe(x, y, task)
        expected = decay * expected + learner.importance_for(task)["head.weight"]
        learner.end_task(task)
    torch.testing.assert_close(learner.quadratic.importance["head.weight"], expected)
    weight = learner.model.get_parameter("head.weight")
    assert torch.equal(learner.quadratic.centre["head.weight"], weight)
