"""MLflow: a run for each board of the job, and below it one for each trial and each row.

Without an address, a database ``mlflow.db`` in the job's folder: look with
``mlflow ui --backend-store-uri sqlite:///RESULTS/jobs/NAME/mlflow.db`` (which needs the whole
``mlflow`` package).
"""

from __future__ import annotations

import logging
import os
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import urlsplit

from pydantic import Field

from clray.errors import BadSpec
from clray.job import JobSpec
from clray.loggers.logger import Entry, Logger, LoggerConfig, package
from clray.store import Folder

WHERE = "loggers: mlflow"
PATIENCE = 5
"""Seconds that a server may take to answer for the first time."""
KINDS = ("sqlite", "mysql", "postgresql", "mssql", "databricks")
"""Of addresses beside a server's. MLflow refuses plain folders (from 3.17 on, or earlier)."""
STATUS = {"completed": "FINISHED", "stopped": "KILLED", "diverged": "FAILED", "failed": "FAILED"}
MOST = 500
"""Metrics in one request; MLflow takes 1,000."""

for _name, _value in {
    "MLFLOW_DISABLE_TELEMETRY": "true",  # nothing is told to anybody who was not named
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",  # a server that is gone is given up within a minute
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "15",
}.items():
    os.environ.setdefault(_name, _value)


class Config(LoggerConfig):
    """Where runs are kept."""

    package: ClassVar[str] = "mlflow"
    extra: ClassVar[str] = "mlflow"

    uri: str | None = Field(None, min_length=1)
    """A server (http://…, https://…, databricks) or a database (sqlite:///…, postgresql://…); none:
    ``mlflow.db`` in the job's folder. Names and passwords stand in MLflow's own variables
    (MLFLOW_TRACKING_USERNAME, MLFLOW_TRACKING_PASSWORD), never in the address."""
    experiment: str | None = Field(None, min_length=1)
    """What the runs are filed under; none: the job's name."""

    def check(self, folder: Folder) -> None:
        """Whether the address is one, and somebody answers."""
        if self.uri is None:
            if not folder.is_local:
                accepted = "uri: … , where results are no local folder"
                raise BadSpec(WHERE, folder.uri, accepted)
            return
        parts = urlsplit(self.uri)
        if parts.password:
            hidden = self.uri.replace(parts.password, "***")
            accepted = "an address without a password: set MLFLOW_TRACKING_PASSWORD"
            raise BadSpec(f"{WHERE}.uri", hidden, accepted)
        if parts.scheme in ("http", "https"):
            self._answers()
        elif self.uri != "databricks" and parts.scheme.partition("+")[0] not in KINDS:
            accepted = "http://…, https://…, databricks, or a database such as sqlite:///…"
            raise BadSpec(f"{WHERE}.uri", self.uri, accepted)

    def _answers(self) -> None:
        try:
            with urllib.request.urlopen(f"{str(self.uri).rstrip('/')}/health", timeout=PATIENCE):
                pass
        except urllib.error.HTTPError:
            pass  # it answers: what it thinks of the request is seen when it is used
        except (OSError, ValueError) as error:
            accepted = f"a server that answers ({error})"
            raise BadSpec(f"{WHERE}.uri", self.uri, accepted) from None


class MLflow(Logger):
    """Writes runs through MLflow's client, which keeps no state of its own."""

    def __init__(self, config: Config, job: JobSpec, folder: Folder) -> None:
        module = package(Config.package, WHERE, Config.extra)
        self.entities = package("mlflow.entities", WHERE, Config.extra)
        for name in ("mlflow", "alembic"):
            logging.getLogger(name).setLevel(logging.WARNING)  # they tell of each table they make
        self.job, self.folder = job, folder
        uri, artifacts = config.uri, None
        if uri is None:
            Path(folder.uri).mkdir(parents=True, exist_ok=True)
            uri = f"sqlite:///{folder.uri}/mlflow.db"
            artifacts = Path(folder.uri, "mlflow").as_uri()
        try:
            self.client = module.MlflowClient(tracking_uri=uri)
            self.experiment = self._experiment(config.experiment or job.name, artifacts)
            self.runs = self._runs()
        except Exception as error:  # its own errors have no ancestor in common with its drivers'
            text = str(error).strip().partition("\n")[0][:300]
            accepted = f"a server or database that takes runs ({text})"
            raise BadSpec(f"{WHERE}.uri", uri, accepted) from None

    def _experiment(self, name: str, artifacts: str | None) -> str:
        found = self.client.get_experiment_by_name(name)
        if found is not None:
            return str(found.experiment_id)
        return str(self.client.create_experiment(name, artifact_location=artifacts))

    def _runs(self) -> dict[str, Any]:
        """What this job logged before, by the entry's name (boards' own runs: by ``/`` and name);
        a server may hold others of its name from other folders."""
        quote = '"' if "'" in self.folder.uri else "'"
        where = f"tags.`clray.results` = {quote}{self.folder.uri}{quote}"
        found: dict[str, Any] = {}
        token = None
        while True:
            page = self.client.search_runs([self.experiment], where, page_token=token)
            found |= {run.data.tags["clray.name"]: run for run in page}
            token = page.token
            if not token:
                return found

    def known(self) -> dict[str, str]:
        """The runs that were logged to their end."""
        ended = {n: run for n, run in self.runs.items() if run.info.status != "RUNNING"}
        states = {name: run.data.tags.get("clray.state") for name, run in ended.items()}
        return {name: state for name, state in states.items() if state}

    def log(self, entry: Entry) -> None:
        """Write the entry's run, and remove what was there under its name."""
        if entry.name in self.runs:
            self.client.delete_run(self.runs.pop(entry.name).info.run_id)
        run = self._create(
            entry.name,
            {"mlflow.parentRunId": self._board(entry.board), "clray.stage": entry.stage},
            entry.start,
        )
        key = run.info.run_id
        end = _milliseconds(entry.end)
        make = self.entities
        metrics = [
            make.Metric(p.curve, p.value, _milliseconds(p.time), p.tasks) for p in entry.points
        ]
        metrics += [make.Metric(tag, value, end, 0) for tag, value in entry.scalars.items()]
        parameters = [make.Param(k, str(v)) for k, v in entry.parameters.items()]
        state = make.RunTag("clray.state", entry.state)
        self.client.log_batch(key, metrics[:MOST], parameters, [state])
        for first in range(MOST, len(metrics), MOST):
            self.client.log_batch(key, metrics[first : first + MOST])
        self.client.set_terminated(key, STATUS[entry.state], end)  # last: now it is whole

    def _board(self, board: str) -> str:
        """The run that a board's runs hang below."""
        name = f"/{board}"
        if name not in self.runs:
            run = self._create(name, {}, None, board or self.job.name)
            job = self.job.model_dump(mode="json", include={"benchmark", "model", "search"})
            parameters = [self.entities.Param(k, str(v)[:500]) for k, v in job.items() if v]
            self.client.log_batch(run.info.run_id, params=parameters)
            self.runs[name] = run
        return str(self.runs[name].info.run_id)

    def _create(self, name: str, tags: dict[str, str], start: float | None, title: str = "") -> Any:
        tags = {"clray.results": self.folder.uri, "clray.name": name, **tags}
        begin = None if start is None else _milliseconds(start)
        run_name = title or name
        run = self.client.create_run(self.experiment, begin, tags=tags, run_name=run_name)
        self.runs[name] = run
        return run

    def close(self) -> None:
        """End the boards' runs."""
        for name, run in self.runs.items():
            if name.startswith("/"):
                self.client.set_terminated(run.info.run_id)


def _milliseconds(seconds: float) -> int:
    return round(seconds * 1000)
