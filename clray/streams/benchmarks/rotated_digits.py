"""scikit-learn's 8 x 8 digits, turned further in each task (after Lopez-Paz and Ranzato, 2017)."""

from __future__ import annotations

from clray.streams.domains import Rotated
from clray.streams.scenarios import DatasetName, NumTasks


class Config(Rotated):
    """The knobs, with this benchmark's defaults."""

    dataset: DatasetName = "digits"
    num_tasks: NumTasks = 5
