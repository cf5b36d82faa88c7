"""Any dataset, pixels permuted anew in each task (Goodfellow et al., 2013).

``dataset`` and ``num_tasks`` must be given.
"""

from __future__ import annotations

from clray.streams.domains import Permuted


class Config(Permuted):
    """The knobs, with this benchmark's defaults."""
