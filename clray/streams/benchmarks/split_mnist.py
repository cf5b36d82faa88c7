"""MNIST, two digits per task (scenarios: van de Ven et al., 2022)."""

from __future__ import annotations

from clray.streams.scenarios import DatasetName, NumTasks
from clray.streams.split import Split


class Config(Split):
    """The knobs, with this benchmark's defaults."""

    dataset: DatasetName = "torchvision/MNIST"
    num_tasks: NumTasks = 5
