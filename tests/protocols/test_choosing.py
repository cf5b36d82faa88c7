"""Who wins: constraints, fronts, several seeds, and what is never chosen."""

from __future__ import annotations

from typing import Any

import pytest

from clray.job import Search
from clray.plan import Candidate
from clray.protocols.choosing import nothing, winners
from clray.store import Folder
from clray.study import Result
from tests.protocols.conftest import RunJob


def candidate(number: int, state: str = "completed", **measures: float) -> Candidate:
    trace = tuple(measures.values()) if state == "stopped" else ()
    result = Result(state, measures if state == "completed" else {}, trace)
    return Candidate(number, {}, (), result)


def search(*objective: Any, **others: Any) -> Search:
    return Search(objective=list(objective), **others)


def test_the_best_completed_trial_wins_and_of_equals_the_first() -> None:
    trials = [
        candidate(0, forgetting=0.3),
        candidate(1, forgetting=0.1),
        candidate(2, "stopped", forgetting=0.0),  # perfect, as far as it came
        candidate(3, "diverged"),
        candidate(4, forgetting=0.1),
    ]
    assert [one.number for one in winners(trials, search("forgetting"))] == [1]
    most = search({"metric": "forgetting", "direction": "maximize"})
    assert [one.number for one in winners(trials, most)] == [0]


def test_constraints_come_before_objectives() -> None:
    trials = [
        candidate(0, average_accuracy=0.9, growth=0.5),
        candidate(1, average_accuracy=0.7, growth=0.2),
        candidate(2, average_accuracy=0.6, growth=0.0),
    ]
    kept = search("average_accuracy", constraints=["growth <= 0.2"])
    assert [one.number for one in winners(trials, kept)] == [1]
    none = search("average_accuracy", constraints=["growth <= -1", "average_accuracy >= 0.1"])
    assert winners(trials, none) == []
    assert nothing(trials, none) == (
        "none of 3 completed trials keeps growth <= -1 and average_accuracy >= 0.1"
    )
    assert nothing(trials[:0], none) == "none of 0 trials completed"


def test_several_objectives_give_a_front() -> None:
    trials = [
        candidate(0, average_accuracy=0.9, growth=0.5),
        candidate(1, average_accuracy=0.8, growth=0.5),  # dominated
        candidate(2, average_accuracy=0.8, growth=0.2),
        candidate(3, average_accuracy=0.5, growth=0.1),
        candidate(4, average_accuracy=0.9, growth=0.5),  # the same again
        candidate(5, average_accuracy=0.4, growth=0.0),
    ]
    both = search("average_accuracy", "growth")
    assert [one.number for one in winners(trials, both, 10)] == [0, 2, 3, 5]
    assert [one.number for one in winners(trials, both, 3)] == [0, 3, 5]
    assert [one.number for one in winners(trials, both, 1)] == [0]


def test_a_front_is_tested_point_by_point(run_job: RunJob) -> None:
    final = run_job(
        methods={"er": {"trials": 6}},
        search={"objective": ["average_accuracy", "bytes"], "startup": 6},
        final={"seeds": 2, "front": 3},
        benchmark={"name": "split-digits", "num_tasks": 2, "train_fraction": 0.3},
    )
    rows = final["boards"][0]["rows"]
    assert 1 <= len(rows) <= 3
    assert len({row["number"] for row in rows}) == len(rows)
    assert all(len(row["test_keys"]) == 2 for row in rows)


def test_a_constraint_that_nothing_keeps_leaves_a_line_with_the_reason(run_job: RunJob) -> None:
    final = run_job(search={"trials": 2, "constraints": ["average_accuracy >= 1.1"]})
    [row] = final["boards"][0]["rows"]
    assert row["error"] == "none of 2 completed trials keeps average_accuracy >= 1.1"
    assert row["test_keys"] == []


def test_the_search_and_the_final_runs_share_no_seed(run_job: RunJob, job_files: Folder) -> None:
    final = run_job(search={"trials": 3, "startup": 3, "seeds": 3}, final={"seeds": 3})
    [row] = final["boards"][0]["rows"]

    def seeds(keys: list[str]) -> list[int]:
        root = Folder(job_files.uri.rpartition("/jobs/")[0]) / "trials"
        return [(root / key).read_json("spec.json")["seed"] for key in keys]

    searched = [k for line in job_files.read_lines("trials.jsonl") for k in line["keys"]]
    assert len(set(seeds(searched))) == 3
    assert not set(seeds(searched)) & set(seeds(row["test_keys"]))
    assert row["budget"]["task_trainings"] == 3 * 3 * 4


def test_published_values_are_tried_first_also_in_a_space_of_ones_own(
    run_job: RunJob, job_files: Folder
) -> None:
    space = {"method": {"memory_batch": {"choice": [32, 64]}}}
    run_job(methods={"er": {"space": space, "enqueue": [{"method": {"memory_batch": 32}}]}})
    lines = job_files.read_lines("trials.jsonl")
    assert [line["values"]["method.memory_batch"] for line in lines[:2]] == [64, 32]


def test_a_warm_start_moves_the_proposals_and_counts_no_trial(
    run_job: RunJob, job_files: Folder
) -> None:
    space = {"optimizer": {"lr": {"range": [0.001, 1], "log": True}}}
    search = {"trials": 6, "startup": 4}
    run_job(methods={"er": {"space": space}}, search=search)
    cold = job_files.read_lines("trials.jsonl")
    warm = {"trials": 3, "startup": 4, "warm_start": "small", "seed": 5}
    final = run_job(name="warm", methods={"er": {"space": space}}, search=warm)
    without = {**warm, "warm_start": []}
    run_job(name="without", methods={"er": {"space": space}}, search=without)
    proposed = job_files.beside("warm").read_lines("trials.jsonl")
    alone = job_files.beside("without").read_lines("trials.jsonl")
    assert len(cold) == 6
    assert [line["number"] for line in proposed] == [0, 1, 2]
    assert proposed[-1]["values"] != alone[-1]["values"]
    assert final["boards"][0]["rows"][0]["budget"]["trials"] == 3


def test_optuna_agrees_about_the_winner(run_job: RunJob, job_files: Folder) -> None:
    import optuna
    from optuna.storages.journal import JournalFileBackend

    final = run_job(search={"trials": 4, "startup": 2})
    [row] = final["boards"][0]["rows"]
    storage = optuna.storages.JournalStorage(JournalFileBackend(f"{job_files.uri}/optuna.log"))
    study = optuna.load_study(study_name="small/er", storage=storage)
    lines = job_files.read_lines("trials.jsonl")
    [chosen] = [line for line in lines if line["chosen"]]
    assert study.best_trial.number == chosen["number"]
    assert study.best_trial.params == row["values"]
    assert study.best_value == pytest.approx(row["validation"]["average_accuracy"])
