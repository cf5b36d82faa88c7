"""The tables that other programs read."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from pyarrow import csv, parquet

from clray.errors import BadData
from clray.job import JobSpec
from clray.metrics import forgetting
from clray.report.exports import tables, task_forgetting, write_tables
from clray.report.reading import Job, read
from clray.report.stored import Final, Record
from clray.store import Folder

R: list[list[float | None]] = [[0.9, None, None], [0.8, 0.95, None], [0.4, 0.5, 1.0]]


def _results(folder: Path, made: Any, with_runs: bool = True, num_trials: int = 3) -> Job:
    rows = [
        made.row(
            "er", [0.8, 0.82, 0.81, 0.79], orders=["natural", "7"], order_disparity=[0.1, 0.2]
        ),
        made.row("ewc", [0.5, 0.49, 0.52, 0.5], orders=["natural", "7"]),
        made.row("joint", [0.9, 0.9, 0.9, 0.9], bound=True, orders=["natural", "7"]),
        made.row("gem", [], error="none of 16 trials completed"),
    ]
    rows[0]["trajectory"] = [{"optimizer.lr": 0.1}, {"optimizer.lr": 0.03}]
    rows[0]["importances"] = {"average_accuracy": {"optimizer.lr": 1.0}}
    job = folder / "jobs" / "a"
    job.mkdir(parents=True)
    (job / "final.json").write_text(json.dumps(made.final(made.board(rows))))
    lines = [
        {
            "label": "er",
            "number": number,
            "keys": [f"k{number}", f"l{number}"],
            "values": {"optimizer.lr": 0.1, "method.storage": [1, "ring"][number % 2]},
            "state": "completed",
            "value": 0.5,
            "measures": {"average_accuracy": 0.5, "growth": None},
            "trace": [0.9, 0.5],
        }
        for number in range(num_trials)
    ]
    (job / "trials.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for key in [key for row in rows for key in row["test_keys"] if with_runs]:
        run = folder / "trials" / key
        run.mkdir(parents=True)
        (run / "spec.json").write_text("{}")
        (run / "result.json").write_text(json.dumps({"state": "completed", "metrics": {}}))
        (run / "timing.json").write_text(json.dumps({"train": 3.0, "tasks": [1.0, 1.5, 0.5]}))
        records = [
            {"task": t, "name": f"t{t}", "accuracy": R[t], "footprint": {"parameters": 10 + t}}
            for t in range(3)
        ]
        (run / "records.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    found = read(str(job))
    assert isinstance(found, Job)
    return found


def test_what_the_tables_hold(tmp_path: Path, made: Any) -> None:
    found = {name: table.to_pylist() for name, table in tables(_results(tmp_path, made)).items()}
    board = {row["name"]: row for row in found["leaderboard"]}
    assert [(row["name"], row["kind"], row["rank"]) for row in found["leaderboard"]] == [
        ("er", "ranked", 1),
        ("ewc", "ranked", 2),
        ("joint", "bound", None),
        ("gem", "failed", None),
    ]
    assert board["er"]["average_accuracy"] == pytest.approx(0.805)
    assert board["er"]["maximum_order_disparity"] == 0.2
    assert (board["er"]["letters"], board["ewc"]["letters"]) == ("a", "b")
    runs = [row for row in found["runs"] if row["name"] == "er"]
    assert [(row["order"], row["seed"], row["average_accuracy"]) for row in runs] == [
        ("natural", 0, 0.8),
        ("natural", 1, 0.82),
        ("7", 0, 0.81),
        ("7", 1, 0.79),
    ]
    assert {row["state"] for row in runs} == {"completed"}
    trials = found["trials"]
    assert [row["method.storage"] for row in trials] == ["1", "ring", "1"]
    assert trials[0]["keys"] == "k0 l0"
    assert json.loads(trials[0]["trace"]) == [0.9, 0.5]
    cells = [row for row in found["matrix"] if row["key"] == "ewc-3"]
    assert [(row["after_task"], row["task"], row["accuracy"]) for row in cells] == [
        (t, i, R[t][i]) for t in range(3) for i in range(t + 1)
    ]
    assert cells[3]["task_name"] == "t0"
    tasks = [row for row in found["tasks"] if row["key"] == "ewc-3"]
    assert [row["forgetting"] for row in tasks] == [0.5, pytest.approx(0.45), None]
    assert [row["train_seconds"] for row in tasks] == [1.0, 1.5, 0.5]
    assert [row["parameters"] for row in tasks] == [10, 11, 12]
    pairs = {(row["metric"], row["first"], row["second"]) for row in found["significance"]}
    assert ("average_accuracy", "er", "ewc") in pairs
    assert len(found["budget"]) == 4
    assert [row["optimizer.lr"] for row in found["trajectories"]] == [0.1, 0.03]
    assert found["importances"][0]["share"] == 1


@pytest.mark.parametrize("finished", [True, False])
def test_chosen_on_test_stands_in_every_row(finished: bool, tmp_path: Path, made: Any) -> None:
    job = _results(tmp_path, made)
    content = made.board([made.row("er", [0.8, 0.7]), made.row("ewc", [0.5, 0.6])])
    oracle = {**content, "selection": {"name": "oracle"}, "chosen_on": "test"}
    spec = JobSpec.model_validate(
        {"name": "a", "benchmark": "b", "methods": ["er"], "protocol": {"selection": "oracle"}}
    )
    final = Final.model_validate(made.final(oracle)) if finished else None
    found = tables(Job("a", job.path, spec, job.trials, final))
    assert set(found) >= ({"leaderboard", "runs", "significance"} if finished else {"trials"})
    for table in found.values():
        assert set(table["stamp"].to_pylist()) == {"chosen on test"}
    assert set(tables(job)["trials"]["stamp"].to_pylist()) == {None}


def test_written_both_ways(tmp_path: Path, made: Any) -> None:
    job = _results(tmp_path, made)
    folder = Folder(str(tmp_path / "out"))
    written = write_tables(job, folder)
    assert sorted(written) == sorted(folder.files())
    for name, table in tables(job).items():
        assert parquet.read_table(tmp_path / f"out/tables/{name}.parquet").equals(table)
        plain = csv.read_csv(tmp_path / f"out/tables/{name}.csv")
        assert (plain.num_rows, plain.column_names) == (table.num_rows, table.column_names)


def test_without_the_trials_beside_the_job(tmp_path: Path, made: Any) -> None:
    found = tables(_results(tmp_path, made, with_runs=False))
    assert {"matrix", "tasks"}.isdisjoint(found)
    assert found["runs"].num_rows == 12
    assert found["runs"]["state"].null_count == 12


def test_a_job_that_is_not_finished(tmp_path: Path, made: Any) -> None:
    job = _results(tmp_path, made)
    unfinished = Job(job.name, job.path, None, job.trials, None)
    assert list(tables(unfinished)) == ["trials"]


def test_runs_are_read_when_asked_for_and_once(tmp_path: Path, made: Any) -> None:
    job = _results(tmp_path, made)
    (tmp_path / "trials/er-1/result.json").write_text("{")
    assert len(job.runs) == 12
    assert job.runs["er-0"] is job.runs["er-0"]
    assert "gem-0" not in job.runs
    with pytest.raises(BadData, match=r"trials/er-1/result\.json.*damaged content"):
        tables(job)


def test_forgetting_of_tasks_agrees_with_the_metric() -> None:
    records = [Record(task=t, name=str(t), accuracy=R[t]) for t in range(3)]
    found = [value for value in task_forgetting(records) if value is not None]
    assert sum(found) / len(found) == pytest.approx(forgetting(R))
    gap = [Record(task=t, name=str(t), accuracy=row) for t, row in enumerate([[None], [0.5, 0.9]])]
    assert task_forgetting(gap) == [None, None]
    assert task_forgetting([]) == []


def test_a_thousand_trials_are_quick(tmp_path: Path, made: Any) -> None:
    start = time.monotonic()
    job = _results(tmp_path, made, num_trials=1000)
    write_tables(job, Folder(str(tmp_path / "out")))
    assert time.monotonic() - start < 5
