"""Three small tasks with two classes each, and learners that must not forget the earlier ones."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from clray import registry
from clray.learner import Learner
from clray.models.classifier import Classifier
from clray.spec import Component
from clray.streams.examples import TensorExamples
from clray.task import Task
from tests.methods.conftest import Build

Optimizer = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]

CASES: list[tuple[str, Optimizer]] = [
    ("mlp", lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, weight_decay=0.1)),
    ("lenet", lambda p: torch.optim.Adam(p, 0.01, weight_decay=0.1)),
    ("normalised", lambda p: torch.optim.AdamW(p, 0.01, weight_decay=0.1)),
]
"""Networks by name, and optimizers that move weights without a gradient."""
BATCH = 8


def network(name: str, num_classes: int = 6, **knobs: object) -> Classifier:
    """For images (1, 8, 8)."""
    torch.manual_seed(0)
    component = Component.model_validate({"name": name, **knobs})
    built: Classifier = registry.configure("model", component).build("", (1, 8, 8), num_classes)
    return built


def networks() -> dict[str, Classifier]:
    """Chains with and without convolutions and batch normalisation."""
    return {
        "mlp": network("mlp", hidden=[16, 12], dropout=0.2),
        "lenet": network("lenet", channels=[4, 6], hidden=[10]),
        "normalised": network("lenet", channels=[4, 6], hidden=[10], batch_norm=True),
    }


def chain_learner(build: Build, method: str, name: str, knobs: dict[str, Any]) -> Learner:
    """A learner on one of these networks, for ``split_tasks``."""
    setting = {
        "model": networks()[name],
        "scenario": "task-incremental",
        "num_classes": 6,
        "image_shape": (1, 8, 8),
        **knobs.pop("setting", {}),
    }
    return build(method, setting=setting, **knobs)


def split_tasks(num_tasks: int = 3) -> list[Task]:
    """Tasks of 50 random images with classes of their own, for learning."""
    generator = torch.Generator().manual_seed(1)
    made = []
    for index in range(num_tasks):
        x = torch.randint(256, (50, 1, 8, 8), dtype=torch.uint8, generator=generator)
        y = torch.randint(2, (50,), generator=generator) + 2 * index
        part = TensorExamples(x, y, torch.arange(50))
        made.append(Task(index, str(index), (2 * index, 2 * index + 1), part, part).for_learning())
    return made


def steps(learner: Learner, task: Task) -> Iterator[dict[str, Tensor]]:
    """One pass over a task, as the frame would go about it; what each step returned."""
    learner.begin_task(task)
    learner.train_mode(True)
    learner.begin_epoch(task, 0, 1)
    for x, y in task.train.batches(BATCH, seed=0):
        yield learner.observe(x, y, task)
    learner.end_task(task)


def learn(learner: Learner, task: Task) -> None:
    """All of that pass."""
    for _ in steps(learner, task):
        pass


@torch.no_grad()
def answers(learner: Learner, tasks: list[Task]) -> list[Tensor]:
    """Each task's logits of its own classes, graded as the frame would in the middle of a task."""
    learner.train_mode(False)
    found = []
    for task in tasks:
        x, _ = next(task.train.batches(50))
        found.append(learner.predict(x, task.for_predicting())[:, list(task.classes)].clone())
    learner.train_mode(True)
    return found


def forgets_nothing(learner: Learner, tasks: list[Task]) -> bool:
    """Whether no answer on an earlier task changes by a bit, after any update."""
    kept: list[Tensor] = []
    for place, task in enumerate(tasks):
        before = answers(learner, [task])[0]
        for _ in steps(learner, task):
            now = answers(learner, tasks[:place])
            if not all(map(torch.equal, kept, now)):
                return False
        kept = answers(learner, tasks[: place + 1])
        assert not torch.equal(kept[-1], before)  # it did learn
    return True
