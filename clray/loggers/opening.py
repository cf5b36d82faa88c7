"""The loggers that a job names, found by the name of their file.

Each is fed by a thread of its own: one that is slow, or fails, neither delays nor ends the job, and
nothing that it does can change a result.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import pkgutil
import queue
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import ModuleType

from clray import loggers
from clray.errors import BadSpec, UnknownName
from clray.events import Event, Warned, Watch, ignore
from clray.job import JobSpec
from clray.loggers.entries import Entries
from clray.loggers.logger import Entry, Logger, LoggerConfig, package
from clray.parsing import parse
from clray.spec import Component
from clray.store import Folder

PATIENCE = 60.0
"""Seconds that a logger may take for one entry once the job has ended; then it counts as stuck."""
HURRY = 10.0
"""Seconds for all that is left, when the job ended by an error or Ctrl-C."""


@dataclass(frozen=True)
class Found:
    """A logger's file.

    Attributes:
        name: as a job writes it.
        module: the imported file.
        config: its Config class.
        logger: its Logger class.
    """

    name: str
    module: ModuleType
    config: type[LoggerConfig]
    logger: type[Logger]

    @property
    def summary(self) -> str:
        """The first line of the file's docstring."""
        return (self.module.__doc__ or "").strip().partition("\n")[0]


def names() -> list[str]:
    """The names of all loggers, sorted."""
    stems = sorted(module.name for module in pkgutil.iter_modules(loggers.__path__))
    return [stem for stem in stems if _found(stem) is not None]


def find(name: str) -> Found:
    """The logger of that name.

    Raises:
        UnknownName: there is none.
    """
    found = _found(name) if name in names() else None
    if found is None:
        raise UnknownName("loggers", name, names())
    return found


def _found(stem: str) -> Found | None:
    path = f"{loggers.__name__}.{stem}"
    module = importlib.import_module(path)
    own = [c for c in vars(module).values() if inspect.isclass(c) and c.__module__ == path]
    configs = [c for c in own if issubclass(c, LoggerConfig) and c.__name__ == "Config"]
    classes = [c for c in own if issubclass(c, Logger) and not inspect.isabstract(c)]
    return Found(stem, module, configs[0], classes[0]) if configs and classes else None


def check_loggers(chosen: Sequence[Component], folder: Folder) -> list[LoggerConfig]:
    """The loggers' options, checked as far as can be told before anything starts.

    Args:
        chosen: as a job names them.
        folder: the job's; it need not exist.

    Raises:
        UnknownName, BadSpec: no such logger or option, one that stands twice, a package that is
            not installed, an address that nobody answers.
    """
    configs = []
    for index, one in enumerate(chosen):
        found = find(one.name)
        if one.name in [other.name for other in chosen[:index]]:
            raise BadSpec("loggers", one.name, "each logger once")
        where = f"loggers: {one.name}"
        config = parse(found.config, one.knobs, where)
        package(found.config.package, where, found.config.extra)
        config.check(folder)
        configs.append(config)
    return configs


@contextlib.contextmanager
def open_loggers(job: JobSpec, folder: Folder, watch: Watch = ignore) -> Iterator[Watch]:
    """A watch that tells ``watch`` of every event, and the job's loggers of what ended.

    Args:
        job: as planned.
        folder: the job's.
        watch: is also told, once, when a logger fails; the job goes on without that one. It is
            called from other threads too.

    Raises:
        UnknownName, BadSpec: see ``check_loggers``; nothing has been started then.
    """
    configs = check_loggers(job.loggers, folder)
    feeds = []
    for one, config in zip(job.loggers, configs, strict=True):
        feeds.append(_Feed(one.name, find(one.name).logger(config, job, folder), watch))
    if not feeds:
        yield watch
        return
    entries = Entries()

    def tell(event: Event) -> None:
        watch(event)
        for entry in entries.of(event):
            for feed in feeds:
                feed.queue.put(entry)

    for feed in feeds:
        feed.thread.start()
    try:
        yield tell
    finally:
        hurry = sys.exc_info()[0] is not None
        for feed in feeds:
            feed.end(hurry)


class _Feed:
    """Hands entries to a logger, from a thread of its own."""

    def __init__(self, name: str, logger: Logger, watch: Watch) -> None:
        self.name, self.logger, self.watch = name, logger, watch
        self.queue: queue.SimpleQueue[Entry | None] = queue.SimpleQueue()
        self.done = 0
        self.thread = threading.Thread(target=self._run, name=f"logger-{name}", daemon=True)

    def end(self, hurry: bool) -> None:
        """Let the thread catch up, for as long as it gets on."""
        self.queue.put(None)
        done = -1
        while self.thread.is_alive() and done != self.done:
            done = self.done
            self.thread.join(HURRY if hurry else PATIENCE)
            if hurry:
                break
        if self.thread.is_alive():
            text = f"logger {self.name} is behind, and is not waited for"
            self.watch(Warned(f"{text}: the same command logs what is missing"))

    def _run(self) -> None:
        try:
            known = self.logger.known()
            while (entry := self.queue.get()) is not None:
                if entry.state == "failed" or known.get(entry.name) != entry.state:
                    self.logger.log(entry)
                    known[entry.name] = entry.state
                self.done += 1
            self.logger.close()
        except Exception as error:  # whatever it is, the job goes on
            text = f"{type(error).__name__}: {error}".partition("\n")[0][:300]
            self.watch(Warned(f"logger {self.name} failed, and is told nothing more: {text}"))
