"""scikit-learn's 8 x 8 digits, pixels permuted anew in each task (Goodfellow et al., 2013)."""

from __future__ import annotations

from clray.streams.domains import Permuted
from clray.streams.scenarios import DatasetName, NumTasks


class Config(Permuted):
    """The knobs, with this benchmark's defaults."""

    dataset: DatasetName = "digits"
    num_tasks: NumTasks = 5
