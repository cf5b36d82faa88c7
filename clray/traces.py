"""What continual evaluation says about a learner: accuracy after single updates.

A trace belongs to one task of the stream: while it is learned, all tasks so far are graded on a
fixed subset of their examples. Of a task with L updates, point 0 lies before the first one, when
the method has made itself ready (a class's weights may be initialised then), and point L after the
last, when the method has ended the task. Between points accuracy is interpolated, so that all means
are over the updates 1 .. L and do not depend on where points lie close together.

*Old* are the tasks before the one that is learned, *new* is that one, *all* are both; their
accuracies are shares of examples. The first task of a stream has no old ones.

Pure Python: whatever reads results can import it without torch or Ray.
"""

from __future__ import annotations

import dataclasses
import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, TypeAlias

Group: TypeAlias = Literal["old", "new", "all"]
GROUPS: tuple[Group, ...] = ("old", "new", "all")

WINDOW = 10
"""Evaluations in a row within which windowed forgetting and plasticity look (De Lange et al.)."""
EARLY = 30
"""The first updates of a task, which ``stability_gap_early`` is restricted to."""
AREA = 30
"""Updates over which the learning-curve area is taken."""
TOLERANCE = 0.01
"""Old accuracy has recovered when it is at most this below where the task began."""
_ROUNDING = 1e-9
"""By which two shares of examples may miss each other in floating point."""


@dataclass(frozen=True)
class Trace:
    """The points of one task.

    Attributes:
        examples: of each task so far, how many are graded; the last task is the one learned.
        before: of each old task, how many were answered rightly by the network that the task found.
        updates: of each point, ascending from 0.
        right: of each point, how many examples of each task so far were answered rightly; None:
            not graded, or no number.
    """

    examples: Sequence[int]
    before: Sequence[int | None]
    updates: Sequence[int]
    right: Sequence[Sequence[int | None]]

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> Trace:
        """The trace in a record, as it stands there under ``trace``.

        Raises:
            ValueError: it is none.
        """
        try:
            trace = cls(plain["examples"], plain["before"], plain["updates"], plain["right"])
            own = len(trace.examples)
            whole = (
                own > 0
                and len(trace.before) == own - 1
                and len(trace.right) == len(trace.updates) > 0
                and all(len(row) == own for row in trace.right)
                and trace.updates[0] == 0
                and all(a < b for a, b in pairwise(trace.updates))
            )
        except (KeyError, TypeError) as error:
            raise ValueError(f"no trace: {error}") from error
        if not whole:
            raise ValueError("a trace whose parts do not fit together")
        return trace

    @property
    def task(self) -> int:
        """Position in the stream of the task that is learned."""
        return len(self.examples) - 1

    @property
    def num_updates(self) -> int:
        """L."""
        return self.updates[-1]

    def of_task(self, index: int) -> list[float] | None:
        """Accuracy on a task at each point; None where it was not graded."""
        return self._shares([index])

    def of_group(self, group: Group) -> list[float] | None:
        """Accuracy on the old, the new or all tasks at each point; None where not all of these
        were graded, or there are none."""
        return self._shares(self._members(group))

    def found(self) -> float | None:
        """Accuracy on the old tasks of the network that the task found, before the method made
        itself ready and before there were units of new classes."""
        return _share(self.before, self.examples, range(self.task)) if self.task else None

    def _members(self, group: Group) -> list[int]:
        members: dict[Group, list[int]] = {
            "old": list(range(self.task)),
            "new": [self.task],
            "all": list(range(self.task + 1)),
        }
        return members[group]

    def _shares(self, members: Sequence[int]) -> list[float] | None:
        if not members:
            return None
        shares = [_share(row, self.examples, members) for row in self.right]
        known = [share for share in shares if share is not None]
        return known if len(known) == len(shares) else None


Traces: TypeAlias = Sequence[Trace]
"""Of a stream, task by task."""


def traces_of(records: Sequence[Mapping[str, Any]]) -> list[Trace]:
    """The traces in a trial's records; empty where there was no continual evaluation."""
    return [Trace.of(record["trace"]) for record in records if record.get("trace")]


def interpolated(updates: Sequence[int], curve: Sequence[float]) -> list[float]:
    """A curve at each update from its first point to its last, linear between points."""
    line = list(curve[:1])
    for (low, a), (high, b) in pairwise(zip(updates, curve, strict=True)):
        line += [a + (b - a) * step / (high - low) for step in range(1, high - low + 1)]
    return line


# Of one trial alone.


def depth(trace: Trace, after_initialisation: bool = False) -> float | None:
    """How far old accuracy falls below where the task began: A(0) - min_i A(i), i >= 0.

    Args:
        trace: of one task.
        after_initialisation: whether A(0) is point 0, which is after the method initialised what is
            new; else it is what the task found, so that a loss by the initialisation counts.
    """
    old = trace.of_group("old")
    if old is None:
        return None
    start = old[0] if after_initialisation else trace.found()
    return None if start is None else start - min(old)


def recovery(trace: Trace) -> int | None:
    """The first update after the lowest old accuracy at which it is again within ``TOLERANCE`` of
    what the task found; 0 where it always is, None where it never is again (or nothing is old)."""
    old, start = trace.of_group("old"), trace.found()
    if old is None or start is None:
        return None
    lowest = old.index(min(old))
    if old[lowest] >= start - TOLERANCE - _ROUNDING:
        return 0
    for update, accuracy in zip(trace.updates[lowest:], old[lowest:], strict=True):
        if accuracy >= start - TOLERANCE - _ROUNDING:
            return update
    return None


def minimum_accuracies(traces: Traces) -> list[float | None]:
    """Of each task but the last, the lowest accuracy since it was learned; while later ones were
    (min-ACC of De Lange et al. 2023, arXiv 2205.13452, by task)."""
    return [
        _least([trace.of_task(index) for trace in traces[index + 1 :]])
        for index in range(len(traces) - 1)
    ]


def windowed_change(traces: Traces, index: int, window: int, sign: int) -> float | None:
    """The largest fall (sign -1) or rise (sign 1) of a task's accuracy between any two of
    ``window`` updates in a row, from when the task begins; at least 0 (WF and WP of De Lange et
    al. 2023, who evaluate after every update)."""
    curves = [trace.of_task(index) for trace in traces[index:]]
    if any(curve is None for curve in curves):
        return None
    line = [
        accuracy
        for trace, curve in zip(traces[index:], curves, strict=True)
        for accuracy in interpolated(trace.updates, curve or [])
    ]
    largest = 0.0
    least: deque[tuple[int, float]] = deque()  # ascending, of the last window
    for place, accuracy in enumerate(line):
        value = sign * accuracy
        while least and least[0][0] <= place - window:
            least.popleft()
        if least:
            largest = max(largest, value - least[0][1])
        while least and least[-1][1] >= value:
            least.pop()
        least.append((place, value))
    return largest


def learning_curve_area(trace: Trace, updates: int = AREA) -> float | None:
    """Mean accuracy on the new task over points 0 .. ``updates`` (LCA of Chaudhry et al. 2019,
    arXiv 1812.00420), or to the task's end where that comes first."""
    new = trace.of_group("new")
    if new is None:
        return None
    line = interpolated(trace.updates, new)[: updates + 1]
    return math.fsum(line) / len(line)


def trace_metrics(traces: Traces) -> dict[str, float | None]:
    """All that the traces of one trial say, by name; tasks have equal weight.

    ``continual_minimum_accuracy`` and ``continual_worst_case_accuracy`` are min-ACC and WC-ACC of
    De Lange et al. 2023 after every update; ``updates_to_recover`` is the mean over the tasks after
    which old accuracy recovers, and ``recovered`` their share.
    """
    later = [trace for trace in traces if trace.task]
    lowest = _mean(minimum_accuracies(traces))
    recoveries = [recovery(trace) for trace in later]
    reached = [update for update in recoveries if update is not None]
    known = [trace.found() is not None and trace.of_group("old") is not None for trace in later]
    return {
        "continual_minimum_accuracy": lowest,
        "continual_worst_case_accuracy": _worst_case(traces, lowest),
        "windowed_forgetting": _mean(
            windowed_change(traces, index, WINDOW, -1) for index in range(len(traces))
        ),
        "windowed_plasticity": _mean(
            windowed_change(traces, index, WINDOW, 1) for index in range(len(traces))
        ),
        "learning_curve_area": _mean(learning_curve_area(trace) for trace in traces),
        "depth": _mean(depth(trace) for trace in later),
        "depth_after_initialisation": _mean(depth(trace, True) for trace in later),
        "updates_to_recover": math.fsum(reached) / len(reached) if reached else None,
        "recovered": len(reached) / len(later) if known and all(known) else None,
    }


# Against joint training.


@dataclass(frozen=True)
class Reference:
    """What joint training reaches with a task and all before it: accuracy by group, above 0."""

    old: float | None
    new: float | None
    all: float | None


def reference_of(trace: Trace) -> Reference:
    """What a joint run had reached when a task ended; earlier points need not be known."""
    end = dataclasses.replace(trace, updates=trace.updates[-1:], right=trace.right[-1:])
    old, new, every = (curve[-1] if (curve := end.of_group(g)) else None for g in GROUPS)
    return Reference(old, new, every)


def gap(
    traces: Traces, references: Sequence[Reference], group: Group, first: int | None = None
) -> float | None:
    """1 - the mean, over tasks after the first, of the mean over updates of accuracy / reference.

    The stability, plasticity and continual knowledge gap of Harun & Kanan 2024 (arXiv 2306.01904)
    for old, new and all: 0 is joint training's accuracy, below 0 is better. As published, each pair
    of a task and an update has equal weight; here each task has, which is the same where all take
    equally many updates.

    Args:
        traces: of the trial.
        references: of joint training, for the same tasks.
        group: what accuracy is on.
        first: only so many updates of each task.

    Raises:
        ValueError: a reference of 0, or other tasks.
    """
    if len(traces) != len(references):
        raise ValueError(f"{len(traces)} traces and {len(references)} references")
    ratios: list[float | None] = []
    for trace, reference in zip(traces, references, strict=True):
        if not trace.task:
            continue
        curve, most = trace.of_group(group), getattr(reference, group)
        if most is not None and most <= 0:
            raise ValueError(f"a reference of {most} for task {trace.task + 1}, accepted: above 0")
        line = interpolated(trace.updates, curve)[1:] if curve else []
        line = line[:first] if first is not None else line
        ratios.append(math.fsum(line) / len(line) / most if most and line else None)
    mean = _mean(ratios)
    return None if mean is None else 1 - mean


def updates_to_reach(trace: Trace, reference: Reference, share: float) -> int | None:
    """The first update at which accuracy on all tasks is at least a share of joint training's;
    None where it never is."""
    curve = trace.of_group("all")
    if curve is None or reference.all is None:
        return None
    enough = share * reference.all - _ROUNDING
    return next((u for u, a in zip(trace.updates, curve, strict=True) if a >= enough), None)


SHARES = (97, 99)
"""Per cents of joint training's accuracy that updates are counted to."""


def reference_metrics(traces: Traces, references: Sequence[Reference]) -> dict[str, float | None]:
    """All that traces say against joint training, by name.

    ``updates_to_97`` is the mean over the tasks in which 97 % of joint training's accuracy on all
    tasks so far is reached, and ``reached_97`` their share.

    Raises:
        ValueError: as ``gap``.
    """
    measured: dict[str, float | None] = {
        "stability_gap": gap(traces, references, "old"),
        "stability_gap_early": gap(traces, references, "old", EARLY),
        "plasticity_gap": gap(traces, references, "new"),
        "continual_knowledge_gap": gap(traces, references, "all"),
    }
    later = [pair for pair in zip(traces, references, strict=True) if pair[0].task]
    for share in SHARES:
        found = [updates_to_reach(trace, reference, share / 100) for trace, reference in later]
        reached = [update for update in found if update is not None]
        known = measured["continual_knowledge_gap"] is not None
        measured[f"updates_to_{share}"] = math.fsum(reached) / len(reached) if reached else None
        measured[f"reached_{share}"] = len(reached) / len(later) if known else None
    return measured


def _share(
    right: Sequence[int | None], examples: Sequence[int], members: Sequence[int]
) -> float | None:
    found = [right[index] for index in members]
    known = [count for count in found if count is not None]
    total = sum(examples[index] for index in members)
    return sum(known) / total if total and len(known) == len(found) else None


def _worst_case(traces: Traces, lowest: float | None) -> float | None:
    """The last task's accuracy and min-ACC, weighted so that every task counts once."""
    if not traces:
        return None
    now, k = traces[-1].of_group("new"), len(traces)
    if now is None or (k > 1 and lowest is None):
        return None
    return now[-1] / k + (1 - 1 / k) * (lowest or 0.0)


def _least(curves: Sequence[Sequence[float] | None]) -> float | None:
    known = [min(curve) for curve in curves if curve]
    return min(known) if known and len(known) == len(curves) else None


def _mean(values: Any) -> float | None:
    terms = list(values)
    known = [v for v in terms if v is not None]
    return math.fsum(known) / len(known) if terms and len(known) == len(terms) else None
