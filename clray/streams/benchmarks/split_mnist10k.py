"""MNIST-10k (the images of MNIST's test file), two digits per task: seconds on a CPU."""

from __future__ import annotations

from clray.streams.scenarios import DatasetName, NumTasks
from clray.streams.split import Split


class Config(Split):
    """The knobs, with this benchmark's defaults."""

    dataset: DatasetName = "mnist10k"
    num_tasks: NumTasks = 5
