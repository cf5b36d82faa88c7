"""Ray Tune runs a search: its trials on our slots, its schedulers, and what it tells.

Nothing is nested, so nothing leaks and nothing deadlocks. Tune's own state is thrown away: the
store is the truth, and a search that starts anew replays it.
"""

from __future__ import annotations

import logging
import math
import os
import tempfile
import time
from typing import Any

from clray.errors import ClrayError, RunFailed
from clray.events import TaskEnded, TrialStarted, Watch
from clray.plan import Plan, ended, rungs
from clray.ray_train import Slots
from clray.search_trials import Trials
from clray.searcher import TuneSearcher
from clray.seen import Seen
from clray.study import Result, Study

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
from ray.tune.schedulers import ASHAScheduler, MedianStoppingRule  # noqa: E402

from clray.tune_trial import TuneTrial  # noqa: E402


def run_tune(
    plan: Plan,
    study: Study,
    leftover: list[tuple[int, dict[str, Any]]],
    slots: Slots,
    trials: Trials,
    watch: Watch,
) -> None:
    """Let Ray Tune run what is left of a search.

    Args:
        plan: of the search.
        study: proposes, and learns what trials came to.
        leftover: proposals, by number, that have no result yet.
        slots: that run the trials.
        trials: those that have ended; more are added.
        watch: is told of trials and tasks.

    Raises:
        BadInput: data that are missing or damaged.
        Leak: a trial read what its protocol forbids.
        RunFailed: Ray Tune failed.
    """
    remaining = study.trials - len(trials.ended)
    proposed: dict[int, dict[str, Any]] = {}
    seen = Seen(watch)
    group = f"{plan.label}-{time.monotonic_ns()}"
    slots.heard[group] = seen.hear

    def config(number: int, values: dict[str, Any]) -> dict[str, Any]:
        proposed[number] = values
        work = trials.work(number, values)
        told = (plan.label, plan.stage, plan.offset + number)
        seen.know(number, TrialStarted(*told, values, len(work.keys), plan.num_tasks))
        plain = work.model_dump(mode="json")
        return {"number": number, "values": values, "work": plain, "keys": work.keys}

    # What these raise, Tune would log, and wait for ever.
    def stored(number: int) -> Result | None:
        try:
            candidate = trials.assess(number, proposed[number])
        except ClrayError as error:
            listener.fatal = listener.fatal or error
            return None
        return candidate.result if candidate else None

    def read(number: int, last: dict[str, Any], lost: bool) -> Result:
        try:
            if "fatal" in last:  # no other trial would do better
                raise last["fatal"]
            return trials.end(number, proposed[number], {} if lost else last).result
        except ClrayError as error:
            listener.fatal = listener.fatal or error
            return Result("failed", {}, ())

    searcher = TuneSearcher(study, leftover, slots.count, config, stored, read)
    listener = _Listener(plan, trials, watch, seen)
    early = plan.search.early
    ordered = plan.search.deterministic and early is None
    trainable = tune.with_parameters(
        TuneTrial,
        dispatcher=slots.dispatcher,
        group=group,
        by=early.by if early else None,
        hosts=min(slots.count, remaining) if ordered else 0,
    )
    # The trial itself only waits. Every node has memory to spare a megabyte of, whereas a share of
    # a CPU would be missing where slots hold them all. On a cluster it stays on this machine, which
    # the sweep does not outlive anyway, and where Tune's folder is.
    waits = tune.PlacementGroupFactory([{"memory": 1e6}], **slots.here())
    with tempfile.TemporaryDirectory(prefix="tune-", dir=slots.temp) as folder:
        logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # errors reach the listener
        tuner = tune.Tuner(
            tune.with_resources(trainable, waits),
            tune_config=tune.TuneConfig(
                search_alg=searcher,
                scheduler=_scheduler(plan),
                num_samples=remaining,
                reuse_actors=True,
            ),
            run_config=tune.RunConfig(
                storage_path=folder,
                name="sweep",
                verbose=0,
                callbacks=[listener],
                stop=_Ending(listener),
                failure_config=tune.FailureConfig(max_failures=3),
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            ),
        )
        tuner.fit()
    slots.heard.pop(group)
    if listener.fatal is not None:
        raise listener.fatal
    missing = study.trials - len(trials.ended)
    if missing:
        raise RunFailed(f"{plan.label}: Ray Tune ended without {missing} of {study.trials} trials")


def _scheduler(plan: Plan) -> Any:
    """Tune's scheduler, which sees ``score`` at ``step``: tasks learned, or epochs of a rung. Who
    has learned all of them is not stopped any more."""
    early = plan.search.early
    if early is None:
        return None
    if early.by == "task":
        grace, last = max(1, math.ceil(early.grace * plan.num_tasks)), plan.num_tasks - 1
    else:
        steps = rungs(plan.search, plan.base.protocol.epochs)
        grace, last = steps[0], steps[-1] - 1
    if grace > last:
        return None
    told = {"time_attr": "step", "metric": "score", "mode": "max", "grace_period": grace}
    if early.name == "median":
        # A trial that had to wait for others would give its slot away, and come back from nothing.
        return MedianRule(last, **told, min_samples_required=3, min_time_slice=math.inf)
    return ASHAScheduler(**told, max_t=last, stop_last_trials=False, reduction_factor=early.factor)


class MedianRule(MedianStoppingRule):  # type: ignore[misc]
    """The median rule on where trials stand, not on the best that they ever were: accuracy falls
    as tasks arrive, so that by Tune's own rule a trial that collapses would pass for good.

    Args:
        last: step after which nobody is stopped any more.
        told: Tune's own.
    """

    def __init__(self, last: int, **told: Any) -> None:
        super().__init__(**told)
        self.last = last

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """What becomes of a trial that has reported."""
        decision = super().on_trial_result(tune_controller, trial, result)
        is_over = result.get(self._time_attr, 0) > self.last
        return self.CONTINUE if is_over else str(decision)

    def _best_result(self, trial: Any) -> float:
        return float(self._results[trial][-1][self._metric])

    def _running_mean(self, trial: Any, time: float) -> float:
        known = [r for r in self._results[trial] if r[self._time_attr] <= time]
        return float(known[-1][self._metric]) if known else math.nan


class _Listener(tune.Callback):  # type: ignore[misc]
    """Turns what Tune tells into events and candidates."""

    def __init__(self, plan: Plan, trials: Trials, watch: Watch, seen: Seen) -> None:
        self.plan, self.trials, self.watch, self.seen = plan, trials, watch, seen
        self.fatal: ClrayError | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune pickles its callbacks, and nobody loads them."""
        return {}

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **_: Any
    ) -> None:
        if result["kind"] == "record" and result["average_accuracy"] is not None:
            plan, number = self.plan, self.plan.offset + trial.config["number"]
            self.seen.start(trial.config["number"])
            task, accuracy = result["task"] - 1, result["average_accuracy"]
            self.watch(TaskEnded(plan.label, plan.stage, number, task, accuracy, result["run"]))

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        self._end(trial, trial.last_result or {})

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        self._end(trial, {})

    def _end(self, trial: Any, last: dict[str, Any]) -> None:
        self.fatal = self.fatal or last.get("fatal")
        if self.fatal is not None:  # then this is no result
            return
        try:
            candidate = self.trials.end(trial.config["number"], trial.config["values"], last)
            self.seen.end(trial.config["number"])
            self.trials.add(candidate)
            self.watch(ended(self.plan, candidate))
        except ClrayError as error:
            self.fatal = error


class _Ending(tune.Stopper):  # type: ignore[misc]
    """Ends a search that cannot go on."""

    def __init__(self, listener: _Listener) -> None:
        self.listener = listener

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: see the listener."""
        return {}

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """No single trial is stopped."""
        return False

    def stop_all(self) -> bool:
        """Whether all are."""
        return self.listener.fatal is not None
