"""MNIST-10k (the images of MNIST's test file), pixels permuted anew in each of 10 tasks."""

from __future__ import annotations

from clray.streams.domains import Permuted
from clray.streams.scenarios import DatasetName, NumTasks


class Config(Permuted):
    """The knobs, with this benchmark's defaults."""

    dataset: DatasetName = "mnist10k"
    num_tasks: NumTasks = 10
