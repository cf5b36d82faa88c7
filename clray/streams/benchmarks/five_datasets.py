"""CIFAR-10, MNIST, SVHN, Fashion-MNIST and notMNIST, one for each task (Ebrahimi et al., 2020).

All are 32 x 32 x 3: images of 28 x 28 are padded with black, grey becomes three equal channels.
"""

from __future__ import annotations

from typing import Literal

from clray.streams.scenarios import NumTasks
from clray.streams.several import DatasetNames, Several


class Config(Several):
    """The knobs, with this benchmark's defaults."""

    dataset: DatasetNames = (
        "torchvision/CIFAR10 + torchvision/MNIST + torchvision/SVHN + torchvision/FashionMNIST"
        " + notmnist"
    )
    num_tasks: NumTasks = 5
    image_size: int | None = 32
    """Height and width that images are brought to."""
    channels: Literal[1, 3] | None = 3
    """1 for grey, 3 for RGB."""
    fit: Literal["resize", "pad"] = "pad"
    """How images are brought to image_size: resize, or pad, which sets smaller ones in the middle
    of a black square."""
