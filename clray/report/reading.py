"""Reads what jobs and trials left on disk, and says clearly what is missing or damaged."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from threading import Lock
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel

from clray.addresses import above, last
from clray.errors import BadData, BadSpec
from clray.job import JobSpec
from clray.parsing import parse
from clray.report.stored import Final, Record, Trial, TrialLine
from clray.store import Folder

READERS = 16
"""Trials that are read at once from an object store."""


@dataclass(frozen=True)
class Job:
    """One job's folder.

    Attributes:
        name: of the job.
        path: its folder.
        spec: as it was started.
        trials: of its search, as far as they ended.
        final: what it came to, or None while it is not finished.
        starts: when, where and with which versions it was started (``provenance.json``).
        runs: its final runs by key, read when they are asked for; empty where the trials do not
            lie beside the job.
    """

    name: str
    path: str
    spec: JobSpec | None
    trials: list[TrialLine]
    final: Final | None
    starts: list[dict[str, Any]] = field(default_factory=list)

    @cached_property
    def runs(self) -> Mapping[str, Trial]:
        boards = self.final.boards if self.final else []
        keys = [key for board in boards for row in board.rows for key in row.test_keys]
        trials = Folder(above(self.path, 2)) / "trials"
        there = set(trials.names()) if keys else set()
        return _Runs(trials, [key for key in dict.fromkeys(keys) if key in there])


class _Runs(Mapping[str, Trial]):
    """Stored trials by key, each read once: when it is asked for, or all together where each takes
    a journey to an object store."""

    def __init__(self, folder: Folder, keys: list[str]) -> None:
        self._folder, self._keys = folder, dict.fromkeys(keys)
        self._read: dict[str, Trial] = {}
        self._coming: dict[str, Future[Trial]] = {}
        self._asking = Lock()

    def _fetch(self, key: str) -> Trial:
        if self._folder.is_local:
            return read_trial(self._folder / key)
        with self._asking:
            if not self._coming:
                readers = ThreadPoolExecutor(READERS)
                for one in self._keys:
                    self._coming[one] = readers.submit(read_trial, self._folder / one)
                readers.shutdown(wait=False)
        return self._coming[key].result()

    def __getitem__(self, key: str) -> Trial:
        if key not in self._keys:
            raise KeyError(key)
        if key not in self._read:
            self._read[key] = self._fetch(key)
        return self._read[key]

    def __contains__(self, key: object) -> bool:
        return key in self._keys

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)


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
    final = _read_final(folder)
    spec = _read_spec(folder)
    if final is None and spec is None:
        raise BadData(f"{folder.uri}/job.yaml", "no such file", "the job as clray wrote it")
    trials = _read_lines(TrialLine, folder, "trials.jsonl")
    name = final.job if final else spec.name if spec else last(folder.uri)
    starts = folder.find_json("provenance.json")
    starts = [] if starts is None else starts
    if not isinstance(starts, list) or not all(isinstance(start, dict) for start in starts):
        accepted = "a list of starts, as clray wrote it"
        raise BadData(f"{folder.uri}/provenance.json", starts, accepted)
    return Job(name, folder.uri, spec, trials, final, starts)


def read_trial(folder: Folder) -> Trial:
    """One trial's folder, ended or not.

    Raises:
        BadData: a file is missing or damaged.
    """
    spec = folder.find_json("spec.json")
    if spec is None:
        raise BadData(f"{folder.uri}/spec.json", "no such file", "the trial as clray wrote it")
    result = folder.find_json("result.json")
    result = {} if result is None else result
    if not isinstance(result, dict):
        raise BadData(f"{folder.uri}/result.json", result, "a mapping, as clray wrote it")
    records = _read_lines(Record, folder, "records.jsonl")
    seconds = folder.find_json("timing.json")
    text = folder.find("error.txt")
    error = text.decode(errors="replace").strip().rpartition("\n")[2] if text is not None else None
    data = {
        **result,
        "key": last(folder.uri),
        "state": result.get("state", "failed" if error else "unfinished"),
        "records": records,
        "seconds": {} if seconds is None else seconds,
        "path": folder.uri,
        "error": error,
        "spec": spec,
    }
    return _checked(Trial, data, folder.uri)


Model = TypeVar("Model", bound=BaseModel)


def _read_final(folder: Folder) -> Final | None:
    where = f"{folder.uri}/final.json"
    try:
        data = folder.read_json("final.json")
    except FileNotFoundError:
        return None
    if isinstance(data, dict) and "boards" not in data and "rows" in data:
        raise _older(where)
    return _checked(Final, data, where)


def _older(where: str) -> BadData:
    accepted = "what this version wrote; sweep again, stored trials are not computed again"
    return BadData(where, "the format of an older clray", accepted)


def _read_spec(folder: Folder) -> JobSpec | None:
    where = f"{folder.uri}/job.yaml"
    content = folder.find("job.yaml")
    if content is None:
        return None
    try:
        data = yaml.safe_load(content)
    except (yaml.YAMLError, UnicodeDecodeError):
        raise BadData(where, "damaged content", "YAML as clray wrote it") from None
    return _checked(JobSpec, data, where)


def _read_lines(model: type[Model], folder: Folder, name: str) -> list[Model]:
    where = f"{folder.uri}/{name}"
    found = []
    for number, line in enumerate(folder.find_lines(name), start=1):
        if model is TrialLine and isinstance(line, dict) and "key" in line and "keys" not in line:
            raise _older(f"{where}:{number}")
        found.append(_checked(model, line, f"{where}:{number}"))
    return found


def _checked(model: type[Model], data: Any, where: str) -> Model:
    if not isinstance(data, dict):
        raise BadData(where, data, "a mapping, as clray wrote it")
    try:
        return parse(model, data, where)
    except BadSpec as error:
        raise BadData(error.where, error.given, error.accepted) from None
