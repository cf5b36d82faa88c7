"""Any datasets in a row, one for each task.

``dataset`` must be given, as a list of names; images must be brought to one shape.
"""

from __future__ import annotations

from clray.streams.several import Several


class Config(Several):
    """The knobs, with this benchmark's defaults."""
