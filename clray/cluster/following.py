"""A job on a cluster, as it goes: its lines as they come, through sleeps and lost connections."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

from clray.cluster.jobs import Cluster, Submitted
from clray.cluster.tail import Tail
from clray.errors import RunFailed, Unreachable

ASK_SECONDS = 3.0
"""Between two questions after the job's state."""
SLEPT_SECONDS = 30.0
"""When so much time has gone by between two looks at the clock, the machine slept: its connections
may be dead without knowing it."""
QUIET_SECONDS = 600.0
"""A log that is silent for so long is opened anew."""
DRAIN_SECONDS = 5.0
"""How long the last lines may take after the end."""

PATIENCE = 3600.0
"""How long a cluster that is out of reach is tried again while this machine is awake."""

Open = Callable[[], AbstractContextManager[Cluster]]


class Follower:
    """Gives a job's lines, each once, until it ends; lost connections are opened anew.

    Args:
        open_cluster: reaches the cluster; called again when the connection was lost.
        number: of the submission.
        say: is told when the connection is lost and found.
        patience: seconds to go on trying.
    """

    def __init__(
        self,
        open_cluster: Open,
        number: str,
        say: Callable[[str], None],
        patience: float = PATIENCE,
    ) -> None:
        self._open, self._number, self._say, self._patience = open_cluster, number, say, patience
        self._given, self._skip, self._rest = 0, 0, ""
        self.job: Submitted | None = None

    def lines(self) -> Iterator[str | None]:
        """The lines so far and those to come; None now and then, where there is none.

        Raises:
            RunFailed: the cluster was out of reach for too long.
        """
        lost: float | None = None
        pause = 1.0
        while True:
            try:
                with self._open() as cluster:
                    if lost is not None:
                        self._say("connected again")
                    lost, pause = None, 1.0
                    yield from self._connected(cluster)
                if self.job is not None and self.job.is_over:
                    return
            except Unreachable as error:
                if lost is None:
                    lost = time.monotonic()
                    self._say("connection lost; the job goes on, trying to reach it again")
                if time.monotonic() - lost > self._patience:
                    raise RunFailed(f"{error}; the job goes on without us") from None
                until = time.monotonic() + pause
                while time.monotonic() < until:
                    yield None
                    time.sleep(0.2)
                pause = min(2 * pause, 30.0)

    def _connected(self, cluster: Cluster) -> Iterator[str | None]:
        """Lines until the job ends, or the log must be opened anew."""
        self._skip, self._rest = self._given, ""
        tail = cluster.tail(self._number)
        try:
            asked, looked, heard = 0.0, time.time(), time.monotonic()
            while True:
                text = tail.read(0.25)
                heard = time.monotonic() if text else heard
                yield from self._new(text)
                yield None
                slept = time.time() - looked > SLEPT_SECONDS
                looked = time.time()
                if tail.is_over or time.monotonic() - asked > ASK_SECONDS:
                    asked, job = time.monotonic(), cluster.get(self._number)
                    self.job = job
                    if job.is_over:
                        yield from self._last(tail)
                        return
                    if tail.is_over:
                        time.sleep(0.5)
                        return
                if slept or time.monotonic() - heard > QUIET_SECONDS:
                    return
        finally:
            tail.close()

    def _new(self, text: str) -> Iterator[str]:
        """Whole lines that were not given before."""
        *whole, self._rest = (self._rest + text).split("\n")
        for line in whole:
            if self._skip > 0:
                self._skip -= 1
                continue
            self._given += 1
            yield line

    def _last(self, tail: Tail) -> Iterator[str]:
        until = time.monotonic() + DRAIN_SECONDS
        while not tail.is_over and time.monotonic() < until:
            yield from self._new(tail.read(0.25))
        if self._rest and not self._skip:
            yield from self._new("\n")


@contextlib.contextmanager
def plainly(address: str, where: str = "--address") -> Iterator[Cluster]:
    """A cluster at an address that needs no tunnel."""
    yield Cluster(address, where)
