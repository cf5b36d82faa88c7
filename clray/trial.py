"""One method, one stream, once: a pure function of the trial's spec."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from clray import apart, registry
from clray.distributed import Distributed
from clray.events import TaskEnded, TrialEnded, TrialStarted, Watch
from clray.guard import Guard, Permission, own
from clray.loop import Loop
from clray.outcome import Outcome, Record, Report, go_on, never
from clray.spec import Resources, Storing, TrialSpec
from clray.store import Folder, trial_folder
from clray.together import Together


def ended(
    folder: Folder, spec: TrialSpec | None = None, permission: Permission | None = None
) -> Outcome | None:
    """What a trial left that has ended for good; None if it must still run, or go on.

    Args:
        folder: the trial's own.
        spec: of the trial, where its reads are to be checked.
        permission: what it may have read.

    Raises:
        BadData: a file of it is damaged.
        Leak: it read something else.
    """
    result = folder.find_json("result.json")
    if result is None or result["state"] == "stopped":
        return None
    timing = folder.find_json("timing.json") or {}
    records = folder.find_lines("records.jsonl")
    if spec is not None and permission is not None:
        permission.check_records(spec, records, _is_cumulative(spec))
    return Outcome(result["state"], records, result["metrics"], timing)


def _is_cumulative(spec: TrialSpec) -> bool:
    return registry.find("method", spec.method.name).learner.cumulative


def run(
    spec: TrialSpec,
    folder: Folder,
    report: Report = go_on,
    storing: Storing | None = None,
    device: torch.device | None = None,
    interrupted: Callable[[], bool] = never,
    resources: Resources | None = None,
    permission: Permission | None = None,
    keep: bool = False,
) -> Outcome:
    """Run the trial, or what is left of it, and store everything under ``folder``.

    With several workers, each calls this; only the first one stores and reports.

    Args:
        spec: filled in by ``clray.registry.complete``.
        folder: the trial's own; what it holds is re-reported and gone on from.
        report: is told each record; returns False to stop the trial there.
        storing: what is kept beside the records.
        device: where data and model lie; the CPU by default.
        interrupted: asked before each batch; True makes the trial leave as if it were killed.
        resources: how a stored stream is read; it changes no result.
        permission: what the trial may read; what its spec says by default.
        keep: whether the last checkpoint stays, for a longer trial to begin from.

    Raises:
        Interrupted: it was.
        Leak: the trial read what it may not, or its stored records say so.
        BadInput: the benchmark's data are missing, damaged or do not fit its knobs.
        BrokenPromise: tasks that the method says it learns apart depend on one another.
    """
    distributed = Distributed()
    permission = permission or own(spec)
    known: Outcome | None = None
    if distributed.rank == 0:
        known = ended(folder, spec, permission)
        for record in known.records if known else ():
            report(record)
    known = distributed.broadcast(known)
    if known is not None:
        return known
    device = device or torch.device("cpu")
    guard = Guard(permission, spec, _is_cumulative(spec))
    storing, resources = storing or Storing(), resources or Resources()
    handed = (spec, folder, storing, device, resources, guard)
    loop: Loop
    if apart.is_whole(spec):

        def learn(part: TrialSpec, beside: Folder) -> Outcome:
            less = storing.model_copy(update={"model": False})
            others = (less, device, interrupted, resources, permission)
            return run(part, beside, go_on, *others, keep=part.until == 1)

        loop = together = Together(*handed)
        together.learn = learn
    else:
        loop = Loop(*handed)
    loop.interrupted, loop.keep = interrupted, keep
    return loop.go(report)


def run_here(
    spec: TrialSpec,
    results: str,
    storing: Storing,
    watch: Watch,
    resources: Resources | None = None,
) -> dict[str, Any]:
    """Run a completed spec in this process, without Ray; what it did, as a plain mapping."""
    torch.set_num_threads(1)
    folder = trial_folder(results, spec.key)
    was_stored = ended(folder) is not None
    watch(TrialStarted(spec.method.name, "test", 0))
    outcome = run(spec, folder, watching(spec, watch), storing, resources=resources)
    watch(TrialEnded(spec.method.name, "test", 0, outcome.state, None, was_stored))
    return summary(spec, folder, outcome, was_stored)


def watching(spec: TrialSpec, watch: Watch) -> Report:
    """A report that turns records into events."""

    def report(record: Record) -> bool:
        accuracy = record["metrics"].get("average_accuracy")
        watch(TaskEnded(spec.method.name, "test", 0, record["task"], accuracy or 0.0))
        return True

    return report


def summary(spec: TrialSpec, folder: Folder, outcome: Outcome, stored: bool) -> dict[str, Any]:
    """An outcome as a plain mapping, for those who print it."""
    return {
        "key": spec.key,
        "state": outcome.state,
        "metrics": outcome.metrics,
        "records": outcome.records,
        "seconds": outcome.seconds,
        "path": folder.uri,
        "error": outcome.error,
        "stored": stored,
    }
