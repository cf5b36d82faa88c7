"""Which trials slots are at, as it is told to whoever watches."""

from __future__ import annotations

import threading

from clray.events import TrialResumed, TrialStarted, TrialWaits, Watch


class Seen:
    """Tells when a slot takes a trial, and when that goes back to the queue: in order, and once,
    though records and news of the slots come through different threads.

    Args:
        watch: is told.
    """

    def __init__(self, watch: Watch) -> None:
        self.watch = watch
        self.lock = threading.RLock()
        self.starts: dict[int, TrialStarted] = {}
        self.running: dict[int, bool] = {}

    def know(self, number: int, start: TrialStarted) -> None:
        """How the start of a trial is told."""
        with self.lock:
            self.starts[number] = start

    def hear(self, number: int, what: str) -> None:
        """News of a trial."""
        with self.lock:
            if what == "taken":
                self.start(number)
            elif self.running.get(number) and number in self.starts:
                self.running[number] = False
                start = self.starts[number]
                self.watch(TrialWaits(start.label, start.stage, start.number))

    def start(self, number: int) -> None:
        """A trial runs; told unless it is known, or has ended."""
        with self.lock:
            if number not in self.starts or self.running.get(number):
                return
            start, is_first = self.starts[number], number not in self.running
            self.running[number] = True
            again = TrialResumed(start.label, start.stage, start.number)
            self.watch(start if is_first else again)

    def end(self, number: int) -> None:
        """A trial has ended: it ran, even if that was not heard, and what is heard is late."""
        with self.lock:
            self.start(number)
            self.starts.pop(number, None)
