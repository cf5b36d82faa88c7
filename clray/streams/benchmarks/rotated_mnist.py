"""MNIST, turned further in each of 20 tasks (Lopez-Paz and Ranzato, 2017)."""

from __future__ import annotations

from clray.streams.domains import Rotated
from clray.streams.scenarios import DatasetName, NumTasks


class Config(Rotated):
    """The knobs, with this benchmark's defaults."""

    dataset: DatasetName = "torchvision/MNIST"
    num_tasks: NumTasks = 20
