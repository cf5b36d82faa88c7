"""One driver for each job, whatever its results lie on: a local folder, a shared one, s3, gs.

Whoever runs a job keeps a file in ``<job>/running``, and writes it anew every few seconds. pyarrow
cannot ask an object store to write a file only if there is none, so each driver has a file of its
own, writes it first and looks for others then: of two that start at once, the later sees the
earlier's, since these stores list all that was written before. Ages are told by the storage's clock
alone. A folder on a disk is locked too, which ends with the process.
"""

from __future__ import annotations

import contextlib
import fcntl
import getpass
import json
import os
import platform
import random
import threading
import time
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from clray.errors import BadData, BadSpec, RunFailed, StorageFailed
from clray.events import Warned, Watch
from clray.store import Folder

CLAIMS = "running"
SECONDS_BETWEEN_SIGNS = 15.0
"""A driver that lives writes its file so often."""
STALE_SECONDS = 60.0
"""One that did not for so long is dead."""
LOCK = ".lock"


class Claim:
    """Says that a job is run here, for as long as it is entered.

    Args:
        folder: the job's.
        watch: is told when a driver is waited for.
        locked: whether nobody else on this machine can hold the job.

    Raises:
        BadSpec: somebody else runs it, or the folder cannot be written to.
    """

    def __init__(self, folder: Folder, watch: Watch, locked: bool = False) -> None:
        self.folder, self.watch, self.locked = folder / CLAIMS, watch, locked
        self.name = f"{uuid.uuid4().hex[:12]}.json"
        self.content = {**_whose(), "since": datetime.now(UTC).isoformat(timespec="seconds")}
        self.lost: str | None = None
        self.left = threading.Event()
        self.thread = threading.Thread(target=self._keep_fresh, name="claim", daemon=True)

    def __enter__(self) -> Claim:
        try:
            self._take()
        except StorageFailed as error:
            given = f"{error.where} ({error.happened})"
            raise BadSpec("results", given, "a folder that can be written") from None
        self.thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.left.set()
        self.thread.join(timeout=10)
        with contextlib.suppress(OSError):
            self.folder.delete(self.name, patient=False)
            if self.folder.is_local:
                os.rmdir(self.folder.uri)

    def check(self) -> None:
        """Do nothing, as long as nobody else has taken the job over.

        Raises:
            RunFailed: somebody has, since this machine was cut off from the storage or asleep.
        """
        if self.lost is not None:
            raise RunFailed(self.lost)

    def _write(self, patient: bool = True) -> None:
        self.folder.write(self.name, (json.dumps(self.content) + "\n").encode(), patient)

    def _take(self) -> None:
        """Wait until nobody else has a file here that is fresh."""
        waited: dict[str, float] = {}
        told = False
        while True:
            self._write()
            ages = self.folder.ages()
            now = ages.pop(self.name, 0.0)
            others = {name: age for name, age in ages.items() if name.endswith(".json")}
            for name, written in list(others.items()):
                if now - written > STALE_SECONDS or self._lives(name) is False:
                    self.folder.delete(name)
                    del others[name]
            if not others:
                return
            self.folder.delete(self.name)
            for name, written in others.items():
                if waited.setdefault(name, written) < written or self._lives(name):
                    accepted = f"a job that is not running already: {self._told(name)}"
                    raise BadSpec("results", self.folder.uri.removesuffix(f"/{CLAIMS}"), accepted)
            if not told:
                told = True
                name = next(iter(others))
                text = f"the job may still run: {self._told(name)}; waiting for a sign of life, "
                self.watch(Warned(f"{text}at most {STALE_SECONDS:g} seconds"))
            time.sleep(random.uniform(1, 3))

    def _read(self, name: str) -> dict[str, Any]:
        try:
            found = self.folder.find_json(name)
        except BadData:
            found = None
        return found if isinstance(found, dict) else {}

    def _told(self, name: str) -> str:
        """Who a claim says it is."""
        found = self._read(name)
        who = f"{found.get('user', 'somebody')} on {found.get('host', 'some machine')}"
        return f"{who}, process {found.get('pid', '?')}, since {found.get('since', '?')}"

    def _lives(self, name: str) -> bool | None:
        """Whether a claim is of a process that lives; None: of another machine, who knows."""
        found, own = self._read(name), self.content
        if found.get("machine") != own["machine"]:
            return None
        if self.locked:
            return False
        if own["space"] is None or found.get("space") != own["space"]:
            return None
        return _started(found.get("pid")) == found.get("started")

    def _keep_fresh(self) -> None:
        while not self.left.wait(SECONDS_BETWEEN_SIGNS):
            # What cannot be written now may be the next time; and if not, the job itself says so.
            with contextlib.suppress(StorageFailed):
                others = [name for name in self.folder.names() if name.endswith(".json")]
                if others and self.name not in others:
                    by = self._told(others[0])
                    self.lost = f"the job was taken over by {by}; this run of it ends here"
                    return
                self._write(patient=False)


def _whose() -> dict[str, Any]:
    """This process, on this machine."""
    return {
        "user": _user(),
        "host": platform.node(),
        "pid": os.getpid(),
        "started": _started(os.getpid()),
        "machine": _said("/proc/sys/kernel/random/boot_id") or platform.node(),
        "space": _linked("/proc/self/ns/pid"),
    }


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())


def _started(pid: Any) -> str | None:
    """When a process of this machine was started, in its own units; None: there is none."""
    text = _said(f"/proc/{pid}/stat")
    return text.rpartition(")")[2].split()[19] if text else None


def _said(path: str) -> str | None:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return None


def _linked(path: str) -> str | None:
    try:
        return os.readlink(path)
    except OSError:
        return None


@contextlib.contextmanager
def alone(folder: Folder, watch: Watch) -> Iterator[Claim]:
    """Keeps a second run of the same job out; a killed run's hold ends with it, or soon after.

    Args:
        folder: the job's.
        watch: is told when a driver is waited for that may be dead.

    Raises:
        BadSpec: the job runs already, or the folder cannot be written to.
    """
    with contextlib.ExitStack() as stack:
        locked = False
        if folder.is_local:
            locked = stack.enter_context(_locked(Path(folder.uri.removeprefix("file://"))))
        yield stack.enter_context(Claim(folder, watch, locked))


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[bool]:
    """Whether the folder could be locked; a shared one may not know locks, and has its claim."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        file = open(path / LOCK, "w")  # noqa: SIM115
    except OSError as error:
        raise BadSpec("results", str(path), f"a folder that can be written ({error})") from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BadSpec("results", str(path), "a job that is not running already") from None
        except OSError:
            yield False
            return
        yield True
