"""Hyperparameters chosen anew for each task: forks, trajectories, ladders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from clray import protocols
from clray.protocols.boards import Board, boards_of
from clray.protocols.chf import ladder, stability
from clray.protocols.dynamic import mean_shares
from clray.selection import Chf
from clray.space import SearchSpace
from clray.spec import TrialSpec
from clray.store import Folder, trial_folder
from tests.protocols.conftest import RunJob, job_of

RATE = {"optimizer": {"lr": {"range": [0.001, 1], "log": True}}}


def spec_of(results: Path, key: str) -> TrialSpec:
    return TrialSpec.model_validate(trial_folder(str(results), key).read_json("spec.json"))


def test_what_acts_on_the_first_task_decays_there(run_job: RunJob, job_files: Folder) -> None:
    space = {"method": {"alpha": {"range": [0.1, 8], "log": True}}}
    chf = {"name": "chf", "rates": [0.1], "attempts": 3}
    run_job(selection=chf, methods={"der": {"space": space}}, protocol={"memory": 20})
    first = [line["values"] for line in job_files.read_lines("trials.jsonl") if line["task"] == 0]
    assert [one["method.alpha"] for one in first if "method.alpha" in one] == [8, 4, 2]


def test_the_best_fork_of_each_task_goes_on(
    run_job: RunJob, job_files: Folder, tmp_path: Path
) -> None:
    final = run_job(selection="seen-tasks", search={"trials": 4, "startup": 4})
    [row] = final["boards"][0]["rows"]
    lines = job_files.read_lines("trials.jsonl")
    assert len(lines) == 4 * 4
    path: list[dict[str, Any]] = []
    for task in range(4):
        own = [line for line in lines if line["task"] == task]
        [chosen] = [line for line in own if line["chosen"]]
        assert chosen["value"] == max(line["value"] for line in own)
        for line in own:  # all of them began where the last winner ended
            spec = spec_of(tmp_path, line["keys"][0])
            assert spec.until == task + 1
            assert spec.method.knobs | {"lr": spec.optimizer.lr} == {
                **spec.method.knobs,
                "memory_batch": path[0]["method.memory_batch"]
                if path
                else line["values"]["method.memory_batch"],
                "storage": path[0]["method.storage"] if path else line["values"]["method.storage"],
                "lr": path[0]["optimizer.lr"] if path else line["values"]["optimizer.lr"],
            }
        path.append({**(path[-1] if path else {}), **chosen["values"]})
        if task:  # what is set when a learner is built is not searched again
            assert "method.storage" not in chosen["values"]
            assert own[0]["values"].items() <= path[task - 1].items()  # tried first
    assert row["trajectory"] == path
    assert row["budget"]["task_trainings"] == 16  # each fork learns one task
    tested = spec_of(tmp_path, row["test_keys"][0])
    assert [change.optimizer.lr for change in tested.changes] == [
        p["optimizer.lr"] for p in path[1:]
    ]
    assert (tested.split, tested.until, tested.graded) == ("test", None, "stream")
    left = [key for line in lines for key in line["keys"]]
    assert not any(trial_folder(str(tmp_path), key).has("checkpoint") for key in left)


def test_a_stopped_job_goes_on_to_the_same_end(
    run_job: RunJob, job_files: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_job(name="whole", selection=["seen-tasks", "chf"])
    whole = job_files.beside("whole").read_json("leaderboard.json")
    ended = 0

    class Stop(Exception):
        pass

    for stop in (3, 8, 14):
        ended = 0

        def watch(event: Any, stop: int = stop) -> None:
            nonlocal ended
            if type(event).__name__ == "TrialEnded" and not event.stored:
                ended += 1
                if ended == stop:
                    raise Stop

        with pytest.raises(Stop):
            run_job(
                watch,
                selection=["seen-tasks", "chf"],
                search={"trials": 3, "startup": 2, "seed": 9},
            )
    run_job(selection=["seen-tasks", "chf"], search={"trials": 3, "startup": 2, "seed": 9})
    again = job_files.read_json("leaderboard.json")
    unbroken = run_job(
        name="unbroken",
        selection=["seen-tasks", "chf"],
        search={"trials": 3, "startup": 2, "seed": 9},
    )
    same = job_files.beside("unbroken").read_json("leaderboard.json")
    assert again["boards"] == same["boards"]
    assert (
        unbroken["boards"][0]["rows"][0]["trajectory"]
        != whole["boards"][0]["rows"][0]["trajectory"]
    )


def test_what_mattered_first_is_what_is_searched_later(run_job: RunJob, job_files: Folder) -> None:
    adaptive = {"name": "adaptive", "full_tasks": 1, "importance": 0.5, "trials_after": 2}
    run_job(selection=adaptive, search={"trials": 8, "startup": 8})
    lines = job_files.read_lines("trials.jsonl")
    counts = [sum(line["task"] == task for line in lines) for task in range(4)]
    assert counts == [8, 2, 2, 2]
    searched = {tuple(line["values"]) for line in lines if line["task"]}
    assert len(searched) == 1
    assert 0 < len(next(iter(searched))) < 3
    assert mean_shares([]) == {}


def board_of(**changes: Any) -> Board:
    [board] = boards_of(protocols.plan(job_of(**changes)))
    return board


SPACE = {
    "method": {"strength": {"range": [1, 1000], "log": True}, "decay": {"range": [0.5, 1.0]}},
    **RATE,
}


def test_stability_starts_at_the_strong_end_and_decays_knob_by_knob() -> None:
    board = board_of(selection="chf", methods={"ewc": {"space": SPACE}})
    start = stability(board, board.contenders[0])
    assert start == {"method.strength": 1000.0, "method.decay": 1.0}
    lows = {"method.strength": 1.0, "method.decay": 0.5}
    found = [tuple(rung.values()) for rung in ladder(Chf(attempts=6), start, lows)]
    assert found == [
        (1000.0, 1.0),
        (500.0, 1.0),
        (1000.0, 0.5),
        (500.0, 0.5),
        (250.0, 0.5),
        (500.0, 0.5),
    ]
    less = Chf(attempts=3, operation="subtract", decay=10)
    assert ladder(less, {"k": 25}, {"k": 8}) == [{"k": 25}, {"k": 15}, {"k": 8}]
    assert ladder(Chf(), {}, {}) == [{}]
    assert SearchSpace.model_validate(SPACE).searched


def test_the_first_rung_that_is_good_enough_is_taken(run_job: RunJob, job_files: Folder) -> None:
    chf = {"name": "chf", "rates": [0.1, 0.01], "attempts": 4, "margin": 0.05}
    final = run_job(selection=chf, methods={"ewc": {"space": SPACE}}, protocol={"epochs": 3})
    [row] = final["boards"][0]["rows"]
    assert row["error"] is None
    lines = job_files.read_lines("trials.jsonl")
    for task in range(4):
        own = [line for line in lines if line["task"] == task]
        tried = [line for line in own if "method.name" in line["values"]]
        rungs = [line for line in own if "method.name" not in line["values"]]
        assert [line["values"]["optimizer.lr"] for line in tried] == [0.1, 0.01]
        assert len(rungs) == (4 if task else 1)
        best = max(tried, key=lambda line: line["value"])
        assert {line["values"]["optimizer.lr"] for line in rungs} == {
            best["values"]["optimizer.lr"]
        }
        enough = [
            r for r in rungs if r["state"] == "completed" and r["value"] >= 0.95 * best["value"]
        ]
        [taken] = [line for line in own if line["chosen"]]
        assert taken == (
            enough[0] if enough else [r for r in rungs if r["state"] == "completed"][-1]
        )
        if task > 1:  # goes on from where the last task ended
            before = row["trajectory"][task - 1]
            assert rungs[0]["values"]["method.strength"] == before["method.strength"]
    assert len(row["trajectory"]) == 4


def test_if_nothing_completes_the_line_says_so(run_job: RunJob) -> None:
    wild = {"optimizer": {"lr": {"choice": [1e30, 1e31]}}}
    final = run_job(
        selection=["seen-tasks", {"name": "chf", "rates": [1e30]}], methods={"er": {"space": wild}}
    )
    errors = [board["rows"][0]["error"] for board in final["boards"]]
    assert errors == [
        "task 1: none of 3 trials completed",
        "task 1: fine-tuning diverged at each of 1 learning rates",
    ]
