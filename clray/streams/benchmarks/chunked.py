"""Any dataset, data-incremental: each task a random part of all classes.

``dataset`` and ``num_tasks`` must be given.
"""

from __future__ import annotations

from clray.streams.chunks import Chunks


class Config(Chunks):
    """The knobs, with this benchmark's defaults."""
