"""The search for one method's hyperparameters: Ray Tune's trials on our slots.

Nothing is nested, so nothing leaks and nothing deadlocks. Tune's own state is thrown away: the
store is the truth, and a search that starts anew replays it.
"""

from __future__ import annotations

import logging
import math
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from clray import registry, trial
from clray.errors import BadInput, BadSpec, RunFailed
from clray.events import Stage, TaskEnded, TrialEnded, TrialStarted, Watch
from clray.parsing import merge, parse
from clray.ray_train import Slots
from clray.searcher import Result, Study, TuneSearcher, distribution
from clray.spec import Scheduler, Search, SearchSpace, TrialSpec
from clray.store import trial_folder

for _name, _value in {
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # our own records
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C is ours
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # a trial that diverges at once has no metric
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",  # nobody reads Tune's snapshots
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}.items():
    os.environ.setdefault(_name, _value)

from ray import tune  # noqa: E402
from ray.tune.schedulers import ASHAScheduler  # noqa: E402

from clray.tune_trial import TuneTrial  # noqa: E402

SEARCH: Stage = "search"


@dataclass(frozen=True)
class Candidate:
    """One trial of a search.

    Attributes:
        number: from 0, in the order of proposal.
        values: the proposed hyperparameters by dotted path.
        spec: complete.
        result: what it came to.
        error: what went wrong, for a person.
    """

    number: int
    values: dict[str, Any]
    spec: TrialSpec
    result: Result
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
        num_tasks: length of the stream.
    """

    label: str
    base: TrialSpec
    space: SearchSpace
    trials: int
    search: Search
    lag: int
    num_tasks: int

    def spec(self, values: dict[str, Any]) -> TrialSpec:
        """The complete spec of a proposal.

        Raises:
            BadInput: a value that the knob refuses.
        """
        plain = self.base.model_dump(mode="json")
        for path, value in {**self.space.fixed, **values}.items():
            section, _, knob = path.partition(".")
            plain = merge(plain, {section: {knob: value}})
        return registry.complete(parse(TrialSpec, plain, self.label))

    def study(self) -> Study:
        """A fresh study of the space.

        Raises:
            BadInput: a dimension that does not suit its knob.
        """
        distributions = {
            path: distribution(dimension, registry.annotation(self.base, path), path)
            for path, dimension in self.space.searched.items()
        }
        points = self.space.starting_points
        return Study(distributions, points, self.search, self.trials, self.lag)

    def check(self) -> None:
        """Refuse now what some proposal would be refused for later.

        Raises:
            BadInput: a bound, a choice, a fixed value or a starting point that its knob refuses.
        """
        self.study()
        for path, dimension in self.space.searched.items():
            for value in dimension.choice or dimension.range or ():
                whole = dimension.range is not None and float(value).is_integer()  # type: ignore[arg-type]
                self.spec({path: int(value) if whole else value})  # type: ignore[arg-type]
        for point in self.space.starting_points:
            for path, value in point.items():
                if path not in self.space.dimensions:
                    raise BadSpec(f"{self.label}: start", path, self.space.dimensions)
                _check_inside(self.space, path, value, self.label)
            self.spec(point)


def _check_inside(space: SearchSpace, path: str, value: Any, label: str) -> None:
    dimension = space.dimensions[path]
    where = f"{label}: start: {path}"
    if dimension.range is not None:
        low, high = dimension.range
        if isinstance(value, str | None | bool) or not low <= float(value) <= high:
            raise BadSpec(where, value, f"a number in [{low:g}, {high:g}], the searched range")
    elif dimension.choice is not None and value not in dimension.choice:
        raise BadSpec(where, value, f"one of {list(dimension.choice)}, the searched choices")


def search(
    plan: Plan,
    results: str,
    get_slots: Callable[[], Slots],
    watch: Watch,
    keep: Callable[[list[Candidate]], None] = lambda candidates: None,
) -> list[Candidate]:
    """Run a search, or what is left of it; its trials in the order of their numbers.

    Args:
        plan: what to search.
        results: where trials are stored.
        get_slots: starts the slots; called only when there is something to run.
        watch: is told of trials and tasks.
        keep: is given all that have ended, in order, whenever one more has.

    Raises:
        BadInput: data that are missing or damaged.
        RunFailed: Ray Tune failed.
    """
    study = plan.study()
    candidates = _Candidates(keep)
    # A scheduler's decisions depend on all records, so with one, stored trials pass through Tune
    # like new ones: they report what is stored and then go on, or end, at once.
    leftover = [] if plan.search.scheduler else _replay(plan, study, results, candidates, watch)
    if leftover or not study.finished:
        _tune(plan, study, leftover, get_slots(), candidates, watch)
    return candidates.in_order()


class _Candidates:
    """The trials that have ended, by number."""

    def __init__(self, keep: Callable[[list[Candidate]], None]) -> None:
        self.keep = keep
        self.ended: dict[int, Candidate] = {}

    def add(self, candidate: Candidate) -> None:
        self.ended[candidate.number] = candidate
        self.keep(self.in_order())

    def in_order(self) -> list[Candidate]:
        return [self.ended[number] for number in sorted(self.ended)]


def _replay(
    plan: Plan, study: Study, results: str, candidates: _Candidates, watch: Watch
) -> list[tuple[int, dict[str, Any]]]:
    """Propose as far as stored results allow; the proposals without a result are returned."""
    leftover = []
    while study.may_propose():
        number, values = study.propose()
        spec = plan.spec(values)
        result = _stored(plan, results, spec.key)
        if result is None:
            leftover.append((number, values))
            continue
        study.learn(number, result)
        candidates.add(Candidate(number, values, spec, result))
        watch(TrialEnded(plan.label, SEARCH, number, result.state, result.value, stored=True))
    return leftover


def _stored(plan: Plan, results: str, key: str) -> Result | None:
    """The result of a trial that has ended for good."""
    outcome = trial.ended(trial_folder(results, key))
    if outcome is None:
        return None
    name = plan.search.objective
    measured = [r["metrics"][name] for r in outcome.records if r.get("metrics")]
    trace = tuple(value for value in measured if value is not None)
    value = outcome.metrics.get(name) if outcome.state == "completed" else None
    return Result(outcome.state, value, trace)


def _tune(
    plan: Plan,
    study: Study,
    leftover: list[tuple[int, dict[str, Any]]],
    slots: Slots,
    candidates: _Candidates,
    watch: Watch,
) -> None:
    """Let Ray Tune run what is left."""
    objective = plan.search.objective
    remaining = plan.trials - len(candidates.ended)

    def config(number: int, values: dict[str, Any]) -> dict[str, Any]:
        spec = plan.spec(values)
        plain = spec.model_dump(mode="json")
        return {"number": number, "values": values, "spec": plain, "key": spec.key}

    def stored(key: str) -> Result | None:
        return _stored(plan, slots.results, key)

    searcher = TuneSearcher(study, leftover, slots.count, objective, config, stored)
    listener = _Listener(plan, candidates, watch)
    ordered = plan.search.deterministic and plan.search.scheduler is None
    trainable = tune.with_parameters(
        TuneTrial,
        dispatcher=slots.dispatcher,
        group=f"{plan.label}-{time.monotonic_ns()}",
        objective=objective,
        hosts=min(slots.count, remaining) if ordered else 0,
    )
    # The trial itself only waits. Every node has memory to spare a megabyte of, whereas a share of
    # a CPU would be missing where slots hold them all.
    waits = tune.PlacementGroupFactory([{"memory": 1e6}])
    with tempfile.TemporaryDirectory(prefix="tune-", dir=slots.temp) as folder:
        logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # errors reach the listener
        tuner = tune.Tuner(
            tune.with_resources(trainable, waits),
            tune_config=tune.TuneConfig(
                search_alg=searcher,
                scheduler=_scheduler(plan.search.scheduler, plan, objective),
                num_samples=remaining,
                reuse_actors=True,
            ),
            run_config=tune.RunConfig(
                storage_path=folder,
                name="sweep",
                verbose=0,
                callbacks=[listener],
                failure_config=tune.FailureConfig(max_failures=3),
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            ),
        )
        tuner.fit()
    if listener.bad_input is not None:
        raise listener.bad_input
    missing = plan.trials - len(candidates.ended)
    if missing:
        raise RunFailed(f"{plan.label}: Ray Tune ended without {missing} of {plan.trials} trials")


def _scheduler(spec: Scheduler | None, plan: Plan, objective: str) -> Any:
    if spec is None:
        return None
    grace = max(1, math.ceil(spec.grace * plan.num_tasks))
    last = plan.num_tasks - 1  # who has learned the whole stream is not stopped any more
    if grace > last:
        return None
    return ASHAScheduler(
        time_attr="task",
        metric=objective,
        mode="max",
        max_t=last,
        stop_last_trials=False,
        grace_period=grace,
        reduction_factor=spec.reduction_factor,
    )


class _Listener(tune.Callback):  # type: ignore[misc]
    """Turns what Tune tells into events and candidates."""

    def __init__(self, plan: Plan, candidates: _Candidates, watch: Watch) -> None:
        self.plan, self.candidates, self.watch = plan, candidates, watch
        self.bad_input: BadInput | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune pickles its callbacks, and nobody loads them."""
        return {}

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        number, values = trial.config["number"], trial.config["values"]
        self.watch(TrialStarted(self.plan.label, SEARCH, number, values))

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **_: Any
    ) -> None:
        if "state" not in result and result["trace"]:
            number, task = trial.config["number"], result["task"] - 1
            accuracy = result["average_accuracy"]
            self.watch(TaskEnded(self.plan.label, SEARCH, number, task, accuracy))

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        self._end(trial, trial.last_result or {})

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        self._end(trial, {"state": "failed", "error": "Ray Tune lost the trial"})

    def _end(self, trial: Any, last: dict[str, Any]) -> None:
        config = trial.config
        number, values, spec = config["number"], config["values"], config["spec"]
        state = last.get("state", "stopped")
        value = last[self.plan.search.objective] if state == "completed" else None
        result = Result(state, value, tuple(last.get("trace", ())))
        error = last.get("error")
        self.bad_input = self.bad_input or last.get("bad_input")
        completed = TrialSpec.model_validate(spec)
        self.candidates.add(Candidate(number, values, completed, result, error))
        self.watch(TrialEnded(self.plan.label, SEARCH, number, state, value, error=error))
