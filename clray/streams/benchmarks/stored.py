"""A benchmark that clray data build has cut into tasks and stored: ``{stream: <address>}``."""

from __future__ import annotations

from clray.streams.stored import Stored


class Config(Stored):
    """The knobs."""
