"""scikit-learn's 8 x 8 digits, data-incremental: each task a random part of all classes."""

from __future__ import annotations

from clray.streams.chunks import Chunks
from clray.streams.scenarios import DatasetName, NumTasks


class Config(Chunks):
    """The knobs, with this benchmark's defaults."""

    dataset: DatasetName = "digits"
    num_tasks: NumTasks = 5
