"""Task orders: names, places, disparity, and what stays the same."""

from __future__ import annotations

from typing import Any

import pytest

from clray import protocols
from clray.errors import BadInput
from clray.events import BoardStarted, Event, TrialEnded
from clray.protocols.boards import boards_of
from clray.protocols.views import arrangements, repeats_of, views_of
from clray.store import Folder
from tests.protocols.conftest import RunJob, job_of


def orders_of(orders: Any, **changes: Any) -> list[tuple[str, Any]]:
    one = job_of(final={"orders": orders}, **changes)
    [board] = boards_of(protocols.plan(one))
    return arrangements(board, one.final.orders, views_of(board)[1], "final")


def test_orders_by_number_by_name_and_by_hand() -> None:
    drawn = orders_of(3)
    assert [name for name, _ in drawn] == ["order 1", "order 2", "order 3"]
    assert all(sorted(places) == [0, 1, 2, 3] for _, places in drawn)
    assert len({places for _, places in drawn}) == 3
    assert drawn == orders_of(3)
    assert orders_of(["natural", [3, 1, 0, 2], 7])[:2] == [
        ("natural", (0, 1, 2, 3)),
        ("3,1,0,2", (3, 1, 0, 2)),
    ]
    assert orders_of(None) == [("", None)]
    ten = {"name": "permuted-digits", "num_tasks": 10}
    assert orders_of(["A", "cifar100-split/B"], benchmark=ten) == [
        ("A", tuple(range(10))),
        ("cifar100-split/B", (1, 7, 4, 5, 2, 0, 8, 6, 9, 3)),
    ]


def test_only_reported_tasks_change_places() -> None:
    found = orders_of(
        [[3, 1, 0, 2]], selection={"name": "first-k", "k": 1}, methods={"finetune": {}}
    )
    assert found == [("3,1,0,2", (3, 1, 2))]


@pytest.mark.parametrize(
    ("orders", "message"),
    [
        (["A"], "final.orders: got 'A'; accepted: natural"),
        (["cifar100-split/A"], "final.orders: got 'cifar100-split/A'"),
        ([[0, 1]], "all tasks, by position from 0 to 3"),
        ([[0, 1, 2, 9]], "final.orders: got 9"),
        (["natural", "natural"], "orders that differ"),
        ([[0, 1, 2, 3], "natural"], "orders that differ in the tasks"),
    ],
)
def test_orders_that_do_not_exist_are_refused(orders: Any, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        orders_of(orders)


def test_final_runs_over_orders_tell_their_disparity(run_job: RunJob, job_files: Folder) -> None:
    final = run_job(final={"seeds": 2, "orders": ["natural", [3, 2, 1, 0]]})
    [board] = final["boards"]
    [row] = board["rows"]
    assert row["orders"] == ["natural", "3,2,1,0"]
    assert len(row["test_keys"]) == 4
    root = Folder(job_files.uri.rpartition("/jobs/")[0]) / "trials"
    ended: dict[str, list[list[float]]] = {}
    for place, key in enumerate(row["test_keys"]):
        records = (root / key).read_lines("records.jsonl")
        names = [record["name"] for record in records]
        assert names == (board["reported"] if place < 2 else board["reported"][::-1])
        for name, accuracy in zip(names, records[-1]["accuracy"], strict=True):
            ended.setdefault(name, [[], []])[place // 2].append(accuracy)
    spans = [abs(sum(a) / 2 - sum(b) / 2) for a, b in ended.values()]
    assert row["order_disparity"] == pytest.approx([sum(spans) / len(spans), max(spans)])


def test_orders_that_begin_alike_share_what_follows(run_job: RunJob, job_files: Folder) -> None:
    told: list[Event] = []
    orders = [[0, 1, 2, 3], [0, 3, 2, 1], [0, 2, 1, 3], [0, 1, 3, 2]]
    benchmark = {**job_of().benchmark.model_dump(), "scenario": "task-incremental"}  # type: ignore[union-attr]
    final = run_job(
        told.append,
        benchmark=benchmark,
        methods={"separate": {}, "finetune": {}},
        final={"seeds": 2, "orders": orders},
    )
    rows = {row["label"]: row for row in final["boards"][0]["rows"]}
    shared = rows["separate"]["shared"]
    assert (shared["tasks"], shared["tasks_learned"]) == (2 * 4 * 4, 2 * 4)
    assert shared["steps"] == 4 * shared["steps_learned"]
    assert rows["separate"]["order_disparity"] == [0, 0]
    assert rows["finetune"]["shared"] is None
    # What was run is what is said to have been.
    root = Folder(job_files.uri.rpartition("/jobs/")[0]) / "trials"
    run = 0
    for key in root.names():
        spec = (root / key).read_json("spec.json")
        if spec["method"]["name"] == "separate" and spec["split"] == "test":
            run += (root / key).read_json("timing.json")["steps"]
    assert run == shared["steps_learned"]
    [started] = [event for event in told if isinstance(event, BoardStarted)]
    ended = [e for e in told if isinstance(e, TrialEnded) and e.stage == "parts"]
    assert started.planned["separate", "parts"] == len(ended) == 2 * 4
    assert ("finetune", "parts") not in started.planned


def test_on_another_half_each_seed_has_an_order_of_its_own(run_job: RunJob) -> None:
    final = run_job(selection="gtep", final={"seeds": 4})
    [row] = final["boards"][0]["rows"]
    assert row["orders"] == []
    assert row["transfer"]["configurations"] == 3
    assert row["transfer"]["regret"] >= 0
    assert len(row["test_keys"]) == 4


def test_repeats_of_a_search_are_orders_times_seeds() -> None:
    one = job_of(search={"trials": 2, "seeds": 2, "orders": ["natural", [1, 0, 2, 3]]})
    [board] = boards_of(protocols.plan(one))
    repeats = repeats_of(board, views_of(board)[0])
    assert [repeat.tasks for repeat in repeats] == [(0, 1, 2, 3)] * 2 + [(1, 0, 2, 3)] * 2
    assert [repeat.seed for repeat in repeats] == [repeats[0].seed, repeats[1].seed] * 2
