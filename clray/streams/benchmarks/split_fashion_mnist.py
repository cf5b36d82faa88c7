"""Fashion-MNIST, two classes per task (Xiao et al., 2017; scenarios: van de Ven et al., 2022)."""

from __future__ import annotations

from clray.streams.scenarios import DatasetName, NumTasks
from clray.streams.split import Split


class Config(Split):
    """The knobs, with this benchmark's defaults."""

    dataset: DatasetName = "torchvision/FashionMNIST"
    num_tasks: NumTasks = 5
