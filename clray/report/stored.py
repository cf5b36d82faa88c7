"""What stands in a job's and a trial's files, as the report reads it."""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, model_validator

from clray.objective import Constraint, Objective
from clray.traces import Trace


class Stored(BaseModel):
    """Something that clray wrote; keys that this version does not know are passed over."""

    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)


class Estimate(Stored):
    """A metric over final runs: its mean, half the width of its 95 % interval, and each run's
    value, None where the run did not complete."""

    mean: float | None = None
    interval: float | None = None
    values: list[float | None] = []


class Counts(Stored):
    """How many of an entry's trials ended in which way."""

    completed: int = 0
    diverged: int = 0
    stopped: int = 0
    failed: int = 0


class Budget(Stored):
    """What a choice cost, over all trials that it looked at, also those of its first stage."""

    trials: int = 0
    task_trainings: int = 0
    examples_seen: int = 0
    seconds: float | None = None


class Shared(Stored):
    """Over all final runs of a method that learns tasks apart, the tasks and steps that they are
    made of, and those that were learned: once for all orders that begin alike."""

    tasks: int
    tasks_learned: int
    steps: int
    steps_learned: int


class Transfer(Stored):
    """How well a choice on one benchmark holds on another (selection ``gtep``): over
    ``configurations``, Spearman's rank correlation of the objective on both, and by how much the
    chosen one falls short of the best on the reported benchmark's validation examples."""

    configurations: int = 0
    rank_correlation: float | None = None
    regret: float | None = None


class Row(Stored):
    """One entry of a board: what was chosen, and how it did on test.

    ``values`` are the chosen hyperparameters by dotted path; where they were chosen anew for each
    task, those of the last one, and ``trajectory`` has one mapping for each task. ``number`` is
    the chosen trial's. On a Pareto front several rows have one label. ``validation`` holds the
    chosen trial's measures; ``test_keys`` the final runs, order by order, in each the seeds;
    ``orders`` their names. The values of ``test`` stand in the order of ``test_keys``.
    ``order_disparity`` is the average and the maximum. ``importances`` are shares, by objective
    and knob. ``warnings`` are what the method, or the board, says against the row's numbers.
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
    warnings: list[str] = []
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


class Board(Stored):
    """One benchmark under one selection protocol; most jobs have one.

    ``chosen_on`` says in words what the choice looked at, and is ``test`` under the oracle;
    ``leak`` names what makes its numbers too good, if anything does. ``reported`` names the
    benchmark's tasks that the test runs learned, in their first order; ``reference`` the entry that
    gaps of traces are against.
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
    reference: str | None = None
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


class Final(Stored):
    """What a finished job came to: ``final.json``. ``seconds`` are those of the last start."""

    job: str
    results: str
    boards: list[Board]
    seconds: dict[str, float] = {}


class TrialLine(Stored):
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


class Regions(Stored):
    """Which class a learner answers where in the plane.

    ``square`` holds the ends of both directions; ``grid`` a row of answers for each row of cells,
    the topmost first, one base-36 digit for each cell; ``points`` training points as (x, y, label).
    """

    square: tuple[float, float]
    grid: list[Annotated[str, Field(pattern="^[0-9a-z]+$")]] = Field(min_length=1)
    points: list[tuple[float, float, int]] = []

    @model_validator(mode="after")
    def _check(self) -> Self:
        if len({len(row) for row in self.grid}) > 1:
            raise ValueError("rows of one length")
        return self


class Points(Stored):
    """What was graded while a task was learned, see ``clray.traces.Trace``."""

    examples: list[int]
    before: list[int | None]
    updates: list[int]
    right: list[list[int | None]]

    @model_validator(mode="after")
    def _check(self) -> Self:
        Trace.of(self.model_dump())
        return self

    def trace(self) -> Trace:
        """The same, to compute with."""
        return Trace(self.examples, self.before, self.updates, self.right)


class Record(Stored):
    """What a trial recorded after a task; ``accuracy`` is that row of the accuracy matrix, ``part``
    the trial that learned the task, where tasks are learned apart; ``regions`` stand where examples
    are points of the plane, ``trace`` where there was continual evaluation."""

    task: int
    name: str
    accuracy: list[float | None] | None = None
    initial: list[float | None] | None = None
    losses: dict[str, Any] = {}
    facts: dict[str, Any] = {}
    regions: Regions | None = None
    trace: Points | None = None
    footprint: dict[str, float] = {}
    steps: int = 0
    examples_seen: int = 0
    part: str | None = None
    reads: dict[str, list[int]] = {}
    metrics: dict[str, float | None] = {}
    diverged: dict[str, int] | None = None


class Trial(Stored):
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

    def traces(self) -> list[Trace]:
        """Of continual evaluation, task by task; empty unless all tasks were traced."""
        records = sorted(self.records, key=lambda record: record.task)
        found = [record.trace.trace() for record in records if record.trace is not None]
        whole = len(found) == len(records) and all(one.task == t for t, one in enumerate(found))
        return found if whole else []
