"""What each protocol's trials read, against the table; and that a planted leak raises."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from clray.errors import Leak
from clray.plan import Repeat
from clray.protocols import choosing, dynamic, views
from clray.protocols.views import View
from clray.spec import TrialSpec
from clray.store import Folder
from tests.protocols.conftest import RunJob

ALL = {0, 1, 2, 3}
Table = dict[str, set[int]]


ONCE: list[tuple[Any, Table, Table]] = [
    ("end-of-training", {"train": ALL, "validation": ALL}, {"train": ALL, "test": ALL}),
    ("oracle", {"train": ALL, "test": ALL}, {"train": ALL, "test": ALL}),
    (
        {"name": "first-k", "k": 2},
        {"train": {0, 1}, "validation": {0, 1}},
        {"train": {2, 3}, "test": {2, 3}},
    ),
    (
        {"name": "first-k", "k": 2, "reuse": True},
        {"train": {0, 1}, "validation": {0, 1}},
        {"train": ALL, "test": ALL},
    ),
    (
        "gtep",
        {"train": {0, 1}, "validation": {0, 1}},
        {"train": {2, 3}, "test": {2, 3}},
    ),
    ("two-stage", {"train": ALL, "validation": ALL}, {"train": ALL, "test": ALL}),
]

PER_TASK: list[tuple[Any, Any]] = [
    ("seen-tasks", lambda t: {"train": {t}, "validation": set(range(t + 1))}),
    ({"name": "seen-tasks", "data": "current"}, lambda t: {"train": {t}, "validation": {t}}),
    (
        {"name": "seen-tasks", "data": "memory"},
        lambda t: {"train": {t}, "validation": {t}, **({"memory": set(range(t))} if t else {})},
    ),
    ("adaptive", lambda t: {"train": {t}, "validation": set(range(t + 1))}),
    ("chf", lambda t: {"train": {t}, "validation": {t}}),
]


def places_read(results: Path, keys: list[str], of_task: int | None = None) -> Table:
    """What stored trials read, by split, as positions in the benchmark."""
    found: dict[str, set[int]] = defaultdict(set)
    for key in keys:
        folder = Folder(str(results / "trials" / key))
        spec = TrialSpec.model_validate(folder.read_json("spec.json"))
        for record in folder.read_lines("records.jsonl"):
            if of_task is not None and record["task"] != of_task:
                continue
            for split, positions in record["reads"].items():
                found[split] |= {spec.tasks[p] if spec.tasks else p for p in positions}
    return dict(found)


def keys_of(job_files: Folder, stage: str = "search", task: int | None = None) -> list[str]:
    lines = job_files.read_lines("trials.jsonl")
    return [k for x in lines if x["stage"] == stage and x["task"] == task for k in x["keys"]]


@pytest.mark.parametrize(("selection", "searched", "tested"), ONCE)
def test_a_choice_made_once_reads_what_the_table_says(
    selection: Any,
    searched: Table,
    tested: Table,
    run_job: RunJob,
    job_files: Folder,
    tmp_path: Path,
) -> None:
    final = run_job(selection=selection)
    [row] = final["boards"][0]["rows"]
    assert row["error"] is None
    assert places_read(tmp_path, keys_of(job_files)) == searched
    assert places_read(tmp_path, row["test_keys"]) == tested
    if selection == "two-stage":
        assert places_read(tmp_path, keys_of(job_files, "first stage")) == {
            "train": {0},
            "validation": {0},
        }
    if selection == "gtep":
        assert places_read(tmp_path, keys_of(job_files, "transfer")) == {
            "train": {2, 3},
            "validation": {2, 3},
        }


@pytest.mark.parametrize(("selection", "table"), PER_TASK)
def test_a_choice_for_each_task_reads_what_the_table_says(
    selection: Any, table: Any, run_job: RunJob, job_files: Folder, tmp_path: Path
) -> None:
    final = run_job(selection=selection)
    [row] = final["boards"][0]["rows"]
    assert row["error"] is None
    assert len(row["trajectory"]) == 4
    for task in range(4):
        keys = keys_of(job_files, task=task)
        assert keys
        assert places_read(tmp_path, keys, of_task=task) == table(task)
    assert places_read(tmp_path, row["test_keys"]) == {"train": ALL, "test": ALL}


def leaking(monkeypatch: pytest.MonkeyPatch, **changes: Any) -> None:
    """Every trial of a search gets another spec than its protocol meant."""
    of = View.of

    def peeking(self: View, spec: TrialSpec) -> TrialSpec:
        own = of(self, spec)
        is_search = self.split == "validation" or self.protocol == "oracle"
        return own.model_copy(update=changes) if is_search else own

    monkeypatch.setattr(View, "of", peeking)
    if "tasks" in changes:
        repeats = (Repeat(0, changes["tasks"]),)
        monkeypatch.setattr(choosing, "repeats_of", lambda board, view: repeats)


@pytest.mark.parametrize(
    ("selection", "planted", "message"),
    [
        ("end-of-training", {"split": "test"}, "end-of-training: a trial read test examples"),
        ("oracle", {"split": "validation"}, "oracle: a trial read validation examples"),
        ({"name": "first-k", "k": 2}, {"tasks": None}, "first-k.*task 3, which is not among"),
        ({"name": "first-k", "k": 2}, {"split": "test"}, "first-k: a trial read test examples"),
        ("gtep", {"tasks": None}, "gtep: a trial read .*task 3, which is not among its tasks"),
        ("gtep", {"split": "test"}, "gtep: a trial read test examples"),
        ("seen-tasks", {"split": "test"}, "seen-tasks: a trial read test examples"),
        ("chf", {"split": "test"}, "chf: a trial read test examples"),
        ("adaptive", {"split": "test"}, "adaptive: a trial read test examples"),
        ("two-stage", {"split": "test"}, "two-stage: a trial read test examples"),
    ],
)
def test_a_planted_leak_raises(
    selection: Any,
    planted: dict[str, Any],
    message: str,
    run_job: RunJob,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    leaking(monkeypatch, **planted)
    with pytest.raises(Leak, match=message) as caught:
        run_job(selection=selection)
    assert caught.value.exit_code == 1


@pytest.mark.parametrize(
    ("selection", "graded", "message"),
    [
        ("seen-tasks", "stream", "read validation examples of task 1 at the start"),
        ({"name": "seen-tasks", "data": "current"}, "seen", "validation examples of task 1 while"),
        ({"name": "seen-tasks", "data": "memory"}, "seen", "validation examples of task 1 while"),
        ("chf", "seen", "validation examples of task 1 while learning the 2. of its stream"),
        ("adaptive", "stream", "read validation examples of task 1 at the start"),
    ],
)
def test_a_fork_that_looks_further_raises(
    selection: Any,
    graded: str,
    message: str,
    run_job: RunJob,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plan_of = dynamic.fork_plan

    def peeking(*arguments: Any) -> Any:
        plan = plan_of(*arguments)
        return dataclasses.replace(plan, base=plan.base.model_copy(update={"graded": graded}))

    monkeypatch.setattr(dynamic, "fork_plan", peeking)
    monkeypatch.setattr("clray.protocols.chf.fork_plan", peeking)
    # In the class-incremental scenario tasks to come are never graded: no unit exists for them.
    benchmark = {
        "name": "split-digits",
        "num_tasks": 4,
        "class_order": list(range(8)),
        "train_fraction": 0.3,
        "scenario": "task-incremental",
    }
    with pytest.raises(Leak, match=message):
        run_job(selection=selection, benchmark=benchmark)


def test_another_benchmark_than_the_protocols_own_raises(
    run_job: RunJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    swapped = {"name": "split-digits", "num_tasks": 4, "class_order": list(range(2, 10))}
    from clray.spec import Component

    leaking(monkeypatch, benchmark=Component.model_validate(swapped))
    with pytest.raises(Leak, match="another benchmark than its own"):
        run_job(selection="end-of-training")


def test_stored_results_of_a_trial_that_saw_too_much_are_refused(
    run_job: RunJob, job_files: Folder, tmp_path: Path
) -> None:
    run_job()
    [key, *_] = keys_of(job_files)
    folder = Folder(str(tmp_path / "trials" / key))
    records = folder.read_lines("records.jsonl")
    records[1]["reads"]["test"] = [0]
    folder.write_lines("records.jsonl", records)
    with pytest.raises(Leak, match="read test examples of task 1"):
        run_job()


def test_a_method_that_reads_another_task_is_caught(
    run_job: RunJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    from clray.methods.er import Er

    kept: list[Any] = []

    def begin_task(self: Er, task: Any) -> None:
        kept.append(task)
        next(iter(kept[0].train.batches(8)))

    monkeypatch.setattr(Er, "begin_task", begin_task)
    with pytest.raises(Leak, match="read train examples of task 1 while learning the 2"):
        run_job(methods={"er": {"trials": 1}})


def test_every_protocol_is_in_the_table() -> None:
    from clray.selection import NAMES

    shown = [s if isinstance(s, str) else s["name"] for s, *_ in [*ONCE, *PER_TASK]]
    assert set(shown) == set(NAMES)
    assert views.__doc__ is not None
    assert all(name in views.__doc__ for name in NAMES if name != "two-stage")
