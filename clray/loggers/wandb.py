"""Weights & Biases: a run for each trial and each row, in groups by board.

``mode: offline`` writes files to ``wandb`` in the job's folder, which ``wandb sync`` sends later.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from clray.errors import BadSpec
from clray.job import JobSpec
from clray.loggers.logger import Entry, Logger, LoggerConfig, package
from clray.store import Folder

WHERE = "loggers: wandb"
LEDGER = "wandb.json"
"""In the job's folder: the state of each entry that was logged; offline there is nobody to ask."""


class Config(LoggerConfig):
    """Where runs are sent."""

    package: ClassVar[str] = "wandb"
    extra: ClassVar[str] = "wandb"

    project: str = Field("clray", min_length=1)
    """The project."""
    entity: str | None = Field(None, min_length=1)
    """The user or team; none: your default."""
    mode: Literal["online", "offline"] = "online"
    """Whether runs are sent at once, or kept as files until ``wandb sync`` sends them."""

    def check(self, folder: Folder) -> None:
        """Whether files can be kept, and whether there is a login."""
        if not folder.is_local:
            accepted = "results in a local folder: wandb keeps files beside what it sends"
            raise BadSpec(WHERE, folder.uri, accepted)
        if self.mode == "online" and not package("wandb", WHERE, "wandb").login(prompt=False):
            accepted = "offline, or a login (wandb login, or WANDB_API_KEY)"
            raise BadSpec(f"{WHERE}.mode", "online", accepted)


class WeightsAndBiases(Logger):
    """Opens and ends one run for each entry."""

    def __init__(self, config: Config, job: JobSpec, folder: Folder) -> None:
        self.wandb = package("wandb", WHERE, Config.extra)
        self.config, self.job, self.folder = config, job, folder
        Path(folder.uri).mkdir(parents=True, exist_ok=True)
        self.states: dict[str, str] = folder.read_json(LEDGER) if folder.has(LEDGER) else {}

    def known(self) -> dict[str, str]:
        """What the ledger says."""
        return dict(self.states)

    def log(self, entry: Entry) -> None:
        """Send the entry; its id says whose it is, so that a second one goes to the same run."""
        told = f"{self.folder.uri}\n{entry.name}"
        settings: dict[str, Any] = {"silent": True, "console": "off"}
        settings |= {"disable_git": True, "disable_code": True}
        settings |= {"x_disable_stats": True, "x_disable_meta": True}  # the machine is not asked
        run = self.wandb.init(
            project=self.config.project,
            entity=self.config.entity,
            mode=self.config.mode,
            dir=self.folder.uri,
            id=hashlib.sha256(told.encode()).hexdigest()[:16],
            name=f"{self.job.name}/{entry.name}",
            group="/".join(part for part in (self.job.name, entry.board) if part),
            job_type=entry.stage,
            config=dict(entry.parameters),
            resume="allow" if self.config.mode == "online" else None,
            reinit="create_new",
            settings=self.wandb.Settings(**settings),
        )
        for point in entry.points:
            run.log({point.curve: point.value, "tasks": point.tasks, "time": point.time})
        run.summary.update({**entry.scalars, "state": entry.state})
        run.finish(exit_code=0 if entry.state in ("completed", "stopped") else 1)
        self.states[entry.name] = entry.state
        self.folder.write_json(LEDGER, self.states)
