"""Reads what jobs and trials left on disk, and says clearly what is missing or damaged."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Self, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, model_validator

from clray.addresses import above, last
from clray.errors import BadData, BadSpec
from clray.job import JobSpec
from clray.objective import Constraint, Objective
from clray.parsing import parse
from clray.store import Folder

READERS = 16
"""Trials that are read at once from an object store."""


class _Stored(BaseModel):
    """Something that clray wrote; keys that this version does not know are passed over."""

    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)


class Estimate(_Stored):
    """A metric over final runs: its mean, half the width of its 95 % interval, and each run's
    value, None where the run did not complete."""

    mean: float | None = None
    interval: float | None = None
    values: list[float | None] = []


class Counts(_Stored):
    """How many of an entry's trials ended in which way."""

    completed: int = 0
    diverged: int = 0
    stopped: int = 0
    failed: int = 0


class Budget(_Stored):
    """What a choice cost, over all trials that it looked at, also those of its first stage."""

    trials: int = 0
    task_trainings: int = 0
    examples_seen: int = 0
    seconds: float | None = None


class Shared(_Stored):
    """Over all final runs of a method that learns tasks apart, the tasks and steps that they are
    made of, and those that were learned: once for all orders that begin alike."""

    tasks: int
    tasks_learned: int
    steps: int
    steps_learned: int


class Transfer(_Stored):
    """How well a choice on one benchmark holds on another (selection ``gtep``): over
    ``configurations``, Spearman's rank correlation of the objective on both, and by how much the
    chosen one falls short of the best on the reported benchmark's validation examples."""

    configurations: int = 0
    rank_correlation: float | None = None
    regret: float | None = None


class Row(_Stored):
    """One entry of a board: what was chosen, and how it did on test.

    ``values`` are the chosen hyperparameters by dotted path; where they were chosen anew for each
    task, those of the last one, and ``trajectory`` has one mapping for each task. ``number`` is
    the chosen trial's. On a Pareto front several rows have one label. ``validation`` holds the
    chosen trial's measures; ``test_keys`` the final runs, order by order, in each the seeds;
    ``orders`` their names. The values of ``test`` stand in the order of ``test_keys``.
    ``order_disparity`` is the average and the maximum. ``importances`` are shares, by objective
    and knob.
    """

    label: str
    method: str
    bound: bool = False
    values: dict[str, Any] = {}
    trajectory: list[dict[str, Any]] | None = None
    number: int | None = None
    trials: Counts = Counts()
    validation: dict[str, float | None] = {}
    test: dict[str, Estimate] = {}
    order_disparity: list[float] | None = None
    seeds: int = 0
    orders: list[str] = []
    parameters: float | None = None
    examples: float | None = None
    bytes: float | None = None
    train_seconds: float | None = None
    key: str | None = None
    test_keys: list[str] = []
    shared: Shared | None = None
    budget: Budget = Budget()
    transfer: Transfer | None = None
    importances: dict[str, dict[str, float]] = {}
    error: str | None = None
    _alone: bool = PrivateAttr(False)

    @model_validator(mode="after")
    def _check(self) -> Self:
        number = len(self.test_keys)
        odd = next((m for m, found in self.test.items() if len(found.values) != number), None)
        if odd is not None:
            raise ValueError(f"as many values of {odd} as final runs ({number})")
        if self.orders and number % len(self.orders):
            raise ValueError(f"as many final runs in each of {len(self.orders)} orders")
        return self

    @property
    def name(self) -> str:
        """The label, and the trial's number where the label alone is not enough."""
        alone = self._alone or self.number is None
        return self.label if alone else f"{self.label} #{self.number}"

    @property
    def places(self) -> list[tuple[str, int]]:
        """The order ("" where only the benchmark's own was run) and the number of the seed, from
        0, of each final run."""
        orders = self.orders or [""]
        seeds = range(len(self.test_keys) // len(orders))
        return [(order, seed) for order in orders for seed in seeds]

    def on_test(self, metric: str) -> Estimate:
        """The metric on test; an empty estimate where there is none."""
        return self.test.get(metric, Estimate())


class Board(_Stored):
    """One benchmark under one selection protocol; most jobs have one.

    ``chosen_on`` says in words what the choice looked at, and is ``test`` under the oracle;
    ``leak`` names what makes its numbers too good, if anything does. ``reported`` names the
    benchmark's tasks that the test runs learned, in their first order.
    """

    name: str = ""
    arena: str = ""
    benchmark: dict[str, Any]
    model: dict[str, Any] = {}
    protocol: dict[str, Any] = {}
    selection: dict[str, Any]
    title: str
    chosen_on: str
    leak: str | None = None
    objectives: list[Objective] = Field(min_length=1)
    constraints: list[Constraint] = []
    deterministic: bool = True
    num_tasks: int
    reported: list[str] = []
    rows: list[Row]

    @model_validator(mode="after")
    def _name_rows(self) -> Self:
        labels = [row.label for row in self.rows]
        for row in self.rows:
            row._alone = labels.count(row.label) == 1
        if len({row.name for row in self.rows}) < len(self.rows):
            raise ValueError("rows that differ in label or number")
        return self

    @property
    def objective(self) -> Objective:
        """The first one, which ranks."""
        return self.objectives[0]

    @property
    def stamp(self) -> str | None:
        """What must stand beside every number of this board, if anything: ``chosen on test``, or
        ``leak``."""
        inner = self.selection.get("then")
        choices = [self.selection, inner if isinstance(inner, dict) else {}]
        if self.chosen_on == "test" or any(c.get("name") == "oracle" for c in choices):
            return "chosen on test"
        return "leak" if self.leak else None


class Final(_Stored):
    """What a finished job came to: ``final.json``. ``seconds`` are those of the last start."""

    job: str
    results: str
    boards: list[Board]
    seconds: dict[str, float] = {}


class TrialLine(_Stored):
    """One trial of a job's search: a line of ``trials.jsonl``.

    ``board`` and ``label`` say whose; ``task`` is the position in the stream that it was for,
    where hyperparameters are chosen anew for each task, and ``stage`` sets the first stage of
    two-stage apart. ``keys`` are its runs in the order in which they ran: rungs, then seeds and
    orders. ``value`` is the first objective's, None unless completed; ``measures`` are the means
    over its runs; ``trace`` is the first objective after each task (or rung) of a trial that did
    not end; ``chosen`` is set once the choice is made.
    """

    board: str = ""
    label: str
    stage: str = "search"
    task: int | None = None
    number: int
    keys: list[str]
    values: dict[str, Any] = {}
    state: str
    value: float | None = None
    measures: dict[str, float | None] = {}
    trace: list[float] = []
    feasible: bool = True
    chosen: bool = False
    error: str | None = None


class Record(_Stored):
    """What a trial recorded after a task; ``accuracy`` is that row of the accuracy matrix, ``part``
    the trial that learned the task, where tasks are learned apart."""

    task: int
    name: str
    accuracy: list[float | None] | None = None
    initial: list[float | None] | None = None
    losses: dict[str, Any] = {}
    facts: dict[str, Any] = {}
    footprint: dict[str, float] = {}
    steps: int = 0
    examples_seen: int = 0
    part: str | None = None
    reads: dict[str, list[int]] = {}
    metrics: dict[str, float | None] = {}
    diverged: dict[str, int] | None = None


class Trial(_Stored):
    """One trial: its spec as written, how it ended, and its records."""

    key: str
    state: str
    metrics: dict[str, float | None] = {}
    records: list[Record] = []
    seconds: dict[str, Any] = {}
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

    def _fetch(self, key: str) -> Trial:
        if self._folder.is_local:
            return read_trial(self._folder / key)
        if not self._coming:
            with ThreadPoolExecutor(READERS) as readers:
                for one in self._keys:
                    self._coming[one] = readers.submit(read_trial, self._folder / one)
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
