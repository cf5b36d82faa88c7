"""Rows of new classes by least squares: against a plain solution, and what they do to a network."""

from __future__ import annotations

import pytest
import torch

from clray.models import least_squares_rows
from clray.models.least_squares_rows import begin_at_least_squares
from clray.streams.examples import TensorExamples
from clray.task import Task
from tests.methods.conftest import small_learner

OLD, NEW = [0, 1], [2, 3]


def examples(count: int, labels: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Images that lean towards a corner of their own."""
    y = torch.tensor(labels).repeat_interleave(count)
    x = torch.randint(120, (len(y), 1, 6, 6), dtype=torch.uint8)
    for row, label in enumerate(y.tolist()):
        x[row, 0, label, :] += 120
    return x, y


def task(count: int) -> Task:
    x, y = examples(count, NEW)
    own = TensorExamples(x, y, torch.arange(len(y)))
    return Task(1, "new", (2, 3), own, own).for_learning()


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def test_rows_are_the_regression_on_all_examples_with_equal_weight_of_classes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(least_squares_rows, "RIDGE", 1e-10)
    learner = small_learner("er", hidden=(5,))
    head = learner.model.get_submodule("head")
    assert isinstance(head, torch.nn.Linear)
    before = head.weight.detach().clone()
    old_x, old_y = examples(4, OLD)
    new = task(25)
    begin_at_least_squares(learner, new, NEW, old_x, old_y)
    assert torch.equal(head.weight[:2], before[:2])
    [(new_x, new_y)] = new.train.batches(100)
    features = learner.features(torch.cat([new_x, old_x])).double()
    design = torch.cat([features, torch.ones_like(features[:, :1])], 1)
    y = torch.cat([new_y, old_y])
    weight = torch.where(y >= 2, 1 / 25, 1 / 4).sqrt()[:, None]
    targets = (y[:, None] == torch.tensor(NEW)).double()
    plain = torch.linalg.lstsq(design * weight, targets * weight).solution.T
    logits = head(learner.features(old_x))[:, :2].double()
    right = logits.gather(1, old_y[:, None]).mean()
    wrong = (logits.sum(1, keepdim=True) - logits.gather(1, old_y[:, None])).mean()
    assert torch.allclose(head.weight[2:].double(), (right - wrong) * plain[:, :-1], atol=1e-4)
    assert torch.allclose(head.bias[2:].double(), (right - wrong) * plain[:, -1] + wrong, atol=1e-4)


def test_old_examples_keep_their_answers_and_new_ones_have_theirs() -> None:
    """Behind a ReLU, where class means would drown the old classes."""
    learner = small_learner("er", hidden=(64,))
    old_x, old_y = examples(40, OLD)
    for _ in range(60):
        loss = torch.nn.functional.cross_entropy(learner.forward(old_x), old_y)
        learner.step(loss)
    new = task(40)
    begin_at_least_squares(learner, new, NEW, old_x, old_y)
    [(new_x, new_y)] = new.train.batches(100)
    assert (learner.forward(old_x).argmax(1) == old_y).double().mean() > 0.95
    assert (learner.forward(new_x).argmax(1) == new_y).double().mean() > 0.7


def test_a_class_without_examples_keeps_its_row() -> None:
    learner = small_learner("er", hidden=(5,))
    head = learner.model.get_submodule("head")
    assert isinstance(head, torch.nn.Linear)
    before = head.weight.detach().clone()
    x, y = examples(5, [2])
    own = TensorExamples(x, y, torch.arange(5))
    old = examples(3, [0])
    begin_at_least_squares(learner, Task(1, "new", (2, 3), own, own), NEW, *old)
    assert torch.equal(head.weight[3], before[3])
    assert not torch.equal(head.weight[2], before[2])
    assert head.weight.isfinite().all()
