"""TensorBoard event files in the job's folder: look with ``tensorboard --logdir RESULTS``.

One run for each trial, with its hyperparameters (HPARAMS), the average accuracy after each task and
the final measures; and one for each row of a board, with the test scores.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import ClassVar

from clray.errors import BadSpec
from clray.job import JobSpec
from clray.loggers.logger import Entry, Logger, LoggerConfig, package
from clray.store import Folder

FOLDER = "tensorboard"
ENDED = "ended.txt"
"""Written last in a run's folder: the state that it holds."""


class Config(LoggerConfig):
    """TensorBoard has no options: the files lie in ``<job>/tensorboard``."""

    package: ClassVar[str] = "tensorboardX"
    extra: ClassVar[str] = "tensorboard"

    def check(self, folder: Folder) -> None:
        """Event files can only be written to a local folder."""
        if not folder.is_local:
            accepted = "results in a local folder: event files cannot be written elsewhere"
            raise BadSpec("loggers: tensorboard", folder.uri, accepted)


class TensorBoard(Logger):
    """Writes one folder of event files for each entry."""

    def __init__(self, config: Config, job: JobSpec, folder: Folder) -> None:
        where = "loggers: tensorboard"
        self.writer = package(Config.package, where, Config.extra).SummaryWriter
        self.hparams = package(f"{Config.package}.summary", where, Config.extra).hparams
        self.folder = Path(folder.uri) / FOLDER

    def known(self) -> dict[str, str]:
        """The folders that were written to their end."""
        ended = self.folder.rglob(ENDED)
        return {p.parent.relative_to(self.folder).as_posix(): p.read_text().strip() for p in ended}

    def log(self, entry: Entry) -> None:
        """Write the entry's folder anew."""
        path = self.folder / entry.name
        if path.exists():
            shutil.rmtree(path)
        with self.writer(logdir=str(path)) as writer:
            # Written as one session: the writer's own way would put it into a folder below.
            for summary in self.hparams(entry.parameters, dict(entry.scalars)):
                writer.file_writer.add_summary(summary, walltime=entry.end)
            for point in entry.points:
                writer.add_scalar(point.curve, point.value, point.tasks, walltime=point.time)
            for tag, value in entry.scalars.items():
                writer.add_scalar(tag, value, 0, walltime=entry.end)
        (path / ENDED).write_text(f"{entry.state}\n")
