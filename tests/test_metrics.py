"""Metrics of matrices that can be worked out by hand."""

from __future__ import annotations

import subprocess
import sys

import pytest

from clray import metrics, traces
from clray.objective import CONTINUAL, DIRECTIONS

R = [
    [0.9, 0.2, 0.3],
    [0.7, 0.8, 0.4],
    [0.5, 0.9, 0.6],
]
INITIAL = [0.1, 0.1, 0.2]


def test_by_hand() -> None:
    assert metrics.all_metrics(R, INITIAL) == pytest.approx(
        {
            "average_accuracy": (0.5 + 0.9 + 0.6) / 3,
            "average_incremental_accuracy": (0.9 + 0.75 + 2 / 3) / 3,
            "forgetting": ((0.9 - 0.5) + (0.8 - 0.9)) / 2,
            "backward_transfer": ((0.5 - 0.9) + (0.9 - 0.8)) / 2,
            "forward_transfer": ((0.2 - 0.1) + (0.4 - 0.2)) / 2,
            "learning_accuracy": (0.9 + 0.8 + 0.6) / 3,
            "minimum_accuracy": 0.5,
            "worst_case_accuracy": (0.5 + 0.8 + 0.6) / 3,
        }
    )


def test_the_best_of_an_old_task_may_lie_anywhere_before_the_last_row() -> None:
    assert metrics.forgetting([[0.1, 0.9], [0.5, 0.2], [0.4, 0.3, 0.6]]) == pytest.approx(
        ((0.5 - 0.4) + (0.9 - 0.3)) / 2
    )


def test_one_task_has_no_transfer_and_no_forgetting() -> None:
    found = metrics.all_metrics([[0.9, 0.2, 0.3]], INITIAL)
    assert found["average_accuracy"] == found["learning_accuracy"] == 0.9
    assert found["average_incremental_accuracy"] == 0.9
    assert found["forgetting"] is found["backward_transfer"] is found["forward_transfer"] is None


def test_a_stream_that_is_not_finished_counts_as_if_it_ended_there() -> None:
    found = metrics.all_metrics(R[:2], INITIAL)
    assert found["average_accuracy"] == pytest.approx(0.75)
    assert found["forgetting"] == pytest.approx(0.9 - 0.7)
    assert found["forward_transfer"] == pytest.approx(0.2 - 0.1)
    assert set(metrics.all_metrics([]).values()) == {None}


def test_what_was_not_measured_leaves_undefined_only_what_needs_it() -> None:
    lower = [[0.9], [0.7, 0.8], [0.5, 0.9, 0.6]]
    found = metrics.all_metrics(lower, INITIAL)
    assert found.pop("forward_transfer") is None
    expected = metrics.all_metrics(R)
    assert expected.pop("forward_transfer") is None
    assert found == expected
    hole = metrics.all_metrics([[0.9, None], [None, 0.8]], [None, 0.1])
    assert hole["learning_accuracy"] == pytest.approx(0.85)
    assert {k for k, v in hole.items() if v is not None} == {"learning_accuracy"}


def test_interval_is_students() -> None:
    mean, half = metrics.interval([1.0, 2.0, 3.0])
    assert mean == 2
    assert half == pytest.approx(4.302653 / 3**0.5, rel=1e-6)  # t(0.975, 2) = 4.302653
    assert metrics.interval([0.7]) == (0.7, None)
    assert metrics.interval([0.7, 0.7]) == (0.7, 0.0)
    with pytest.raises(ValueError, match="no values"):
        metrics.interval([])


def test_imports_neither_torch_nor_ray() -> None:
    code = "import sys, clray.metrics; assert not {'torch', 'ray'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_costs_are_those_of_the_whole_trial() -> None:
    footprints = [{"parameters": 100, "bytes": 400}, {"parameters": 125, "bytes": 500}]
    assert metrics.costs(footprints, steps=7, examples_seen=30, replayed=12) == {
        "growth": 0.25,
        "parameters": 125,
        "bytes": 500,
        "steps": 7,
        "examples_seen": 30,
        "examples_processed": 42,
    }


def test_every_measure_has_a_direction() -> None:
    costs = metrics.costs([{"parameters": 1, "bytes": 1}], 1, 1)
    assert set(DIRECTIONS) == set(metrics.all_metrics(R)) | set(costs) | set(CONTINUAL)
    assert set(CONTINUAL) <= set(traces.trace_metrics([]))


def test_order_disparity_by_hand() -> None:
    found = metrics.order_disparity({"a": [0.9, 0.5, 0.7], "b": [0.8, 0.8, 0.9], "c": [0.1]})
    assert found == pytest.approx((0.25, 0.4))
    assert metrics.order_disparity({"a": [0.9]}) is None
    by_task = {"a": [0.80, 0.78, 0.82], "b": [0.70, 0.75, 0.69], "c": [0.60, 0.60, 0.63]}
    assert metrics.order_disparity(by_task) == pytest.approx((0.13 / 3, 0.06))
