"""Reads what jobs and trials left on disk, and says clearly what is missing or damaged."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict

from clray.errors import BadData, BadSpec
from clray.parsing import parse
from clray.spec import JobSpec
from clray.store import Folder


class _Stored(BaseModel):
    """Something that clray wrote; keys that this version does not know are passed over."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class Estimate(_Stored):
    """A metric over seeds: its mean, half the width of its 95 % interval, and each value."""

    mean: float | None = None
    interval: float | None = None
    values: list[float | None] = []


class Counts(_Stored):
    """How many of an entry's trials ended in which way."""

    completed: int = 0
    diverged: int = 0
    stopped: int = 0
    failed: int = 0


class Row(_Stored):
    """One entry of a job: what was chosen, and how it did on test."""

    label: str
    method: str
    bound: bool = False
    values: dict[str, Any] = {}
    trials: Counts = Counts()
    validation: float | None = None
    test: dict[str, Estimate] = {}
    seeds: int = 0
    parameters: float | None = None
    examples: float | None = None
    bytes: float | None = None
    train_seconds: float | None = None
    key: str | None = None
    test_keys: list[str] = []
    error: str | None = None

    def on_test(self, metric: str) -> Estimate:
        """The metric on test; an empty estimate where there is none."""
        return self.test.get(metric, Estimate())


class Final(_Stored):
    """What a finished job came to: ``final.json``."""

    job: str
    benchmark: dict[str, Any]
    model: dict[str, Any] = {}
    objective: str
    selection: str
    deterministic: bool
    num_tasks: int
    results: str
    rows: list[Row]
    seconds: dict[str, float] = {}


class TrialLine(_Stored):
    """One trial of a job's search: a line of ``trials.jsonl``."""

    label: str
    number: int
    key: str
    values: dict[str, Any] = {}
    state: str
    value: float | None = None


class Record(_Stored):
    """What a trial recorded after a task; ``accuracy`` is that row of the accuracy matrix."""

    task: int
    name: str
    accuracy: list[float | None] | None = None
    initial: list[float | None] | None = None
    losses: dict[str, Any] = {}
    footprint: dict[str, float] = {}
    steps: int = 0


class Trial(_Stored):
    """One trial: its spec as written, how it ended, and its records."""

    key: str
    state: str
    metrics: dict[str, float | None] = {}
    records: list[Record] = []
    seconds: dict[str, float] = {}
    path: str = ""
    error: str | None = None
    stored: bool = False
    spec: dict[str, Any] = {}


@dataclass(frozen=True)
class Job:
    """One job's folder.

    Attributes:
        name: of the job.
        path: its folder.
        spec: as it was started.
        trials: of its search, as far as they ended.
        final: what it came to, or None while it is not finished.
    """

    name: str
    path: str
    spec: JobSpec | None
    trials: list[TrialLine]
    final: Final | None


@dataclass(frozen=True)
class Results:
    """A folder of results: its jobs, and how many trials lie beside them."""

    path: str
    jobs: list[Job] = field(default_factory=list)
    num_trials: int = 0


def read(path: str) -> Results | Job | Trial:
    """What lies at ``path``: a folder of results, one job, or one trial.

    Raises:
        BadData: there is nothing, it is none of these, or a file is missing or damaged.
    """
    folder = Folder(path)
    names = set(folder.names())
    if "jobs" in names or "trials" in names:
        return read_results(folder)
    if names & {"job.yaml", "final.json", "trials.jsonl"}:
        return read_job(folder)
    if names & {"spec.json", "records.jsonl", "result.json"}:
        return read_trial(folder)
    accepted = "a folder of results, or of one job or trial in it"
    raise BadData(path, "nothing that clray wrote" if names else "no such folder", accepted)


def read_results(folder: Folder) -> Results:
    """A whole folder of results.

    Raises:
        BadData: a file is damaged.
    """
    names = [name for name in (folder / "jobs").names() if not name.startswith(".")]
    jobs = [read_job(folder / "jobs" / name) for name in names]
    return Results(folder.uri, jobs, len((folder / "trials").names()))


def read_job(folder: Folder) -> Job:
    """One job's folder, finished or not.

    Raises:
        BadData: a file is missing or damaged.
    """
    final = _read(Final, folder, "final.json") if folder.has("final.json") else None
    if final is None and not folder.has("job.yaml"):
        raise BadData(f"{folder.uri}/job.yaml", "no such file", "the job as clray wrote it")
    spec = _read(JobSpec, folder, "job.yaml") if folder.has("job.yaml") else None
    trials: list[TrialLine] = []
    if folder.has("trials.jsonl"):
        trials = _read_lines(TrialLine, folder, "trials.jsonl")
    name = final.job if final else spec.name if spec else PurePath(folder.uri).name
    return Job(name, folder.uri, spec, trials, final)


def read_trial(folder: Folder) -> Trial:
    """One trial's folder, ended or not.

    Raises:
        BadData: a file is missing or damaged.
    """
    if not folder.has("spec.json"):
        raise BadData(f"{folder.uri}/spec.json", "no such file", "the trial as clray wrote it")
    result = folder.read_json("result.json") if folder.has("result.json") else {}
    if not isinstance(result, dict):
        raise BadData(f"{folder.uri}/result.json", result, "a mapping, as clray wrote it")
    records: list[Record] = []
    if folder.has("records.jsonl"):
        records = _read_lines(Record, folder, "records.jsonl")
    error = None
    if folder.has("error.txt"):
        text = folder.read("error.txt").decode(errors="replace").strip()
        error = text.rpartition("\n")[2]
    data = {
        **result,
        "key": PurePath(folder.uri).name,
        "state": result.get("state", "failed" if error else "unfinished"),
        "records": records,
        "seconds": folder.read_json("timing.json") if folder.has("timing.json") else {},
        "path": folder.uri,
        "error": error,
        "spec": folder.read_json("spec.json"),
    }
    return _checked(Trial, data, folder.uri)


Model = TypeVar("Model", bound=BaseModel)


def _read(model: type[Model], folder: Folder, name: str) -> Model:
    where = f"{folder.uri}/{name}"
    if not name.endswith(".yaml"):
        return _checked(model, folder.read_json(name), where)
    try:
        data = yaml.safe_load(folder.read(name))
    except (yaml.YAMLError, UnicodeDecodeError):
        raise BadData(where, "damaged content", "YAML as clray wrote it") from None
    return _checked(model, data, where)


def _read_lines(model: type[Model], folder: Folder, name: str) -> list[Model]:
    where = f"{folder.uri}/{name}"
    lines = enumerate(folder.read_lines(name), start=1)
    return [_checked(model, line, f"{where}:{number}") for number, line in lines]


def _checked(model: type[Model], data: Any, where: str) -> Model:
    if not isinstance(data, dict):
        raise BadData(where, data, "a mapping, as clray wrote it")
    try:
        return parse(model, data, where)
    except BadSpec as error:
        raise BadData(error.where, error.given, error.accepted) from None
