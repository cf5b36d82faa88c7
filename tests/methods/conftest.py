"""A learner by name on a small network, without the frame around it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from clray import registry
from clray.distributed import Distributed
from clray.learner import Learner, Setup
from clray.spec import Component
from clray.streams.examples import TensorExamples
from clray.task import Task

Build = Callable[..., Learner]

TRANSFORMER: dict[str, Any] = {
    "name": "timm/vit_tiny_patch16_224",
    "frozen": True,
    "image_size": 8,
    "options": {
        "img_size": 8,
        "patch_size": 4,
        "embed_dim": 32,
        "depth": 2,
        "num_heads": 2,
        "weight_init": "jax",  # at timm's own, which is smaller, features hardly depend on images
    },
}
"""A vision transformer at random, with 5 tokens and 2 layers."""


def scale(x: Tensor) -> Tensor:
    return x / 255


def unchanged(x: Tensor) -> Tensor:
    return x


def sgd(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, 0.1)


def small_learner(
    method: str,
    *,
    linear: bool = False,
    memory: int = 20,
    hidden: tuple[int, ...] = (16,),
    setting: dict[str, Any] | None = None,
    **knobs: Any,
) -> Learner:
    """A learner for small images of four classes; ``linear`` leaves out the hidden layer,
    ``setting`` changes what the frame hands over."""
    torch.manual_seed(0)
    component = Component(name="mlp", hidden=() if linear else hidden)
    if registry.find("method", method).learner.vision_transformer:
        component = Component.model_validate(TRANSFORMER)
    variant = registry.find("model", component.name).variant
    shape = (setting or {}).get("image_shape", (1, 6, 6))
    setup = Setup(
        model=registry.configure("model", component).build(variant, shape, 4),
        optimizer=sgd,
        clip_norm=None,
        scenario="domain-incremental",
        num_classes=4,
        num_tasks=5,
        num_examples=150,
        largest_task=4,
        image_shape=(1, 6, 6),
        epochs=1,
        batch_size=8,
        memory=memory,
        prepare=scale,
        augment=unchanged,
        generator=torch.Generator().manual_seed(0),
        distributed=Distributed(),
        device=torch.device("cpu"),
    )
    setup = replace(setup, **(setting or {}))
    config = registry.configure("method", Component(name=method, **knobs))
    return registry.find("method", method).learner(config, setup)


@pytest.fixture
def build() -> Build:
    """Builds learners."""
    return small_learner


def needs_no_boundaries(build: Callable[[], Learner], tasks: list[Task]) -> bool:
    """Whether what is learned is the same, to the bit, told where tasks begin and not told."""
    told, untold = build(), build()
    untold.begin_task(tasks[0])
    untold.begin_epoch(tasks[0], 0, 1)
    for task in tasks:
        told.begin_task(task)
        told.begin_epoch(task, 0, 1)
        for x, y in task.train.batches(8, seed=0):
            told.observe(x, y, task)
            untold.observe(x, y, tasks[0])
        told.end_task(task)
    mine, other = told.model.state_dict(), untold.model.state_dict()
    assert mine.keys() == other.keys()
    return all(torch.equal(value, other[name]) for name, value in mine.items())


@pytest.fixture
def tasks() -> list[Task]:
    """Three tasks of 50 random images."""
    torch.manual_seed(1)
    images = torch.randint(256, (150, 1, 6, 6), dtype=torch.uint8)
    labels = torch.randint(4, (150,))
    parts = [TensorExamples(images, labels, i) for i in torch.arange(150).view(3, 50)]
    return [
        Task(i, str(i), (0, 1, 2, 3), part, part).for_learning() for i, part in enumerate(parts)
    ]
