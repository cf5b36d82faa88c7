"""Any dataset, turned by another angle in each task (Lopez-Paz and Ranzato, 2017).

``dataset`` and ``num_tasks`` (or a list of ``angles``) must be given.
"""

from __future__ import annotations

from clray.streams.domains import Rotated


class Config(Rotated):
    """The knobs, with this benchmark's defaults."""
