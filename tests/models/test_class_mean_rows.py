"""New rows of a head are their classes' mean unit features."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clray.learner import Learner
from clray.models.class_mean_rows import begin_at_class_means, class_means, evaluating
from clray.models.classifier import Classifier
from clray.streams.examples import TensorExamples
from clray.task import Task
from tests.methods.conftest import small_learner


class Signed(nn.Module):
    """Features around zero, of pixels in [0, 1]."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor
        self.dropout = nn.Dropout(0.9)
        self.norm = nn.BatchNorm2d(1)

    def forward(self, x: Tensor) -> Tensor:
        wide: Tensor = self.dropout((x - 0.5).flatten(1))
        self.norm(x)
        return self.factor * wide


def given(factor: float = 1.0, batch_size: int = 8) -> Learner:
    torch.manual_seed(0)
    model = Classifier(Signed(factor), nn.Linear(36, 4))
    return small_learner("finetune", setting={"model": model, "batch_size": batch_size})


def task(labels: list[int], order: list[int] | None = None) -> Task:
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(256, (len(labels), 1, 6, 6), generator=generator, dtype=torch.uint8)
    rows = torch.tensor(order or range(len(labels)))
    part = TensorExamples(images, torch.tensor(labels), rows)
    return Task(1, "1", (2, 3), part, part)


def units(of: Task) -> Tensor:
    (x, _), *_ = of.train.batches(100)
    return F.normalize(x.flatten(1).double() / 255 - 0.5, dim=1)


def test_the_row_of_a_class_with_three_examples() -> None:
    learner, now = given(), task([2, 3, 2, 2])
    head = learner.model.get_submodule("head")
    before = {k: v.clone() for k, v in head.state_dict().items()}
    begin_at_class_means(learner, now, [2, 3], [0, 1], "mean")
    weight, bias = head.state_dict().values()
    expected = units(now)[[0, 2, 3]].mean(0)
    torch.testing.assert_close(weight[2].double(), expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(weight[3].double(), units(now)[1], rtol=1e-5, atol=1e-6)
    assert (weight[2:].norm(dim=1) <= 1 + 1e-6).all()
    assert torch.equal(weight[:2], before["weight"][:2])
    assert torch.equal(bias[:2], before["bias"][:2])
    assert torch.equal(bias[2:], before["bias"][:2].mean().expand(2))


def test_biases_may_be_kept_and_a_class_without_examples_keeps_its_row() -> None:
    learner, now = given(), task([2, 2])
    head = learner.model.get_submodule("head")
    before = {k: v.clone() for k, v in head.state_dict().items()}
    begin_at_class_means(learner, now, [2, 3], [0, 1], "kept")
    weight, bias = head.state_dict().values()
    assert torch.equal(bias, before["bias"])
    assert torch.equal(weight[3], before["weight"][3])
    assert not torch.equal(weight[2], before["weight"][2])


def test_neither_order_nor_batches_nor_scale_matter() -> None:
    labels = [2, 3, 2, 2, 3, 3, 2, 3, 3]
    whole, counts = class_means(given(batch_size=100), task(labels), [2, 3])
    assert counts.tolist() == [4, 5]
    mixed = task(labels, order=[8, 3, 1, 0, 2, 7, 6, 4, 5])
    for learner, now in ((given(batch_size=2), mixed), (given(factor=7.0), task(labels))):
        found, _ = class_means(learner, now, [2, 3])
        torch.testing.assert_close(found, whole, rtol=1e-6, atol=1e-7)


def test_the_only_example_of_a_class_is_its_own_among_the_new() -> None:
    learner, now = given(), task([0, 1, 2, 3])
    begin_at_class_means(learner, now, range(4), [0, 1], "mean")
    (x, y), *_ = now.train.batches(4)
    head: nn.Linear = learner.model.get_submodule("head")  # type: ignore[assignment]
    with torch.no_grad(), evaluating(learner.model):
        products = learner.forward(x) - head.bias
    assert torch.equal(products.argmax(1), y)


def test_modes_and_statistics_stay() -> None:
    learner = given()
    learner.train_mode(True)
    encoder = learner.model.get_submodule("encoder")
    encoder.get_submodule("norm").eval()
    before = [module.training for module in learner.model.modules()]
    statistics = encoder.get_submodule("norm").get_buffer("running_mean").clone()
    class_means(learner, task([2, 3, 3]), [2, 3])
    assert [module.training for module in learner.model.modules()] == before
    assert torch.equal(encoder.get_submodule("norm").get_buffer("running_mean"), statistics)
