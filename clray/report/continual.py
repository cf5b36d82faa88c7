"""What continual evaluation says about the rows of a board, in words: measures, cells and notes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from clray.report.numbers import NONE, estimate
from clray.report.ranking import bounds, ranked
from clray.report.stored import Board, Row
from clray.traces import AREA, EARLY, SHARES, TOLERANCE, WINDOW


@dataclass(frozen=True)
class Measure:
    """One measure of traces.

    Attributes:
        name: as it is stored.
        head: of its column.
        spelt: in full, where it stands alone.
        keep: how much it matters where not all have room, below 100.
        share: the measure that says in how many tasks an update was found; "": this is no update.
    """

    name: str
    head: str
    spelt: str
    keep: int
    share: str = ""


FALLS = (
    Measure("depth", "depth", "how deep old accuracy falls below what a task found", 99),
    Measure(
        "depth_after_initialisation",
        "depth after initialisation",
        "how deep it falls after initialisation",
        60,
    ),
    Measure("stability_gap", "stability gap", "stability gap", 98),
    Measure(
        "stability_gap_early",
        f"stability gap (first {EARLY})",
        f"stability gap of the first {EARLY} updates",
        80,
    ),
    Measure("plasticity_gap", "plasticity gap", "plasticity gap", 75),
    Measure("continual_knowledge_gap", "continual knowledge gap", "continual knowledge gap", 90),
)
"""How far accuracy falls, and how far it stays below joint training's."""
COURSES = (
    Measure("continual_minimum_accuracy", "min-ACC", "lowest accuracy of old tasks (min-ACC)", 85),
    Measure("continual_worst_case_accuracy", "WC-ACC", "worst-case accuracy (WC-ACC)", 70),
    Measure(
        "windowed_forgetting",
        "windowed forgetting",
        f"largest fall within {WINDOW} updates (windowed forgetting)",
        40,
    ),
    Measure(
        "windowed_plasticity",
        "windowed plasticity",
        f"largest rise within {WINDOW} updates (windowed plasticity)",
        30,
    ),
    Measure(
        "learning_curve_area",
        "learning-curve area",
        f"mean new accuracy over {AREA} updates (learning-curve area)",
        35,
    ),
    Measure(
        "updates_to_recover",
        "updates to recover",
        "updates until old accuracy recovers, where it does",
        88,
        "recovered",
    ),
    *(
        Measure(
            f"updates_to_{share}",
            f"updates to {share} %",
            f"updates to {share} % of joint training, where it is reached",
            50 + share - SHARES[0],
            f"reached_{share}",
        )
        for share in SHARES
    ),
)
"""What accuracy comes to on the way, and how long that takes."""
MEASURES = (*FALLS, *COURSES)
"""In the order in which they are shown."""
SPELT = {one.name: one.spelt for one in MEASURES} | {
    "recovered": "share of tasks in which old accuracy recovers"
}
"""The measures of a trial, for a person."""


def traced(board: Board) -> list[Row]:
    """The rows whose traces say anything: ranked ones, then bounds."""
    rows = [*ranked(board), *bounds(board)]
    return [row for row in rows if any(known(row, one) for one in MEASURES)]


def known(row: Row, measure: Measure) -> bool:
    """Whether there is anything in that cell."""
    name = measure.share or measure.name
    return any(value is not None for value in row.on_test(name).values)


def measures_shown(rows: Sequence[Row]) -> list[Measure]:
    """Those that say anything of any row."""
    return [one for one in MEASURES if any(known(row, one) for row in rows)]


def cell(board: Board, row: Row, measure: Measure, intervals: bool = True) -> str:
    """A measure's mean with its interval; of an update, over the tasks in which it was found, and
    in how many of all it was where it was not in all.

    Args:
        board: the row's.
        row: a line of the table.
        measure: its column.
        intervals: whether they are written.
    """
    found = row.on_test(measure.name)
    half = found.interval if intervals else None
    if not measure.share:
        return estimate(found.mean, half)
    later = board.num_tasks - 1
    pairs = [
        (value or 0.0, round(share * later))
        for value, share in zip(
            found.values or [None] * len(row.test_keys),
            row.on_test(measure.share).values,
            strict=True,
        )
        if share is not None
    ]
    number, total = sum(tasks for _, tasks in pairs), later * len(pairs)
    if not total:
        return NONE
    if not number:
        return "not reached"
    mean = math.fsum(value * tasks for value, tasks in pairs) / number
    if number < total:
        return f"{mean:.1f} ({number} of {total})"
    return f"{mean:.1f}" + (f" ± {half:.1f}" if half is not None else "")


def notes(board: Board) -> list[str]:
    """What the columns mean, what they are against, and what was graded when."""
    rows = traced(board)
    if not rows:
        return []
    shown = {one.name for one in measures_shown(rows)}
    told = [
        f"{_graded(board)}Depth: how far accuracy on old tasks falls below what a task found, at "
        "its lowest; after initialisation: below where its first update begins.",
        f"Old tasks have recovered within {TOLERANCE:g} of what the task found; in brackets, in "
        "how many tasks of all runs.",
    ]
    if "stability_gap" in shown and board.reference is not None:
        told.append(
            "Gaps on old (stability), new (plasticity) and all tasks: 1 less the mean over updates "
            f"of accuracy relative to what joint training ({board.reference}) reaches with the "
            "same tasks; below 0 is better."
        )
    elif board.reference is None:
        told.append("No gaps: no bound that learns from all tasks so far was traced.")
    return told


def evaluation(board: Board) -> tuple[str, str]:
    """When there was graded, and on what; two empty texts where it is not known."""
    found = board.protocol.get("evaluation")
    if not isinstance(found, dict) or not {"every", "first", "subset"} <= set(found):
        return "", ""
    every, first = found["every"], found["first"]
    when = "every update" if every == 1 else f"every {every} updates"
    if first and every != 1:
        when = f"each of a task's first {first} updates, then {when}"
    return when, f"up to {found['subset']} examples of each class"


def _graded(board: Board) -> str:
    when, on = evaluation(board)
    return f"Graded after {when}, on {on}. " if when else ""
