"""CIFAR-100, one superclass of five classes per task (Yoon et al., 2020; Krizhevsky, 2009)."""

from __future__ import annotations

from typing import Literal

from clray.streams.scenarios import ChannelDeviations, ChannelMeans, DatasetName, NumTasks
from clray.streams.split import Split, Superclasses


class Config(Split):
    """The knobs, with this benchmark's defaults."""

    dataset: DatasetName = "torchvision/CIFAR100"
    num_tasks: NumTasks = 20
    mean: ChannelMeans = (0.507, 0.487, 0.441)
    std: ChannelDeviations = (0.267, 0.256, 0.276)
    superclasses: Superclasses = "cifar100"
    tasks_of: Literal["classes", "superclasses"] = "superclasses"
    """Whether tasks are cut from the classes or are made of whole superclasses."""
