"""Gaps against joint training, as a board's rows hold them once all entries are tested."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest

from clray.job import JobSpec
from clray.outcome import Outcome
from clray.plan import Candidate
from clray.protocols.boards import Board, boards_of, fill_in
from clray.protocols.choosing import Choice, Found
from clray.protocols.rows import board_of, rows_of
from clray.protocols.testing import FinalRun
from clray.protocols.views import views_of
from clray.study import Result

ORDERS = ("a", "b")
SEEDS = (1, 2)
Old = Sequence[float] | None


@pytest.fixture(scope="module")
def board() -> Board:
    """With a lower and an upper bound."""
    bound = {"bound": True}
    methods = {"late": {"method": "joint"}, "finetune": bound, "er": {}, "joint": bound}
    plain = {"name": "a", "benchmark": "split-digits", "methods": methods}
    job = JobSpec.model_validate({**plain, "protocol": {"memory": 10}})
    return boards_of(fill_in(job))[0]


def outcome(old: Old, **others: Any) -> Outcome:
    """A run over two tasks whose old accuracy is this after every update; None: no traces."""
    records: list[dict[str, Any]] = [
        {"name": f"t{t}", "accuracy": [0.5] * (t + 1), "footprint": {}} for t in range(2)
    ]
    if old is not None:
        right = [[round(100 * value), 50] for value in old]
        records[0]["trace"] = {"examples": [100], "before": [], "updates": [0], "right": [[90]]}
        records[1]["trace"] = {
            "examples": [100, 100],
            "before": [90],
            "updates": list(range(len(right))),
            "right": right,
        }
    metrics = {"average_accuracy": 0.5} | ({} if old is None else {"depth": 0.9 - min(old)})
    return Outcome(**{"state": "completed", "records": records, "metrics": metrics, **others})


def told(board: Board, by_label: dict[str, Sequence[Outcome]]) -> dict[str, Any]:
    """The board, where each entry's runs came to this: order by order, in each the seeds."""
    rows = []
    for one in board.contenders:
        spec = one.base
        candidate = Candidate(0, {}, (spec,), Result("completed"))
        runs = [
            FinalRun(order, spec.model_copy(update={"seed": seed}), ended)
            for (order, seed), ended in zip(
                [(order, seed) for order in ORDERS for seed in SEEDS],
                by_label.get(one.label, [outcome(None)] * 4),
                strict=True,
            )
        ]
        rows += rows_of(board, Found(one, [candidate], choices=[Choice(candidate, spec)]), [runs])
    content = board_of(board, rows, views_of(board)[1])
    return {
        **content,
        "rows": {row["label"]: row for row in json.loads(json.dumps(content))["rows"]},
    }


def test_each_run_is_held_against_its_own_order_and_seed(board: Board) -> None:
    joint = [outcome([0.1, last]) for last in (0.5, 0.8, 0.4, 1.0)]
    er = [outcome([0.9, 0.4, 0.4])] * 3 + [outcome([0.9], state="diverged")]
    found = told(board, {"er": er, "joint": joint})
    assert found["reference"] == "joint"
    gap = found["rows"]["er"]["test"]["stability_gap"]
    assert gap["values"] == [pytest.approx(0.2), pytest.approx(0.5), pytest.approx(0.0), None]
    assert gap["mean"] == pytest.approx(0.7 / 3)
    assert gap["interval"] > 0
    own = found["rows"]["joint"]["test"]
    assert own["stability_gap"]["values"] == [0.0] * 4
    assert "stability_gap" not in found["rows"]["finetune"]["test"], "it has no traces"
    assert not any("warnings" in row or "runs" in row for row in found["rows"].values())


def test_the_reference_is_a_bound_that_learns_from_all_tasks(board: Board) -> None:
    runs = [outcome([0.9, 0.4])] * 4
    # one learns from its task alone, the other is no bound
    found = told(board, {"finetune": runs, "late": runs})
    assert found["reference"] is None
    assert "stability_gap" not in found["rows"]["late"]["test"]
    assert "depth" in found["rows"]["late"]["test"]


def test_without_traces_a_board_is_what_it_was(board: Board) -> None:
    found = told(board, {})
    assert "reference" not in found
    assert set(found["rows"]["er"]["test"]) == {"average_accuracy"}
    assert {"warnings", "runs", "names"}.isdisjoint(found["rows"]["er"])


def test_a_reference_of_nothing_leaves_a_note(board: Board) -> None:
    joint = [outcome([0.1, last]) for last in (0.0, 0.8, 0.8, 0.8)]
    found = told(board, {"er": [outcome([0.9, 0.4])] * 4, "joint": joint})
    row = found["rows"]["er"]
    assert row["test"]["continual_knowledge_gap"]["values"][0] is None
    assert row["test"]["stability_gap"]["values"][1:] == [pytest.approx(0.5)] * 3
    [warning] = row["warnings"]
    assert warning.startswith("no gaps against joint: a reference of 0.0 for task 2")
    assert row["error"] is None


def test_a_run_of_joint_training_that_is_missing(board: Board) -> None:
    joint = [outcome([0.5, 0.5]), outcome(None, state="failed", records=[]), *[outcome(None)] * 2]
    found = told(board, {"er": [outcome([0.9, 0.4])] * 4, "joint": joint})
    values = found["rows"]["er"]["test"]["stability_gap"]["values"]
    assert values == [pytest.approx(0.2), None, None, None]


def test_what_a_method_warns_of_is_told_once(board: Board) -> None:
    runs = [outcome(None) for _ in range(4)]
    for fall, run in zip((2, 3, 2), runs[1:], strict=True):
        run.records[1]["facts"] = {"warning": f"old accuracy fell by 0.{fall}", "rank": 4}
    runs[0].records[0]["facts"] = {"warning": "the head was lost"}
    found = told(board, {"er": runs})
    assert found["rows"]["er"]["warnings"] == [
        "the head was lost",
        "old accuracy fell by 0.2 (the first of 3 alike)",
    ]
