"""Tiny ImageNet, ten classes per task (Le and Yang, 2015); ``num_tasks: 40`` makes it five."""

from __future__ import annotations

from typing import Literal

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

    dataset: DatasetName = "tiny-imagenet"
    num_tasks: NumTasks = 20
    channels: Literal[1, 3] | None = 3
    """1 for grey, 3 for RGB; a few images are stored as grey."""
    mean: ChannelMeans = (0.485, 0.456, 0.406)
    std: ChannelDeviations = (0.229, 0.224, 0.225)
    augment: Augmentation = "crop-flip"
