"""Toy streams and learners that the tests of supermask methods share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from clray import registry
from clray.distributed import Distributed
from clray.learner import Learner, Setup
from clray.models.supermask_learner import SupermaskLearner
from clray.spec import Component
from clray.streams.examples import TensorExamples
from clray.task import Task

BATCH = 64
CLASSES = (0, 1, 2, 3, 4)


def unchanged(x: Tensor) -> Tensor:
    """Floats as they are."""
    return x


def adam(
    parameters: Iterable[nn.Parameter], lr: float, weight_decay: float = 0.0
) -> torch.optim.Optimizer:
    """As the protocol's factory would make it."""
    return torch.optim.Adam(parameters, lr, weight_decay=weight_decay)


def toy_stream(num_tasks: int, seed: int, train: int = 1000, test: int = 500) -> list[Task]:
    """20 clusters of unit noise in 64 dimensions for each task, centres 0.6 apart by coordinate,
    labelled by cluster modulo 5: the stream of the specification's reference figures."""
    generator = torch.Generator().manual_seed(seed)
    tasks = []
    for index in range(num_tasks):
        centres = 0.6 * torch.randn(20, 64, generator=generator)
        halves = []
        for n in (train, test):
            cluster = torch.randint(20, (n,), generator=generator)
            x = centres[cluster] + torch.randn(n, 64, generator=generator)
            halves.append(examples(x.view(n, 64, 1, 1), cluster % 5))
        tasks.append(Task(index, f"toy-{index}", CLASSES, *halves))
    return tasks


def examples(x: Tensor, y: Tensor) -> TensorExamples:
    """All rows of x and y."""
    return TensorExamples(x, y, torch.arange(len(y)))


def learner_of(
    method: str,
    *,
    model: str = "mlp",
    shape: tuple[int, int, int] = (64, 1, 1),
    model_knobs: dict[str, Any] | None = None,
    lr: float = 3e-2,
    optimizer: Callable[..., torch.optim.Optimizer] | None = None,
    epochs: int = 15,
    seed: int = 0,
    num_tasks: int = 4,
    scenario: str = "task-incremental",
    batch_size: int = BATCH,
    **knobs: Any,
) -> SupermaskLearner:
    """A learner without the frame; 15 epochs of 1,000 examples are 240 steps."""
    torch.manual_seed(seed)
    knobs_of_model = {"hidden": [96, 96]} if model_knobs is None else model_knobs
    network = registry.configure(
        "model", Component.model_validate({"name": model, **knobs_of_model})
    )
    setup = Setup(
        model=network.build(model.partition("/")[2], shape, len(CLASSES)),
        optimizer=optimizer or partial(adam, lr=lr),
        clip_norm=None,
        scenario=scenario,
        num_classes=len(CLASSES),
        num_tasks=num_tasks,
        num_examples=150,
        largest_task=len(CLASSES),
        image_shape=(1, 6, 6),
        epochs=epochs,
        batch_size=batch_size,
        memory=0,
        prepare=unchanged,
        augment=unchanged,
        generator=torch.Generator().manual_seed(seed),
        distributed=Distributed(),
        device=torch.device("cpu"),
    )
    config = registry.configure("method", Component.model_validate({"name": method, **knobs}))
    learner: Learner = registry.find("method", method).learner(config, setup)
    assert isinstance(learner, SupermaskLearner)
    return learner


def learn(learner: SupermaskLearner, task: Task, steps: int | None = None) -> dict[str, Any]:
    """One task as the frame would go about it; what the learner says of it.

    Args:
        learner: goes on from where it is.
        task: to learn.
        steps: raise Stopped after so many.
    """
    learner.train_mode(True)
    learner.begin_task(task.for_learning())
    done = 0
    for epoch in range(learner.setup.epochs):
        learner.begin_epoch(task, epoch, learner.setup.epochs)
        size, group = learner.setup.batch_size, learner.distributed
        for x, y in task.train.batches(
            size, seed=task.index, epoch=epoch, rank=group.rank, world=group.world
        ):
            if steps is not None and done == steps:
                raise Stopped
            learner.observe(x, y, task)
            done += 1
    facts = learner.end_task(task)
    learner.train_mode(False)
    return facts


class Stopped(Exception):
    """Stands for a kill in the middle of a task."""


@torch.no_grad()
def answers(learner: SupermaskLearner, task: Task) -> Tensor:
    """Logits on the task's test examples, in one batch."""
    learner.train_mode(False)
    [(x, _)] = task.eval.batches(10**6)
    return learner.predict(x, task.for_predicting())


def accuracy(learner: SupermaskLearner, task: Task) -> float:
    """On the task's test examples."""
    [(_, y)] = task.eval.batches(10**6)
    return float((answers(learner, task).argmax(1) == y).float().mean())


def matrix(learner: SupermaskLearner, tasks: Sequence[Task]) -> list[list[float]]:
    """Row i: accuracy on each task after learning the i-th."""
    rows = []
    for task in tasks:
        learn(learner, task)
        rows.append([accuracy(learner, seen) for seen in tasks])
    return rows


def saved_and_loaded(learner: SupermaskLearner, folder: Path) -> SupermaskLearner:
    """As the frame's checkpoints do it."""
    torch.save(learner, folder / "learner")
    loaded: SupermaskLearner = torch.load(folder / "learner", weights_only=False)
    return loaded
