"""CIFAR-10, two classes per task (Krizhevsky, 2009; scenarios: van de Ven et al., 2022)."""

from __future__ import annotations

from clray.streams.augmentation import Augmentation
from clray.streams.scenarios import (
    ChannelDeviations,
    ChannelMeans,
    DatasetName,
    NumTasks,
)
from clray.streams.split import Split


class Config(Split):
    """The knobs, with this benchmark's defaults."""

    dataset: DatasetName = "torchvision/CIFAR10"
    num_tasks: NumTasks = 5
    mean: ChannelMeans = (0.4914, 0.4822, 0.4465)
    std: ChannelDeviations = (0.2470, 0.2435, 0.2616)
    augment: Augmentation = "crop-flip"
