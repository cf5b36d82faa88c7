"""Omniglot, 12 characters per task, each in four rotations under one label (Yoon et al., 2020)."""

from __future__ import annotations

from clray.streams.scenarios import DatasetName, NumTasks
from clray.streams.split import Split


class Config(Split):
    """The knobs, with this benchmark's defaults."""

    dataset: DatasetName = "omniglot-rotation"
    num_tasks: NumTasks = 100
