"""Tasks that are learned apart: shared by orders, put together, and checked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from clray import apart, registry, trial
from clray.errors import BrokenPromise, Leak
from clray.guard import Permission
from clray.loop import Loop
from clray.outcome import Outcome, Record
from clray.spec import TrialSpec
from clray.store import Folder, trial_folder

ORDERS = [(0, 1, 2, 3, 4), (0, 3, 1, 4, 2), (0, 4, 3, 2, 1), (0, 2, 4, 1, 3)]


def spec(tasks: tuple[int, ...] | None = None, **changes: Any) -> TrialSpec:
    plain: dict[str, Any] = {
        "method": {"name": "separate", "begin": "first"},
        "benchmark": {"name": "split-digits", "scenario": "task-incremental"},
        "model": {"name": "mlp", "hidden": [8], "dropout": 0.5},
        "protocol": {"epochs": 2},
        "tasks": tasks,
        **changes,
    }
    return registry.complete(TrialSpec.model_validate(plain))


def run(one: TrialSpec, results: Path, **others: Any) -> Outcome:
    return trial.run(one, trial_folder(str(results), one.key), **others)


def steps_run(results: Path) -> int:
    return sum(json.loads(f.read_text())["steps"] for f in results.glob("trials/*/timing.json"))


def without_reads(records: list[Record]) -> list[Record]:
    """What must be the same however the records came about."""
    return [{k: v for k, v in r.items() if k not in ("part", "reads")} for r in records]


def test_orders_that_begin_alike_learn_each_task_once(tmp_path: Path) -> None:
    outcomes = [run(spec(order), tmp_path) for order in ORDERS]
    own = [sum(record["steps"] for record in outcome.records) for outcome in outcomes]
    assert own == [own[0]] * 4
    assert steps_run(tmp_path) == own[0]  # not four times
    learned = {record["part"] for outcome in outcomes for record in outcome.records}
    assert len(learned) == 5
    by_name = [
        {r["name"]: (r["accuracy"][r["task"]], r["losses"]) for r in outcome.records}
        for outcome in outcomes
    ]
    assert all(one == by_name[0] for one in by_name)
    run(spec((1, 0, 2, 3, 4)), tmp_path)  # another first task shares nothing
    assert steps_run(tmp_path) == 2 * own[0]


def test_parts_know_what_they_depend_on_and_nothing_else() -> None:
    whole, other = spec(ORDERS[0]), spec(ORDERS[1])
    assert apart.part(whole, 5, 3).key == apart.part(other, 5, 1).key
    assert apart.part(spec(), 5, 3).key == apart.part(whole, 5, 3).key
    assert len({apart.part(whole, 5, i).key for i in range(5)}) == 5
    assert apart.part(spec((1, 0, 2, 3, 4)), 5, 3).key != apart.part(whole, 5, 3).key
    assert apart.part(spec((0, 1, 2)), 3, 1).key != apart.part(whole, 5, 1).key  # a shorter stream
    assert apart.part(spec(ORDERS[0], seed=1), 5, 3).key != apart.part(whole, 5, 3).key
    assert apart.part(spec(ORDERS[0], until=3), 5, 1).key == apart.part(whole, 5, 1).key
    assert [len(w) for w in apart.waves([whole, other, spec((1, 0, 2, 3, 4))], 5)] == [2, 8]
    assert not apart.waves([spec(method="finetune")], 5)


def test_the_records_are_those_of_one_learner_that_goes_through_the_stream(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for graded in ("stream", "seen"):
        one = spec(ORDERS[1], graded=graded)
        together = run(one, tmp_path / "together")
        with monkeypatch.context() as patched:
            patched.setattr(apart, "is_whole", lambda spec: False)
            alone = run(one, tmp_path / "alone")
        assert without_reads(together.records) == without_reads(alone.records)
        assert together.metrics == alone.metrics


def test_what_a_part_left_may_be_lost(tmp_path: Path) -> None:
    one = spec(ORDERS[0], until=3)
    whole = run(one, tmp_path)
    before = steps_run(tmp_path)
    for name in ("checkpoint", apart.NAME):
        trial_folder(str(tmp_path), one.key).delete("result.json")
        gone = next(tmp_path.glob(f"trials/*/{name}"))
        gone.unlink()
        again = run(one, tmp_path)
        assert again.records == whole.records
        assert gone.exists()
    assert steps_run(tmp_path) == before  # what it lost was learned again, in its place


def test_reports_task_by_task_and_learns_no_more_than_it_must(tmp_path: Path) -> None:
    told: list[int] = []

    def report(record: Record) -> bool:
        told.append(record["task"])
        return len(told) < 2

    one = spec(ORDERS[0])
    assert run(one, tmp_path, report=report).state == "stopped"
    assert told == [0, 1]
    assert len(list(tmp_path.glob("trials/*"))) == 1 + 2
    assert run(one, tmp_path).state == "completed"


def test_a_part_that_diverges_ends_the_stream(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learn = Loop._learn

    def fails(self: Loop, task: Any, num_epochs: int) -> bool:
        return learn(self, task, num_epochs) and task.name != "6-7"

    monkeypatch.setattr(Loop, "_learn", fails)
    outcome = run(spec(ORDERS[1]), tmp_path)
    assert outcome.state == "diverged"
    assert [record["name"] for record in outcome.records] == ["0-1", "6-7"]
    assert outcome.records[1]["accuracy"] is None
    assert outcome.records[1]["diverged"] == {"epoch": 1}


def test_a_longer_trial_whose_knobs_change_begins_where_a_whole_ended(tmp_path: Path) -> None:
    run(spec(graded="seen", until=2), tmp_path, keep=True)
    before = steps_run(tmp_path)
    change = {"task": 2, "method": {"name": "separate", "begin": "first"}, "epochs": 3}
    outcome = run(spec(graded="seen", until=3, changes=[change]), tmp_path)
    assert steps_run(tmp_path) - before == outcome.records[-1]["steps"]
    alone = run(spec(graded="seen", until=3, changes=[change]), tmp_path / "alone")
    assert without_reads(outcome.records) == without_reads(alone.records)


def test_what_parts_read_is_checked_and_noted(tmp_path: Path) -> None:
    one = spec(ORDERS[1], graded="seen")
    records = run(one, tmp_path).records
    assert [r["reads"]["train"] for r in records] == [[0], [1], [2], [3], [4]]
    assert [r["reads"]["validation"] for r in records] == [[0], [1], [2], [3], [0, 1, 2, 3, 4]]
    few = Permission(protocol="this test", split="validation", tasks=(0, 3, 1), graded="seen")
    with pytest.raises(Leak, match="task 5"):
        run(one, tmp_path / "other", permission=few)


def test_a_broken_promise_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    learner = registry.find("method", "finetune").learner
    promise = classmethod(lambda cls, config: True)
    monkeypatch.setattr(learner, "independent_after_first", promise)
    monkeypatch.setattr(learner, "learned_of", lambda self, task: self.model.state_dict())
    monkeypatch.setattr(
        learner, "adopt", lambda self, task, learned: self.model.load_state_dict(learned)
    )
    one = spec(method="finetune", protocol={"epochs": 10})
    with pytest.raises(BrokenPromise, match="promise that it does not keep"):
        run(one, tmp_path)
    assert not Folder(str(tmp_path / "trials" / one.key)).has("result.json")
