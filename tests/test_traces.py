"""Traces that can be worked out by hand (De Lange et al. 2023; Harun & Kanan 2024)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from clray import metrics, traces
from clray.traces import Reference, Trace

NUMBER = 100


def of(
    *curves: Sequence[float | None],
    updates: Sequence[int] | None = None,
    before: Sequence[float | None] | None = None,
) -> Trace:
    """A trace of as many tasks as there are curves, the last one new, of 100 examples each.

    Args:
        curves: of each task, its accuracy at each point.
        updates: of each point; none: after every update.
        before: on each old task, what the task found; none: what point 0 says.
    """

    def right(accuracy: float | None) -> int | None:
        return None if accuracy is None else round(NUMBER * accuracy)

    found = before if before is not None else [curve[0] for curve in curves[:-1]]
    rows = [[right(accuracy) for accuracy in row] for row in zip(*curves, strict=True)]
    places = list(updates or range(len(rows)))
    return Trace([NUMBER] * len(curves), [right(a) for a in found], places, rows)


FIRST = of([0.0, 1.0, 1.0])
V = [FIRST, of([1.0, 0.2, 0.9], [0.0, 0.3, 0.6])]
"""The old task falls and rises, the new one ends at 0.6."""
ONE = Reference(1.0, 1.0, 1.0)


def gaps(of_trial: Sequence[Trace], references: Sequence[Reference]) -> dict[str, float | None]:
    found = traces.reference_metrics(of_trial, references)
    return {name: value for name, value in found.items() if name.endswith(("gap", "early"))}


def test_a_v_shaped_trace_by_hand() -> None:
    assert traces.minimum_accuracies(V) == [0.2]
    assert traces.windowed_change(V, 0, 2, -1) == pytest.approx(0.8)  # 1.0 -> 0.2
    assert traces.windowed_change(V, 0, 2, 1) == 1.0  # when it was learned itself
    alone = [of([1.0, 0.2, 0.9])]
    assert traces.windowed_change(alone, 0, 2, -1) == pytest.approx(0.8)
    assert traces.windowed_change(alone, 0, 2, 1) == pytest.approx(0.7)
    assert metrics.backward_transfer([[1.0], [0.9, 0.6]]) == pytest.approx(-0.1)
    found = traces.trace_metrics(V)
    assert found["continual_minimum_accuracy"] == 0.2
    assert found["continual_worst_case_accuracy"] == pytest.approx(0.4)
    assert found["depth"] == pytest.approx(0.8)
    assert (found["updates_to_recover"], found["recovered"]) == (None, 0.0)


def test_a_window_sees_what_falls_slowly() -> None:
    slow = [of([1.0, 0.9, 0.8, 0.7])]
    assert traces.windowed_change(slow, 0, 2, -1) == pytest.approx(0.1)
    assert traces.windowed_change(slow, 0, 3, -1) == pytest.approx(0.2)
    assert traces.windowed_change(slow, 0, 9, 1) == 0.0


def test_joint_training_has_no_gap_to_itself() -> None:
    flat = [FIRST, of([0.8, 0.8], [0.6, 0.6]), of([0.5] * 3, [0.3] * 3, [0.9] * 3)]
    references = [traces.reference_of(trace) for trace in flat]
    assert references[2] == Reference(0.4, 0.9, 170 / 300)
    assert gaps(flat, references) == pytest.approx(
        dict.fromkeys(gaps(flat, references), 0.0), abs=1e-12
    )
    found = traces.reference_metrics(flat, references)
    assert (found["updates_to_99"], found["reached_99"]) == (0.0, 1.0)


def test_half_as_much_again_is_a_gap_of_minus_a_half() -> None:
    trial = [FIRST, of([0.9] * 4, [0.9] * 4)]
    references = [traces.reference_of(FIRST), Reference(0.6, 0.6, 0.6)]
    assert gaps(trial, references) == pytest.approx(dict.fromkeys(gaps(trial, references), -0.5))


@pytest.mark.parametrize("point", [1, 2, 3])
def test_any_lower_point_raises_the_gap(point: int) -> None:
    curve = [0.8, 0.8, 0.8, 0.8]
    lower = [*curve[:point], 0.7, *curve[point + 1 :]]

    def gap(old: Sequence[float]) -> float:
        found = traces.gap([FIRST, of(old, [0.5] * 4)], [ONE, ONE], "old")
        assert found is not None
        return found

    assert gap(curve) == pytest.approx(0.2)
    assert gap(lower) == pytest.approx(0.2 + 0.1 / 3)


def test_point_0_is_no_update() -> None:
    trial = [FIRST, of([0.0, 1.0, 1.0], [0.0, 1.0, 1.0])]
    assert traces.gap(trial, [ONE, ONE], "old") == 0.0


def test_tasks_count_alike_however_long_they_are() -> None:
    trial = [FIRST, of([0.5, 0.5], [1.0, 1.0]), of([1.0] * 9, [1.0] * 9, [1.0] * 9)]
    assert traces.gap(trial, [ONE] * 3, "old") == pytest.approx(0.25)


def test_the_first_updates_alone() -> None:
    late = [0.5] * 31 + [1.0] * 30
    trial = [FIRST, of(late, late)]
    assert traces.gap(trial, [ONE, ONE], "old") == pytest.approx(0.25)
    assert gaps(trial, [ONE, ONE])["stability_gap_early"] == pytest.approx(0.5)


@pytest.mark.parametrize("nothing", [Reference(0.0, 1.0, 1.0), Reference(1.0, 0.0, 1.0)])
def test_a_reference_of_zero_is_refused(nothing: Reference) -> None:
    with pytest.raises(ValueError, match=r"a reference of 0\.0 for task 2"):
        traces.reference_metrics(V, [ONE, nothing])
    with pytest.raises(ValueError, match="2 traces and 1 references"):
        traces.gap(V, [ONE], "old")


def test_dense_and_sparse_points_say_the_same() -> None:
    old = [1.0, *(0.4 + 0.06 * i for i in range(11))]
    new = [0.0, *(0.08 * i for i in range(1, 12))]
    dense = [FIRST, of(old, new)]
    places = [0, 1, 6, 11]
    sparse = [FIRST, of([old[i] for i in places], [new[i] for i in places], updates=places)]
    assert traces.trace_metrics(sparse) == pytest.approx(traces.trace_metrics(dense))
    assert gaps(sparse, [ONE, ONE]) == pytest.approx(gaps(dense, [ONE, ONE]))


def test_depth_before_and_after_initialisation() -> None:
    trace = of([0.7, 0.6, 0.8], [0.5, 0.6, 0.7], before=[0.9])
    assert traces.depth(trace) == pytest.approx(0.3)
    assert traces.depth(trace, after_initialisation=True) == pytest.approx(0.1)
    unknown = of([0.7, 0.6, 0.8], [0.5, 0.6, 0.7], before=[None])
    assert traces.depth(unknown) is None
    assert traces.depth(unknown, after_initialisation=True) == pytest.approx(0.1)
    assert traces.depth(FIRST) is None


def test_when_old_tasks_recover() -> None:
    new = [0.5] * 4
    assert traces.recovery(of([0.9, 0.3, 0.88, 0.9], new)) == 3
    assert traces.recovery(of([0.9, 0.3, 0.89, 0.9], new)) == 2
    # a hundredth below, which floating point makes a little less than a hundredth
    assert 0.07 - traces.TOLERANCE > 0.06
    assert traces.recovery(of([0.07, 0.0, 0.06, 0.07], new)) == 2
    assert traces.recovery(of([0.9, 0.3, 0.5, 0.8], new)) is None
    assert traces.recovery(of([0.9] * 4, new)) == 0
    # nothing recovers before its lowest point
    assert traces.recovery(of([0.9, 0.89, 0.3, 0.89], new)) == 3
    trial = [FIRST, of([0.9, 0.3, 0.9, 0.9], new), of([0.9, 0.3, 0.3, 0.3], [0.9] * 4, new)]
    found = traces.trace_metrics(trial)
    assert (found["updates_to_recover"], found["recovered"]) == (2.0, 0.5)


def test_when_joint_training_is_reached() -> None:
    trial = [FIRST, of([0.8, 0.94, 0.97, 0.98], [0.8, 0.94, 0.97, 0.98])]
    found = traces.reference_metrics(trial, [ONE, ONE])
    assert (found["updates_to_97"], found["reached_97"]) == (2.0, 1.0)
    assert (found["updates_to_99"], found["reached_99"]) == (None, 0.0)


def test_the_area_under_the_first_points() -> None:
    assert traces.learning_curve_area(of([0.0, 0.6, 0.9])) == pytest.approx(0.5)
    assert traces.learning_curve_area(of([0.0, 0.6, 0.9]), 1) == pytest.approx(0.3)
    long = of([0.0] * 31 + [1.0] * 9)
    assert traces.learning_curve_area(long) == 0.0


def test_what_is_missing_is_none_and_raises_nothing() -> None:
    trial = [FIRST, of([0.9, None, 0.9], [0.1, 0.5, 0.9])]
    found = traces.trace_metrics(trial)
    assert {name for name, value in found.items() if value is not None} == {"learning_curve_area"}
    against = traces.reference_metrics(trial, [ONE, ONE])
    assert {name for name, value in against.items() if value is not None} == {"plasticity_gap"}
    assert traces.reference_of(trial[1]) == Reference(0.9, 0.9, 0.9)
    alone = traces.trace_metrics([FIRST]) | traces.reference_metrics([FIRST], [ONE])
    assert {name for name, value in alone.items() if value is not None} == {
        "continual_worst_case_accuracy",
        "windowed_forgetting",
        "windowed_plasticity",
        "learning_curve_area",
    }
    assert set(traces.trace_metrics([]).values()) == {None}
    no_update = [FIRST, of([0.9], [0.1])]
    assert gaps(no_update, [ONE, ONE]) == dict.fromkeys(gaps(no_update, [ONE, ONE]))


PLAIN = {"examples": [4, 4], "before": [3], "updates": [0, 2], "right": [[3, 0], [2, None]]}


def test_a_record_s_trace() -> None:
    [trace] = traces.traces_of([{"task": 0}, {"task": 1, "trace": PLAIN}])
    assert (trace.task, trace.num_updates, trace.found()) == (1, 2, 0.75)
    assert trace.of_task(0) == trace.of_group("old") == [0.75, 0.5]
    assert trace.of_task(1) is trace.of_group("all") is None


@pytest.mark.parametrize(
    "odd",
    [
        {"examples": []},
        {"before": []},
        {"updates": [1, 2]},
        {"updates": [0, 0]},
        {"updates": [], "right": []},
        {"right": [[3, 0]]},
        {"right": [[3, 0], [2]]},
        {"right": None},
    ],
)
def test_what_is_no_trace(odd: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="trace"):
        Trace.of({**PLAIN, **odd})
    with pytest.raises(ValueError, match="no trace"):
        Trace.of({})
