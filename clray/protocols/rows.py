"""A board's lines, as ``final.json`` and ``leaderboard.json`` hold them."""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from clray import registry
from clray.metrics import interval, order_disparity
from clray.plan import Candidate
from clray.protocols.boards import Board
from clray.protocols.choosing import Choice, Found
from clray.protocols.testing import FinalRun
from clray.protocols.views import View, inner
from clray.selection import FirstK
from clray.traces import Trace, reference_metrics, reference_of, traces_of

STATES = ("completed", "diverged", "stopped", "failed")
_INSIDE = ("names", "runs")
"""What a row holds for its board alone, and what is not stored."""


def board_of(board: Board, rows: list[dict[str, Any]], view: View) -> dict[str, Any]:
    """A board with its rows; ``rows`` hold nothing that depends on the clock but their seconds."""
    search, first = board.job.search, board.contenders[0].base
    selection = inner(board.selection)
    leak = None
    if isinstance(selection, FirstK) and selection.reuse:
        leak = "the tasks chosen on are reported again"
    reference = _add_gaps(rows)
    return {
        "name": board.name,
        "arena": board.arena,
        "benchmark": first.benchmark.model_dump(mode="json"),
        "model": board.job.model.model_dump(mode="json"),
        "protocol": board.job.protocol.training.model_dump(mode="json"),
        "selection": board.selection.model_dump(mode="json"),
        "title": board.selection.title,
        "chosen_on": board.selection.chosen_on,
        "leak": leak,
        "objectives": [objective.model_dump(mode="json") for objective in search.objective],
        "constraints": [constraint.model_dump(mode="json") for constraint in search.constraints],
        "deterministic": search.deterministic and search.early is None,
        "num_tasks": len(view.places),
        "reported": list(_names(rows)),
        **reference,
        "rows": [{k: v for k, v in row.items() if k not in _INSIDE} for row in rows],
    }


def _names(rows: list[dict[str, Any]]) -> list[str]:
    """The tasks that the first completed run learned, in its order."""
    return next((row["names"] for row in rows if row["names"]), [])


def rows_of(
    board: Board, found: Found, tested: Sequence[Sequence[FinalRun]]
) -> list[dict[str, Any]]:
    """The lines of one entry: one, or one for each point of its front."""
    if not found.choices:
        return [_row(board, found, None, ())]
    several = len(board.job.search.objective) > 1
    pairs = zip(found.choices, tested, strict=True)
    return [_row(board, found, choice, runs, several) for choice, runs in pairs]


def _row(
    board: Board,
    found: Found,
    choice: Choice | None,
    runs: Sequence[FinalRun],
    numbered: bool = False,
) -> dict[str, Any]:
    states = Counter(one.result.state for one in found.candidates)
    completed = [run for run in runs if run.outcome.state == "completed"]
    footprint = completed[0].outcome.records[-1]["footprint"] if completed else {}
    orders = list(dict.fromkeys(run.order for run in runs))
    one = choice.candidate if choice else None
    disparity = order_disparity(_by_task(completed)) if len(orders) > 1 else None
    return {
        "label": found.contender.label,
        "method": found.contender.base.method.name,
        "bound": found.contender.bound,
        "values": choice.values if choice else {},
        "trajectory": choice.trajectory if choice else None,
        "number": one.number if one and numbered else None,
        "trials": {state: states[state] for state in STATES},
        "validation": dict(one.result.measures) if one else {},
        "test": _spreads(runs),
        "order_disparity": list(disparity) if disparity else None,
        "seeds": board.job.final.seeds if runs else 0,
        "orders": [order for order in orders if order],
        "parameters": footprint.get("parameters"),
        "examples": footprint.get("examples"),
        "bytes": footprint.get("bytes"),
        "train_seconds": _train_seconds(completed),
        "key": one.runs[-1].key if one else None,
        "test_keys": [run.spec.key for run in runs],
        "shared": _shared(completed),
        "budget": _budget([*found.before, *found.candidates]),
        "transfer": found.transfer,
        "importances": found.importances,
        "error": _error(found, runs),
        **({"warnings": warnings} if (warnings := _warnings(runs)) else {}),
        "names": [r["name"] for r in completed[0].outcome.records] if completed else [],
        "runs": runs,
    }


def _add_gaps(rows: list[dict[str, Any]]) -> dict[str, str | None]:
    """Puts into the rows what traces say against joint training's, run by run.

    Joint training is the first bound that learns from all tasks so far and has traces. Its runs
    are compared with those of the same order and seed.

    Returns:
        ``reference``: its label, or None; nothing where there are no traces.
    """
    traces = [[_traces(run) for run in row["runs"]] for row in rows]
    if not any(one for some in traces for one in some):
        return {}
    places = (i for i, row in enumerate(rows) if _is_joint(row) and any(traces[i]))
    place = next(places, None)
    if place is None:
        return {"reference": None}
    label, runs = rows[place]["label"], rows[place]["runs"]
    known = {_repeat(run): one for run, one in zip(runs, traces[place], strict=True) if one}
    for row, some in zip(rows, traces, strict=True):
        if not any(some):
            continue
        told: list[dict[str, float | None]] = []
        refused: list[str] = []
        for run, one in zip(row["runs"], some, strict=True):
            joint = known.get(_repeat(run))
            try:
                together = one and joint
                references = [reference_of(trace) for trace in joint or ()]
                told.append(reference_metrics(one, references) if together else {})
            except ValueError as error:
                told.append({})
                refused.append(f"no gaps against {label}: {error}")
        row["test"] |= _spread(told, _GAPS)
        if refused:
            row["warnings"] = [*row.get("warnings", ()), *dict.fromkeys(refused)]
    return {"reference": label}


_GAPS = tuple(reference_metrics((), ()))
"""What traces say against joint training, by name."""


def _is_joint(row: dict[str, Any]) -> bool:
    learner = registry.find("method", row["method"]).learner
    return bool(row["bound"] and learner.cumulative)


def _traces(run: FinalRun) -> list[Trace]:
    """Those of a run that completed."""
    return traces_of(run.outcome.records) if run.outcome.state == "completed" else []


def _repeat(run: FinalRun) -> tuple[str, int]:
    """What the final runs of all rows have in common, one by one."""
    return run.order, run.spec.seed


def _spreads(runs: Sequence[FinalRun]) -> dict[str, dict[str, Any]]:
    """Each metric over the runs; none of one that did not complete."""
    names = dict.fromkeys(name for run in runs for name in run.outcome.metrics)
    done = [run.outcome.metrics if run.outcome.state == "completed" else {} for run in runs]
    return _spread(done, names)


def _spread(
    runs: Sequence[Mapping[str, float | None]], names: Iterable[str]
) -> dict[str, dict[str, Any]]:
    """Each metric over the runs: its mean and interval, and one value for each run, None where it
    has none."""
    spreads = {}
    for name in names:
        values = [run.get(name) for run in runs]
        known = [value for value in values if value is not None]
        mean, half = interval(known) if known else (None, None)
        spreads[name] = {"mean": mean, "interval": half, "values": values}
    return spreads


def _warnings(runs: Sequence[FinalRun]) -> list[str]:
    """What the method says against itself where it learned a task: the facts named so; the first of
    those that differ in their numbers alone."""
    alike: dict[str, list[str]] = {}
    for record in (record for run in runs for record in run.outcome.records):
        warning = (record.get("facts") or {}).get("warning")
        if isinstance(warning, str) and warning:
            alike.setdefault(re.sub(r"[\d.]+", "", warning), []).append(warning)
    return [
        some[0] + (f" (the first of {len(some)} alike)" if len(some) > 1 else "")
        for some in alike.values()
    ]


def _by_task(runs: Sequence[FinalRun]) -> dict[str, list[float]]:
    """Each task's final accuracy by its name, one for each order: the mean over its seeds."""
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for run in runs:
        names = [record["name"] for record in run.outcome.records]
        for name, accuracy in zip(names, run.outcome.records[-1]["accuracy"], strict=True):
            if accuracy is not None:
                found[name][run.order].append(accuracy)
    return {
        name: [math.fsum(values) / len(values) for values in orders.values()]
        for name, orders in found.items()
    }


def _shared(runs: Sequence[FinalRun]) -> dict[str, int] | None:
    """How much of what the final runs learned was learned once for several; None where tasks are
    not learned apart."""
    records = [record for run in runs for record in run.outcome.records if "part" in record]
    if not records:
        return None
    own = {record["part"]: record["steps"] for record in records}
    return {
        "tasks": len(records),
        "tasks_learned": len(own),
        "steps": sum(record["steps"] for record in records),
        "steps_learned": sum(own.values()),
    }


def _budget(candidates: Sequence[Candidate]) -> dict[str, Any]:
    """What a choice cost."""
    return {
        "trials": len(candidates),
        "task_trainings": sum(one.trainings for one in candidates),
        "examples_seen": sum(one.examples_seen for one in candidates),
        "seconds": math.fsum(one.seconds for one in candidates),
    }


def _train_seconds(runs: Sequence[FinalRun]) -> float | None:
    """Mean seconds of training over the final runs, over all of their starts."""
    seconds = [run.outcome.seconds["train"] for run in runs if "train" in run.outcome.seconds]
    return math.fsum(seconds) / len(seconds) if seconds else None


def without_clock(board: dict[str, Any]) -> dict[str, Any]:
    """A board without what depends on the clock."""
    rows = [
        {
            **{k: v for k, v in row.items() if k != "train_seconds"},
            "budget": {k: v for k, v in row["budget"].items() if k != "seconds"},
        }
        for row in board["rows"]
    ]
    return {**board, "rows": rows}


def _error(found: Found, runs: Sequence[FinalRun]) -> str | None:
    """Why this line is not what it should be, or None."""
    failed = [one for one in found.candidates if one.result.state == "failed"]
    if failed:
        text = f"{len(failed)} of {len(found.candidates)} trials failed; trial {failed[0].number}: "
        return text + str(failed[0].error)
    if found.error is not None:
        return found.error
    odd = [run.outcome for run in runs if run.outcome.state != "completed"]
    if odd:
        reason = odd[0].error or odd[0].state
        return f"{len(odd)} of {len(runs)} test runs did not complete: {reason}"
    return None
