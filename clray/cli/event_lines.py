"""A running job, told line by line to a laptop that draws it."""

from __future__ import annotations

import threading
from typing import Self

from rich.console import Console

from clray.event_lines import as_line
from clray.events import Event


class EventLines:
    """Prints each event as one line of JSON.

    Args:
        console: where.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self._lock = threading.Lock()  # events come from several threads

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        pass

    def watch(self, event: Event) -> None:
        """Print an event."""
        with self._lock:
            self.console.file.write(as_line(event) + "\n")
            self.console.file.flush()
