"""The dip of accuracy on old classes while new ones are learned, on digits."""

from __future__ import annotations

from statistics import fmean
from typing import Any

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from clray.learner import Learner
from clray.models.classifier import Classifier
from clray.streams.examples import TensorExamples
from clray.task import Task
from tests.methods.conftest import small_learner

STEPS = 100
SPLITS = ((0, 1, 2, 3, 4, 5), (6, 7), (8, 9))


class Digits:
    """A random order of classes: a quarter of the images to pre-train with, a quarter to test."""

    def __init__(self, seed: int) -> None:
        bunch = load_digits()
        images = torch.tensor(bunch.images * 15, dtype=torch.uint8)[:, None]
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(10, generator=generator)
        labels = torch.argsort(order)[torch.tensor(bunch.target)]
        mixed = torch.randperm(len(labels), generator=generator)
        before, train, test = mixed[:449], mixed[449:1348], mixed[1348:]
        self.images, self.labels, self.test, self.seed = images, labels, test, seed
        self.pretrained = self._pretrain(before)
        self.tasks = []
        for index, classes in enumerate(SPLITS):
            own = train[torch.isin(labels[train], torch.tensor(classes))]
            part = TensorExamples(images, labels, own)
            self.tasks.append(Task(index, str(index), classes, part, part).for_learning())

    def _pretrain(self, rows: Tensor) -> dict[str, Tensor]:
        """On all classes, other images, and with another head."""
        model = network()
        optimizer = torch.optim.AdamW(model.parameters(), 2e-3)
        for _ in range(300):
            batch = rows[torch.randint(len(rows), (64,))]
            loss = nn.functional.cross_entropy(model(self.images[batch] / 255), self.labels[batch])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        return model.encoder.state_dict()

    def learner(self, method: str, **knobs: Any) -> Any:
        """Begins from that encoder, whose lowest layer is frozen."""
        torch.manual_seed(self.seed)
        model = network()
        model.encoder.load_state_dict(self.pretrained)
        model.encoder.get_submodule("1").requires_grad_(False)
        setting = {
            "model": model,
            "image_shape": (1, 8, 8),
            "num_classes": 10,
            "scenario": "class-incremental",
            "optimizer": adamw,
            "pretrained": True,
            "updates": STEPS,
            "batch_size": 32,
        }
        knobs = {"memory_batch": 32, "storage": "class-balanced", **knobs}
        return small_learner(method, memory=40, setting=setting, **knobs)

    @torch.no_grad()
    def accuracy(self, learner: Learner, classes: range) -> float:
        """On test images of some classes, where those seen so far may be answered."""
        learner.train_mode(False)
        rows = self.test[torch.isin(self.labels[self.test], torch.tensor(classes))]
        logits = learner.predict(self.images[rows], None)
        logits = logits.masked_fill(~learner.rivals[0], -torch.inf)
        learner.train_mode(True)
        return float((logits.argmax(1) == self.labels[rows]).double().mean())


def network() -> Classifier:
    torch.manual_seed(0)
    below = [nn.Flatten(), nn.Linear(64, 128), nn.ReLU()]
    above = [nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 64), nn.LayerNorm(64)]
    return Classifier(nn.Sequential(*below, *above), nn.Linear(64, 10))


def adamw(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.AdamW([p for p in parameters if p.requires_grad], 1e-3, weight_decay=0.05)


def dip(digits: Digits, method: str, **knobs: Any) -> tuple[float, float, float]:
    """Lowest and mean accuracy on old classes while later tasks are learned, and the final one on
    all."""
    learner = digits.learner(method, **knobs)
    old: list[float] = []
    for task in digits.tasks:
        seen = task.classes[-1] + 1
        learner.rivals[:] = torch.arange(10) < seen
        learner.all_rivals = seen == 10
        learner.train_mode(True)
        learner.begin_task(task)
        for number in range(STEPS):
            if number % 10 == 0:
                learner.begin_epoch(task, number // 10, 10)
                batches = iter([b for e in range(3) for b in task.train.batches(32, number, e)])
            learner.observe(*next(batches), task)
            if task.index:
                old.append(digits.accuracy(learner, range(task.classes[0])))
        learner.end_task(task)
    return min(old), fmean(old), digits.accuracy(learner, range(10))


@pytest.mark.slow
def test_sgm_dips_less_than_rehearsal_and_ends_no_lower() -> None:
    """Means over four orders, with five examples kept of each class."""
    runs: dict[str, list[tuple[float, float, float]]] = {"er": [], "sgm": []}
    for seed in range(4):
        digits = Digits(seed)
        runs["er"].append(dip(digits, "er"))
        runs["sgm"].append(dip(digits, "sgm", lora_rank=16))
    er, sgm = (torch.tensor(runs[method]).mean(0).tolist() for method in ("er", "sgm"))
    assert sgm[0] > er[0] + 0.04
    assert sgm[1] > er[1]
    assert sgm[2] > er[2] - 0.01
