"""The search for one method's hyperparameters: what is stored already, then what is left to run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from clray.events import TaskEnded, TrialStarted, Watch
from clray.plan import Candidate, Plan, ended
from clray.ray_train import Slots
from clray.search_trials import Keep, Trials
from clray.seen import Seen
from clray.study import Study
from clray.tune_search import run_tune
from clray.work import Work


def search(
    plan: Plan,
    results: str,
    get_slots: Callable[[], Slots],
    watch: Watch,
    keep: Keep = lambda candidate: None,
) -> tuple[list[Candidate], Study]:
    """Run a search, or what is left of it; its trials in the order of their numbers, and Optuna's
    view of them.

    Args:
        plan: what to search.
        results: where trials are stored.
        get_slots: starts the slots; called only when there is something to run.
        watch: is told of trials and tasks.
        keep: is given each trial that has ended.

    Raises:
        BadInput: data that are missing or damaged.
        Leak: a trial read what its protocol forbids.
        RunFailed: Ray Tune failed.
    """
    study = plan.study()
    trials = Trials(plan, results, keep)
    # A scheduler's decisions depend on all records, so with one, stored trials pass through Tune
    # like new ones: they report what is stored and then go on, or end, at once.
    leftover = [] if plan.search.early else _replay(plan, study, trials, watch)
    if leftover or not study.finished:
        run = _directly if plan.keep else run_tune
        run(plan, study, leftover, get_slots(), trials, watch)
    return trials.in_order(), study


def _replay(
    plan: Plan, study: Study, trials: Trials, watch: Watch
) -> list[tuple[int, dict[str, Any]]]:
    """Propose as far as stored results allow; the proposals without a result are returned."""
    leftover = []
    while study.may_propose():
        number, values = study.propose(plan.before.get(len(study.proposed)))
        candidate = trials.assess(number, values)
        if candidate is None:
            leftover.append((number, values))
            continue
        study.learn(number, candidate.result)
        trials.add(candidate)
        watch(ended(plan, candidate, stored=True))
    return leftover


def _directly(
    plan: Plan,
    study: Study,
    leftover: list[tuple[int, dict[str, Any]]],
    slots: Slots,
    trials: Trials,
    watch: Watch,
) -> None:
    """Run what is left of a search that is one of many: Tune takes seconds to start each."""
    proposed: list[tuple[int, dict[str, Any]]] = []
    running: set[int] = set()
    seen = Seen(watch)

    def take() -> Work | None:
        if not leftover and (len(running) >= slots.count or not study.may_propose()):
            return None
        number, values = leftover.pop(0) if leftover else study.propose()
        told = (plan.label, plan.stage, plan.offset + number)
        seen.know(len(proposed), TrialStarted(*told, values, 1, plan.num_tasks))
        proposed.append((number, values))
        running.add(number)
        return trials.work(number, values)

    def on_record(index: int, record: dict[str, Any]) -> None:
        number, _ = proposed[index]
        told = (plan.label, plan.stage, plan.offset + number)
        seen.start(index)
        accuracy = record.get("metrics", {}).get("average_accuracy")
        if accuracy is not None and record["task"] == plan.at:
            watch(TaskEnded(*told, 0, accuracy, record["run"]))

    for index, last in slots.run(take, on_record, seen.hear):
        if "fatal" in last:
            raise last["fatal"]
        seen.end(index)
        number, values = proposed[index]
        running.discard(number)
        candidate = trials.end(number, values, last)
        study.learn(number, candidate.result)
        trials.add(candidate)
        watch(ended(plan, candidate))
