"""CIFAR-100, ten classes per task (Krizhevsky, 2009; scenarios: van de Ven et al., 2022).

``tasks_of: superclasses`` with 20 tasks makes one task of each of the dataset's superclasses.
"""

from __future__ import annotations

from clray.streams.augmentation import Augmentation
from clray.streams.scenarios import (
    ChannelDeviations,
    ChannelMeans,
    DatasetName,
    NumTasks,
)
from clray.streams.split import Split, Superclasses


class Config(Split):
    """The knobs, with this benchmark's defaults."""

    dataset: DatasetName = "torchvision/CIFAR100"
    num_tasks: NumTasks = 10
    mean: ChannelMeans = (0.5071, 0.4865, 0.4409)
    std: ChannelDeviations = (0.2673, 0.2564, 0.2762)
    augment: Augmentation = "crop-flip"
    superclasses: Superclasses = "cifar100"
