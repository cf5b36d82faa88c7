"""A stream of new classes for rehearsal, and a network whose features lie around zero."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from clray.learner import Learner
from clray.models.classifier import Classifier
from clray.streams.examples import TensorExamples
from clray.task import Task
from tests.methods.conftest import small_learner

CLASSES = 6


def stream(size: int = 40) -> list[Task]:
    """Three tasks of two classes, each example a noisy copy of its class's pattern."""
    generator = torch.Generator().manual_seed(5)
    patterns = torch.randint(60, 196, (CLASSES, 1, 6, 6), generator=generator)
    labels = torch.arange(CLASSES).repeat_interleave(size)
    noise = torch.randint(-40, 41, (len(labels), 1, 6, 6), generator=generator)
    images = (patterns[labels] + noise).to(torch.uint8)
    tasks = []
    for index in range(CLASSES // 2):
        rows = (labels // 2 == index).nonzero().squeeze(1)
        part = TensorExamples(images, labels, rows)
        tasks.append(Task(index, str(index), (2 * index, 2 * index + 1), part, part).for_learning())
    return tasks


def centred() -> Classifier:
    """A layer normalisation stands before the head."""
    torch.manual_seed(0)
    below = [nn.Flatten(), nn.Linear(36, 24), nn.BatchNorm1d(24), nn.GELU()]
    above = [nn.Linear(24, 16), nn.LayerNorm(16)]
    return Classifier(nn.Sequential(*below, *above), nn.Linear(16, CLASSES))


def normalised() -> Classifier:
    """Nothing but that."""
    torch.manual_seed(0)
    return Classifier(nn.Sequential(nn.Flatten(), nn.LayerNorm(36)), nn.Linear(36, CLASSES))


def rectified() -> Classifier:
    """A ReLU stands before the head."""
    torch.manual_seed(0)
    hidden = [nn.Flatten(), nn.Linear(36, 64), nn.ReLU()]
    return Classifier(nn.Sequential(*hidden), nn.Linear(64, CLASSES))


def made(method: str, model: Classifier | None = None, memory: int = 20, **knobs: Any) -> Any:
    """A learner of the stream, with an encoder that counts as pre-trained."""
    setting = {
        "model": model or centred(),
        "num_classes": CLASSES,
        "scenario": "class-incremental",
        "optimizer": adam,
        "pretrained": True,
        "updates": 20,
        **knobs.pop("setting", {}),
    }
    return small_learner(method, memory=memory, setting=setting, **knobs)


def adam(parameters: Any) -> torch.optim.Optimizer:
    trained = [p for p in parameters if p.requires_grad]
    return torch.optim.AdamW(trained, 0.01, weight_decay=0.05)


def begin(learner: Learner, task: Task) -> None:
    """As the frame does, with classes seen so far competing; adapters are the same in each call."""
    torch.manual_seed(task.index)
    learner.rivals[:] = torch.arange(CLASSES) < 2 * task.index + 2
    learner.all_rivals = bool(learner.rivals.all())
    learner.train_mode(True)
    learner.begin_task(task)
    enter(learner, task, 0)


def enter(learner: Learner, task: Task, epoch: int) -> None:
    learner.train_mode(True)
    learner.begin_epoch(task, epoch, 2)


def step(learner: Learner, task: Task, number: int) -> None:
    batches = list(task.train.batches(8, seed=3, epoch=number // 10))
    x, y = batches[number % 10]
    learner.observe(x, y, task)


def learn(learner: Learner, task: Task) -> dict[str, Any] | None:
    """Two epochs of ten steps; the facts."""
    begin(learner, task)
    for number in range(20):
        if number == 10:
            enter(learner, task, 1)
        step(learner, task, number)
    return learner.end_task(task)


def state(learner: Learner) -> dict[str, Tensor]:
    return {k: v.clone() for k, v in learner.model.state_dict().items()}


def same(one: Learner, other: Learner) -> bool:
    """Whether two networks are the same to the bit."""
    mine, its = state(one), state(other)
    return mine.keys() == its.keys() and all(torch.equal(mine[k], its[k]) for k in mine)
