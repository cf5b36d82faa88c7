"""A job as a whole: going on, sharing, boards, edits by hand, and the trap."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from clray.errors import BadData, BadSpec
from clray.events import BoardStarted, Event, TrialEnded
from clray.methods import finetune
from clray.store import Folder
from tests.protocols.conftest import Here, RunJob


def test_a_finished_job_starts_nothing_and_says_the_same(
    run_job: RunJob, job_files: Folder
) -> None:
    selection = ["end-of-training", {"name": "first-k", "k": 2}, "seen-tasks", "gtep", "oracle"]
    run_job(selection=selection)
    names = ("leaderboard.json", "trials.jsonl", "job.yaml")
    before = [job_files.read(name) for name in names]
    started = Here.started
    events: list[Event] = []
    run_job(events.append, selection=selection)
    assert Here.started == started
    assert [job_files.read(name) for name in names] == before
    assert all(event.stored for event in events if isinstance(event, TrialEnded))


def test_what_one_protocol_has_run_another_does_not_run_again(run_job: RunJob) -> None:
    events: list[Event] = []
    run_job(events.append, selection=["end-of-training", {"name": "end-of-training", "label": "b"}])
    stored = [event.stored for event in events if isinstance(event, TrialEnded)]
    assert stored == [False] * 5 + [True] * 5


def test_as_many_trials_as_were_planned(run_job: RunJob) -> None:
    selection = ["end-of-training", "seen-tasks", "chf", "gtep", "two-stage", "oracle"]
    counted: dict[tuple[str, str, str], int] = {}
    planned: dict[tuple[str, str, str], int] = {}
    board = ""

    def watch(event: Event) -> None:
        nonlocal board
        if isinstance(event, BoardStarted):
            board = event.board
            planned.update({(board, *key): number for key, number in event.planned.items()})
        if isinstance(event, TrialEnded):
            key = (board, event.label, event.stage)
            counted[key] = counted.get(key, 0) + 1

    run_job(watch, selection=selection, methods={"er": {}, "ewc": {}, "der": {}})
    assert counted == planned


def test_several_benchmarks_have_their_own_protocol(run_job: RunJob) -> None:
    digits = {"name": "split-digits", "train_fraction": 0.3}
    final = run_job(
        benchmark=None,
        benchmarks={
            "short": {"benchmark": {**digits, "num_tasks": 2}, "protocol": {"epochs": 2}},
            "long": {
                "benchmark": {**digits, "num_tasks": 5},
                "model": {"name": "mlp", "hidden": [8]},
            },
        },
        selection=["end-of-training", "oracle"],
    )
    told = [(b["name"], b["arena"], b["num_tasks"], b["chosen_on"]) for b in final["boards"]]
    honest = "validation examples of the whole stream, at its end"
    assert told == [
        ("short/end-of-training", "short", 2, honest),
        ("short/oracle", "short", 2, "test"),
        ("long/end-of-training", "long", 5, honest),
        ("long/oracle", "long", 5, "test"),
    ]
    assert [b["protocol"]["epochs"] for b in final["boards"]] == [2, 2, 1, 1]
    assert final["boards"][2]["model"]["hidden"] == [8]


def test_entries_have_networks_of_their_own_and_may_pass_benchmarks_over(run_job: RunJob) -> None:
    linear = {"model": {"name": "mlp", "hidden": []}}
    final = run_job(
        benchmark=None,
        benchmarks={
            "task": {"benchmark": {"name": "split-digits", "scenario": "task-incremental"}},
            "class": "split-digits",
        },
        methods={"slda": linear, "er": {}, "separate": {**linear, "benchmarks": ["task"]}},
    )
    rows = [{r["label"]: r["parameters"] for r in b["rows"]} for b in final["boards"]]
    plain, wide = 64 * 10 + 10, 64 * 16 + 16 + 16 * 10 + 10
    assert [set(row) for row in rows] == [{"slda", "er", "separate"}, {"slda", "er"}]
    assert all(row["er"] == wide and row["slda"] >= plain for row in rows)
    assert rows[0]["separate"] == 5 * plain
    assert {board["model"]["hidden"][0] for board in final["boards"]} == {16}


def test_a_reused_prefix_is_marked_as_a_leak(run_job: RunJob) -> None:
    final = run_job(selection={"name": "first-k", "k": 2, "reuse": True})
    [board] = final["boards"]
    assert board["leak"] == "the tasks chosen on are reported again"
    assert len(board["reported"]) == 4


@pytest.mark.parametrize("selection", ["gtep", "seen-tasks"])
def test_a_winner_that_was_edited_by_hand_is_refused(
    selection: str, run_job: RunJob, job_files: Folder
) -> None:
    run_job(selection=selection)
    path = Path(job_files.uri) / "leaderboard.json"
    content = json.loads(path.read_text())
    row = content["boards"][0]["rows"][0]
    (row["trajectory"][0] if row["trajectory"] else row["values"])["optimizer.lr"] = 0.123
    path.write_text(json.dumps(content))
    with pytest.raises(BadData, match=r"0\.123.*may not be edited by hand"):
        run_job(selection=selection)


def test_a_changed_job_is_refused_and_nothing_is_lost(run_job: RunJob, job_files: Folder) -> None:
    run_job()
    before = {name: job_files.read(name) for name in job_files.files()}
    with pytest.raises(BadSpec, match=r"protocol\.epochs: 1 -> 2"):
        run_job(protocol={"epochs": 2, "batch_size": 32, "memory": 40, "validation_fraction": 0.3})
    assert {name: job_files.read(name) for name in job_files.files()} == before


def test_who_is_perfect_at_first_and_then_collapses_does_not_win(
    run_job: RunJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    space = {"optimizer": {"lr": {"choice": [0.5, 0.05]}}}

    def end_task(self: finetune.Finetune, task: Any) -> None:
        if task.index and self.optimizer.param_groups[0]["lr"] == 0.5:
            for parameter in self.model.parameters():
                parameter.data.zero_()

    monkeypatch.setattr(finetune.Finetune, "end_task", end_task)
    final = run_job(
        methods={"finetune": {"space": space}},
        search={"trials": 6, "startup": 6, "sampler": "random"},
    )
    [row] = final["boards"][0]["rows"]
    assert row["values"] == {"optimizer.lr": 0.05}
