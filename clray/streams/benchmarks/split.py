"""Any dataset, its classes cut into tasks (scenarios: van de Ven et al., 2022).

``dataset`` and ``num_tasks`` (or ``task_sizes``) must be given.
"""

from __future__ import annotations

from clray.streams.split import Split


class Config(Split):
    """The knobs, with this benchmark's defaults."""
