"""Made-up images, their classes cut into tasks: as many, and as large, as a test of scale needs.

``dataset: synthetic/<classes>x<training examples per class>``; 32 x 32 x 3 unless told otherwise.
"""

from __future__ import annotations

from clray.streams.scenarios import DatasetName, NumTasks
from clray.streams.split import Split


class Config(Split):
    """The knobs, with this benchmark's defaults."""

    dataset: DatasetName = "synthetic/10x200"
    num_tasks: NumTasks = 5
