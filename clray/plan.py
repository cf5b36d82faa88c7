"""One method's search: what its trials are, what may be read, and what they came to.

A trial of a search is one proposal and its runs, each of which is a trial of its own in the store:
where epochs are cut (``Scheduler.by: epoch``) a rung for each number of epochs, then one run for
each seed and task order. Its measures are the means over the latter.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from clray import registry, trial
from clray.errors import BadSpec
from clray.events import Stage, TrialEnded
from clray.guard import Permission
from clray.job import Search
from clray.outcome import Outcome
from clray.parsing import merge, parse
from clray.samplers import distribution
from clray.space import SearchSpace
from clray.spec import TrialSpec
from clray.store import trial_folder
from clray.study import Known, Result, Study
from clray.work import Work

KNOWN_BEFORE_STOPPING = 4
"""A trial of several runs may be given up once so many first runs are known."""


@dataclass(frozen=True)
class Repeat:
    """A seed and a task order that each trial is run with; None: the benchmark's own order."""

    seed: int
    tasks: tuple[int, ...] | None


@dataclass(frozen=True)
class Candidate:
    """One trial of a search.

    Attributes:
        number: from 0, in the order of proposal.
        values: the proposed hyperparameters by dotted path.
        runs: complete specs, in the order of running.
        result: what it came to.
        first: the score of the first full run; None where it did not complete.
        trainings: tasks that its runs learned.
        examples_seen: training examples that they passed over, repeats counted.
        seconds: that training them took.
        error: what went wrong, for a person.
    """

    number: int
    values: dict[str, Any]
    runs: tuple[TrialSpec, ...]
    result: Result
    first: float | None = None
    trainings: int = 0
    examples_seen: int = 0
    seconds: float = 0.0
    error: str | None = None


@dataclass(frozen=True)
class Plan:
    """One method's search, checked.

    Attributes:
        label: the job's name for it.
        base: the spec that proposals are put over.
        space: what is searched.
        trials: how many; one where nothing is searched.
        search: how.
        lag: see ``clray.searcher``.
        num_tasks: that each run learns.
        permission: what its trials may read.
        repeats: seeds and task orders of each trial.
        stage: of the job, for those who watch.
        at: position of the task from which on proposals hold; the trials learn up to it.
        keep: whether trials leave a checkpoint for longer ones.
        exact: whether a spec is run as it is, without rungs and repeats.
        offset: added to the trials' numbers for those who watch.
        known: trials of earlier jobs that the sampler knows from the start.
        before: what an earlier start of the same search proposed, by number.
    """

    label: str
    base: TrialSpec
    space: SearchSpace
    trials: int
    search: Search
    lag: int
    num_tasks: int
    permission: Permission
    repeats: tuple[Repeat, ...]
    stage: Stage = "search"
    at: int = 0
    keep: bool = False
    exact: bool = False
    offset: int = 0
    known: tuple[Known, ...] = ()
    before: Mapping[int, dict[str, Any]] = field(default_factory=dict)

    # What a trial is.

    def spec(self, values: dict[str, Any]) -> TrialSpec:
        """The complete spec of a proposal, without its repeats.

        Raises:
            BadInput: a value that the knob refuses.
        """
        proposed = {**self.space.fixed, **values}
        if self.at == 0:
            plain = put_over(self.base.model_dump(mode="json"), proposed)
        else:
            plain = self.base.model_dump(mode="json")
            plain["changes"] = [*plain["changes"], changed(self.base, self.at, proposed)]
        return registry.complete(parse(TrialSpec, plain, self.label))

    def runs(self, spec: TrialSpec) -> tuple[TrialSpec, ...]:
        """The runs of a trial: rungs of fewer epochs, then seeds and orders."""
        if self.exact:
            return (spec,)
        full = [
            spec.model_copy(update={"seed": repeat.seed, "tasks": repeat.tasks})
            for repeat in self.repeats
        ]
        cuts = rungs(self.search, spec.protocol.epochs)[:-1]
        protocols = [spec.protocol.model_copy(update={"epochs": cut}) for cut in cuts]
        return (*(full[0].model_copy(update={"protocol": p}) for p in protocols), *full)

    def work(self, spec: TrialSpec, threshold: float | None = None) -> Work:
        """What a slot is handed for a proposal."""
        return Work(
            runs=self.runs(spec),
            permission=self.permission,
            keep=self.keep,
            repeats=len(self.repeats),
            metric=self.search.objective[0].metric,
            sign=self.search.objective[0].sign,
            threshold=threshold,
            lenient=bool(self.space.searched) and not self.exact,
            waits=self.search.early.by if self.search.early else None,
        )

    def study(self) -> Study:
        """A fresh study of the space.

        Raises:
            BadInput: a dimension that does not suit its knob, or the sampler.
        """
        distributions = {
            path: distribution(dimension, registry.annotation(self.base, path), path)
            for path, dimension in self.space.searched.items()
        }
        points = self.space.starting_points
        return Study(
            distributions,
            points,
            self.search,
            self.trials,
            self.lag,
            self.search.objective,
            self.search.constraints,
            self.known,
        )

    def check(self) -> None:
        """Refuse now what some proposal would be refused for later.

        Raises:
            BadInput: a bound, a choice, a fixed value or a starting point that its knob refuses.
        """
        for point in self.space.starting_points:
            for path, value in point.items():
                if path not in self.space.dimensions:
                    raise BadSpec(f"{self.label}: start", path, self.space.dimensions)
                self.space.check_inside(path, value, f"{self.label}: start: {path}")
        self.study()
        for path, dimension in self.space.searched.items():
            for value in dimension.choice or dimension.range or ():
                whole = dimension.range is not None and float(value).is_integer()  # type: ignore[arg-type]
                self.spec({path: int(value) if whole else value})  # type: ignore[arg-type]
        for point in self.space.starting_points:
            self.spec(point)

    # What it came to.

    def threshold(self, firsts: list[float]) -> float | None:
        """The score below which a trial of several runs ends after the first full one: the median
        of the first runs before it, once there are a few."""
        stops = len(self.repeats) > 1 and self.search.stop_hopeless
        if not stops or len(firsts) < KNOWN_BEFORE_STOPPING:
            return None
        return statistics.median(firsts)

    def assess(
        self,
        number: int,
        values: dict[str, Any],
        work: Work,
        results: str,
        stopped: bool = False,
        error: str | None = None,
    ) -> Candidate | None:
        """What a trial came to by what its runs left; None if it must still run, or go on.

        Args:
            number: of the trial.
            values: that were proposed.
            work: of them.
            results: where runs are stored.
            stopped: whether somebody stopped it, so that what is there is all.
            error: why it failed, if it did.

        Raises:
            BadData: a stored file is damaged.
            Leak: a run read what the protocol forbids.
        """
        outcomes: list[Outcome] = []
        first: float | None = None
        state = "completed"
        for index, run in enumerate(work.runs):
            folder = trial_folder(results, run.key)
            outcome = trial.ended(folder, run, self.permission)
            if outcome is None and not (stopped or error):
                return None
            if outcome is None:
                state = "failed" if error else "stopped"
                records = folder.read_lines("records.jsonl") if folder.has("records.jsonl") else []
                outcomes.append(Outcome(state, records))
                break
            outcomes.append(outcome)
            if outcome.state != "completed":
                state = outcome.state
                break
            if index == work.first:
                first = work.score(outcome.metrics)
            if work.is_hopeless(index, outcome.metrics):
                state = "stopped"
                break
        measures = mean_measures(outcomes[work.first :]) if state == "completed" else {}
        learned = [self._own_records(o) for o in outcomes]
        return Candidate(
            number,
            values,
            work.runs,
            Result(state, measures, self._trace(outcomes)),
            first,
            sum(map(len, learned)),
            sum(r.get("examples_seen", 0) for records in learned for r in records),
            math.fsum(math.fsum(o.seconds.get("tasks", [])[self.at :]) for o in outcomes),
            error,
        )

    def _own_records(self, outcome: Outcome) -> list[dict[str, Any]]:
        """The records of tasks that a run learned itself, not those that it began with."""
        return outcome.records[self.at :]

    def _trace(self, outcomes: list[Outcome]) -> tuple[float, ...]:
        """The first objective after each task, or at the end of each of several runs."""
        name = self.search.objective[0].metric
        if len(outcomes) > 1:
            values = [outcome.metrics.get(name) for outcome in outcomes]
        else:
            values = [r["metrics"].get(name) for o in outcomes for r in o.records if "metrics" in r]
        return tuple(value for value in values if value is not None)


def ended(plan: Plan, candidate: Candidate, stored: bool = False) -> TrialEnded:
    """The event that a trial of a search ended."""
    result = candidate.result
    value = result.measures.get(plan.search.objective[0].metric)
    if plan.stage == "test":
        value = None
    return TrialEnded(
        plan.label,
        plan.stage,
        plan.offset + candidate.number,
        result.state,
        value,
        stored,
        candidate.error,
        candidate.values,
        dict(result.measures),
    )


def rungs(search: Search, epochs: int) -> list[int]:
    """The epochs of each rung, ascending, the last one being all; each rung learns anew, so one
    that is nearly as long as all would cost more than it saves."""
    early = search.early
    if early is None or early.by == "task":
        return [epochs]
    cuts, cut = [], max(1, math.ceil(early.first * epochs))
    while cut * early.factor <= epochs:
        cuts.append(cut)
        cut = max(cut + 1, round(cut * early.factor))
    return [*cuts, epochs]


def mean_measures(outcomes: list[Outcome]) -> dict[str, float | None]:
    """Each measure's mean over runs; None where one run lacks it."""
    names = outcomes[0].metrics
    values = {name: [outcome.metrics.get(name) for outcome in outcomes] for name in names}
    return {
        name: None if None in found else math.fsum(v for v in found if v is not None) / len(found)
        for name, found in values.items()
    }


def put_over(plain: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    """A written-out spec with values put in by dotted path."""
    for path, value in values.items():
        section, _, knob = path.partition(".")
        plain = merge(plain, {section: {knob: value}})
    return plain


def changed(base: TrialSpec, at: int, values: dict[str, Any]) -> dict[str, Any]:
    """A change at task ``at``: all as it was just before, with values put in by dotted path."""
    last = base.changes[-1] if base.changes else None
    before: dict[str, Any] = {
        "method": (last or base).method.model_dump(mode="json"),
        "optimizer": (last or base).optimizer.model_dump(mode="json"),
        "protocol": {
            "epochs": last.epochs if last else base.protocol.epochs,
            "updates": last.updates if last else base.protocol.updates,
            "batch_size": last.batch_size if last else base.protocol.batch_size,
        },
    }
    now = put_over(before, values)
    return {"task": at, "method": now["method"], "optimizer": now["optimizer"], **now["protocol"]}
