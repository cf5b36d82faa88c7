"""MNIST, pixels permuted anew in each of 10 tasks (Kirkpatrick et al., 2017)."""

from __future__ import annotations

from clray.streams.domains import Permuted
from clray.streams.scenarios import DatasetName, NumTasks


class Config(Permuted):
    """The knobs, with this benchmark's defaults."""

    dataset: DatasetName = "torchvision/MNIST"
    num_tasks: NumTasks = 10
