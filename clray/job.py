"""A job: searches, the final test runs of what they chose, and what both run on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from clray.addresses import refusal, shown
from clray.objective import Constraint, Objective
from clray.parsing import refused
from clray.selection import AnySelection, EndOfTraining, named
from clray.space import Point, Scalar, SearchSpace
from clray.spec import Component, Optimizer, Protocol, Resources, Spec, Storing

NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
MOST_TRIALS = 1_000_000
MOST_RUNS = 1000
"""Seeds, and orders; more than that is a slip."""


def _each(value: Any) -> Any:
    return value if isinstance(value, list | tuple) else [value]


def _twice(names: Sequence[str]) -> str | None:
    """The first name that is not the only one of its kind."""
    return next((name for name in names if names.count(name) > 1), None)


def _orders(value: Any) -> Any:
    if value is None:
        return value
    if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= MOST_RUNS:
        return value
    items = value if isinstance(value, list | tuple) else []
    known = all(
        isinstance(item, str)
        or (isinstance(item, int) and not isinstance(item, bool) and item >= 0)
        or (isinstance(item, list | tuple) and all(type(n) is int and n >= 0 for n in item))
        for item in items
    )
    if not items or not known:
        raise ValueError(
            f"how many orders (1 to {MOST_RUNS}), or a list of orders: natural, seeds, lists of "
            "task positions, or published ones by name or letter"
        )
    return [tuple(item) if isinstance(item, list) else item for item in items]


Orders = Annotated[
    int | tuple[str | int | tuple[int, ...], ...] | None,
    BeforeValidator(_orders),
]
"""``5`` (drawn from the job's seed), or a list such as ``[natural, 7, [2, 0, 1], cifar100-split/A,
B]``; a letter alone is that published order of the benchmark."""


class Scheduler(Spec):
    """Stops trials that fall behind. Such a sweep depends on timing, and has one objective:
    schedulers compare trials by one measure, and would stop those that are best by another."""

    name: Literal["none", "asha", "median"] = "asha"
    """Asynchronous successive halving, or the median stopping rule."""
    by: Literal["task", "epoch"] = "task"
    """What is cut: the stream, after so many tasks; or the epochs of every task, with the whole
    stream learned anew at each rung."""
    grace: float = Field(1 / 3, ge=1 / 3, le=1)
    """Share of the stream that every trial is given before it may be stopped (by: task). The first
    task cannot show forgetting, so less than a third is refused."""
    first: float = Field(0.1, gt=0, le=1)
    """Share of the epochs of the first rung (by: epoch)."""
    reduction_factor: float | None = Field(None, gt=1)
    """One in so many trials goes on at each rung (asha), each rung so many times the last; none: 3
    by task, 6 by epoch, where each rung is learned anew."""

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, data: Any) -> Any:
        return named(data)

    @property
    def factor(self) -> float:
        """The reduction factor, written or not."""
        return self.reduction_factor or (3.0 if self.by == "task" else 6.0)


SamplerName = Literal["tpe", "random", "grid", "gp", "cmaes", "nsga2", "qmc", "auto"]


class Search(Spec):
    """How hyperparameters are searched."""

    trials: int = Field(16, ge=1, le=MOST_TRIALS)
    """Trials for each method."""
    sampler: SamplerName = "tpe"
    """Optuna's sampler. grid: every combination, in a random order; auto: Optuna's own choice of
    sampler (needs the extra of that name)."""
    startup: int = Field(8, ge=1)
    """Random trials before the sampler starts to model (tpe, gp, cmaes); the population of
    nsga2."""
    seed: int = Field(0, ge=0, lt=2**31)
    """Seed of the proposals and of the trials."""
    objective: Annotated[tuple[Objective, ...], BeforeValidator(_each)] = Field(
        (Objective(metric="average_accuracy"),), min_length=1, max_length=4
    )
    """What is optimised, on validation examples: one measure, or several, which gives a front."""
    constraints: Annotated[tuple[Constraint, ...], BeforeValidator(_each)] = ()
    """What a winner must keep, such as growth <= 0.2."""
    scheduler: Scheduler | None = None
    """Whether and how trials are stopped early; such a sweep depends on timing."""
    deterministic: bool = True
    """Whether trial n waits for the results of trials up to n minus the slots, so that timing
    cannot change the sweep. Off: a proposal uses whatever is known when a slot is free."""
    seeds: int = Field(1, ge=1, le=MOST_RUNS)
    """Seeds that each trial is run with, each a stored run; a trial's measures are their means."""
    orders: Orders = None
    """Task orders that each trial is run in, with each seed; none: the benchmark's own."""
    stop_hopeless: bool = True
    """Whether a trial of several runs ends after the first where that is below the median of the
    first runs before it. Off with several objectives, by which none is hopeless."""
    warm_start: Annotated[tuple[str, ...], BeforeValidator(_each)] = ()
    """Finished jobs in the same results, whose trials the sampler knows from the start."""

    @model_validator(mode="before")
    @classmethod
    def _with_a_front(cls, data: Any) -> Any:
        objective = data.get("objective") if isinstance(data, Mapping) else None
        several = isinstance(objective, list | tuple) and len(objective) > 1
        return {"stop_hopeless": False, **data} if several else data

    @model_validator(mode="after")
    def _check(self) -> Search:
        metrics = [objective.metric for objective in self.objective]
        if (twice := _twice(metrics)) is not None:
            raise refused("objective", twice, "objectives that differ")
        if (twice := _twice(self.warm_start)) is not None:
            raise refused("warm_start", twice, "jobs that differ")
        bounds = [f"{one.metric} {one.relation}" for one in self.constraints]
        if (twice := _twice(bounds)) is not None:
            raise refused("constraints", twice, "one bound on each side of a measure")
        for one in self.constraints:
            for other in self.constraints:
                apart = one.metric == other.metric and one.relation < other.relation
                if apart and one.bound < other.bound:
                    given = f"{one.model_dump()}, {other.model_dump()}"
                    raise refused("constraints", given, "bounds that some value can keep")
        if self.early is not None and len(metrics) > 1:
            accepted = "none with several objectives: it would stop trials by the first one alone"
            raise refused("scheduler", self.early.name, accepted)
        if self.stop_hopeless and len(metrics) > 1:
            accepted = "false with several objectives: the first run is judged by one alone"
            raise refused("stop_hopeless", True, accepted)
        return self

    @property
    def early(self) -> Scheduler | None:
        """The scheduler, unless it is none."""
        return None if self.scheduler is None or self.scheduler.name == "none" else self.scheduler


class Final(Spec):
    """The test runs of the chosen hyperparameters."""

    seeds: int = Field(5, ge=1, le=MOST_RUNS)
    """Fresh seeds, none of which took part in the search."""
    orders: Orders = None
    """Task orders, each run with every seed; reported with average and maximum order disparity."""
    front: int = Field(4, ge=1)
    """With several objectives: the most points of each method's front that are tested."""


class Entry(Spec):
    """One method of a job."""

    method: Component | None = None
    """The method and fixed knobs; by default the entry's label up to its first dot."""
    model: Component | None = None
    """The network, if not the benchmark's or the job's."""
    benchmarks: tuple[str, ...] | None = Field(None, min_length=1)
    """The job's benchmarks that the entry takes part in, by label; none: all."""
    space: str | SearchSpace | None = None
    """A search space by name, path or written out; by default the one named like the entry."""
    trials: int | None = Field(None, ge=1, le=MOST_TRIALS)
    """Trials for this entry, if not the search's."""
    bound: bool = False
    """Whether this is a bound to compare with, shown apart and never ranked."""
    optimizer: dict[str, Scalar | None] = {}
    """Optimizer knobs of this entry alone."""
    enqueue: tuple[Point, ...] = ()
    """Points that are tried first, after those of the method's own space, as far as the trials
    reach."""

    def takes_part_in(self, benchmark: str) -> bool:
        """Whether it runs on the benchmark of that label."""
        return self.benchmarks is None or benchmark in self.benchmarks


class JobProtocol(Protocol):
    """What is the same for all methods, and how hyperparameters are chosen."""

    selection: Annotated[
        tuple[AnySelection, ...],
        BeforeValidator(lambda value: [named(one) for one in _each(value)]),
    ] = Field((EndOfTraining(),), min_length=1)
    """How hyperparameters are chosen: one selection protocol, or several to compare."""

    @property
    def training(self) -> Protocol:
        """The part that a trial knows."""
        return Protocol.model_validate(self.model_dump(exclude={"selection"}))


class Arena(Spec):
    """One of a job's several benchmarks, and what is different on it."""

    benchmark: Component
    """The benchmark."""
    model: Component | None = None
    """The network, if not the job's."""
    protocol: dict[str, Any] = {}
    """Fields of the protocol that differ from the job's."""
    optimizer: dict[str, Any] = {}
    """Fields of the optimizer that differ from the job's."""

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, data: Any) -> Any:
        return {"benchmark": data} if isinstance(data, str) else data


class JobSpec(Spec):
    """Searches and their final test runs: one file in ``jobs/``."""

    name: str = Field(pattern=NAME, max_length=100)
    """Where the results lie: ``results/jobs/<name>``."""
    benchmark: Component | None = None
    """The benchmark that all methods run on."""
    benchmarks: dict[Annotated[str, Field(pattern=NAME, max_length=40)], Arena] = {}
    """Or several of them, by label."""
    model: Component = Component(name="mlp")
    """The network that all methods train."""
    protocol: JobProtocol = JobProtocol()
    """What is the same for all methods."""
    optimizer: Optimizer = Optimizer()
    """The optimizer, where no space searches it."""
    methods: dict[Annotated[str, Field(pattern=NAME, max_length=60)], Entry] = Field(min_length=1)
    """The methods that are compared, by label."""
    search: Search = Search()
    """How hyperparameters are searched."""
    final: Final = Final()
    """The test runs of the chosen hyperparameters."""
    resources: Resources = Resources()
    """What a slot holds."""
    store: Storing = Storing()
    """What is kept of each trial."""
    loggers: Annotated[tuple[Component, ...], BeforeValidator(_each)] = ()
    """Who else is told of trials and results: tensorboard, mlflow, wandb."""
    results: str | None = None
    """Where results lie: a folder, s3://… or gs://…; by default $CLRAY_RESULTS, or results here."""

    @model_validator(mode="before")
    @classmethod
    def _entries(cls, data: Any) -> Any:
        if not isinstance(data, Mapping) or "methods" not in data:
            return data
        given = data["methods"]
        if isinstance(given, list) and all(isinstance(label, str) for label in given):
            if (twice := _twice(given)) is not None:
                raise refused("methods", twice, "methods that differ, by labels that differ")
            given = dict.fromkeys(given)
        if not isinstance(given, Mapping):
            accepted = "a list of names, or a mapping of labels to entries"
            raise refused("methods", given, accepted)
        return {**data, "methods": {label: entry or {} for label, entry in given.items()}}

    @model_validator(mode="after")
    def _check(self) -> JobSpec:
        if self.benchmark is None and not self.benchmarks:
            raise refused("benchmark", None, "a benchmark, or several as benchmarks: required")
        if self.benchmark is not None and self.benchmarks:
            labels = ", ".join(self.benchmarks)
            raise refused("benchmarks", labels, "benchmark or benchmarks, not both")
        self._check_places()
        titles = [selection.title for selection in self.protocol.selection]
        if (twice := _twice(titles)) is not None:
            accepted = "protocols that differ in name or label (label: … renames one)"
            raise refused("protocol.selection", twice, accepted)
        if self.results is not None and (wanted := refusal(self.results)) is not None:
            raise refused("results", shown(self.results), wanted)
        return self

    def _check_places(self) -> None:
        """Refuse entries on benchmarks that the job has not, and benchmarks without an entry."""
        for label, entry in self.methods.items():
            places = entry.benchmarks or ()
            where = f"methods.{label}.benchmarks"
            for name in places:
                if name not in self.benchmarks:
                    known = ", ".join(self.benchmarks) or "none: the job has a single benchmark"
                    raise refused(where, name, known)
            if (twice := _twice(places)) is not None:
                raise refused(where, twice, "benchmarks that differ")
        for name in self.benchmarks:
            if not any(entry.takes_part_in(name) for entry in self.methods.values()):
                raise refused(f"benchmarks.{name}", "no method", "a benchmark of some entry")
