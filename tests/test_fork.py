"""Trials that begin where another one ended, and knobs that change between tasks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from clray import registry, trial
from clray.errors import BadSpec
from clray.learner import Learner
from clray.loop import Loop
from clray.spec import TrialSpec
from clray.store import Folder, trial_folder


def spec(**changes: Any) -> TrialSpec:
    plain: dict[str, Any] = {
        "method": {"name": "ewc", "strength": 10},
        "benchmark": {"name": "split-digits", "num_tasks": 3, "class_order": [0, 1, 2, 3, 4, 5]},
        "model": {"name": "mlp", "hidden": [16]},
        "protocol": {"epochs": 2, "memory": 20},
        "optimizer": {"momentum": 0.5},
        "graded": "seen",
        **changes,
    }
    return registry.complete(TrialSpec.model_validate(plain))


def change(task: int, **others: Any) -> dict[str, Any]:
    same = {
        "method": {"name": "ewc", "strength": 10},
        "optimizer": {"momentum": 0.5},
        "epochs": 2,
        "batch_size": 64,
    }
    return {"task": task, **same, **others}


def run(one: TrialSpec, results: Path, keep: bool = True) -> list[dict[str, Any]]:
    return trial.run(one, trial_folder(str(results), one.key), keep=keep).records


def last_weights(one: TrialSpec, results: Path) -> list[torch.Tensor]:
    from clray import checkpoint

    content = checkpoint.find(one, trial_folder(str(results), one.key), torch.device("cpu"))
    assert content is not None
    learner = checkpoint.load(content, torch.device("cpu"))["learner"]
    return [p.detach() for p in learner.model.parameters()]


def begun(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The positions of the tasks that were begun since."""
    seen: list[int] = []
    begin = Loop._begin

    def noted(self: Loop, task: Any) -> None:
        seen.append(task.index)
        begin(self, task)

    monkeypatch.setattr(Loop, "_begin", noted)
    return seen


def test_a_longer_trial_begins_where_a_shorter_one_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(spec(until=3), tmp_path / "whole")
    seen = begun(monkeypatch)
    for until in (1, 2, 3):
        records = run(spec(until=until), tmp_path / "forked")
        assert records == whole[:until]
    assert seen == [0, 1, 2]  # each task was learned once
    one = spec(until=3)
    pairs = zip(
        last_weights(one, tmp_path / "whole"), last_weights(one, tmp_path / "forked"), strict=True
    )
    assert all(torch.equal(a, b) for a, b in pairs)


def test_without_its_beginning_a_trial_learns_it_again(tmp_path: Path) -> None:
    first = run(spec(until=1), tmp_path, keep=False)
    assert run(spec(until=2), tmp_path)[:1] == first


def test_a_change_that_changes_nothing_is_no_change(tmp_path: Path) -> None:
    plain = run(spec(until=3), tmp_path / "plain")
    same = run(spec(until=3, changes=[change(1), change(2)]), tmp_path / "same")
    assert same == plain


@pytest.mark.parametrize(
    "others",
    [
        {"method": {"name": "ewc", "strength": 1000}},
        {"optimizer": {"momentum": 0.5, "lr": 0.01}},
        {"epochs": 3},
        {"batch_size": 16},
        {"optimizer": {"name": "adam", "lr": 0.001}},
        {"method": "finetune"},
        {"method": {"name": "er"}},
    ],
)
def test_a_change_acts_from_its_task_on(others: dict[str, Any], tmp_path: Path) -> None:
    plain = run(spec(until=3), tmp_path)
    other = spec(until=3, changes=[change(1, **others)])
    records = run(other, tmp_path)
    assert records[0] == plain[0]
    assert records[1]["losses"] != plain[1]["losses"]
    # Begun from the stored first task, it is the same as learned at one go.
    assert run(spec(until=1), tmp_path / "forked") == records[:1]
    assert run(other, tmp_path / "forked") == records


def test_a_changed_learner_goes_on_bit_for_bit_after_a_stop(tmp_path: Path) -> None:
    other = spec(until=3, changes=[change(1, optimizer={"momentum": 0.5, "lr": 0.01})])
    whole = run(other, tmp_path / "whole")
    for stop in range(2):
        folder = Folder(str(tmp_path / f"stopped-{stop}"))

        def until_then(record: dict[str, Any], stop: int = stop) -> bool:
            return bool(record["task"] != stop)

        assert trial.run(other, folder, until_then).state == "stopped"
        assert trial.run(other, folder).records == whole


def test_graded_on_a_part_of_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = spec(method="er", graded="memory", until=3, protocol={"epochs": 2, "memory": 30})
    from clray.memory import Memory

    drawn: list[set[bytes]] = []
    held: list[set[bytes]] = []
    hold_out, draw = Memory.hold_out, Memory.draw

    def noting_held(self: Memory, share: float, seed: int) -> Any:
        batch = hold_out(self, share, seed)
        held.append({x.numpy().tobytes() for x in batch[0]})
        drawn.append(set())
        return batch

    def noting_drawn(self: Memory, n: int) -> Any:
        batch = draw(self, n)
        drawn[-1] |= {x.numpy().tobytes() for x in batch[0]}
        return batch

    monkeypatch.setattr(Memory, "hold_out", noting_held)
    monkeypatch.setattr(Memory, "draw", noting_drawn)
    records = run(one, tmp_path)
    assert len(held) == 2
    for kept, seen in zip(held, drawn, strict=True):
        assert kept
        assert seen
        assert not kept & seen  # what is graded was not learned from
    assert [len([a for a in r["accuracy"] if a is not None]) for r in records] == [1, 2, 3]
    assert records[2]["reads"] == {"memory": [0, 1], "train": [2], "validation": [2]}
    row = [a for a in records[2]["accuracy"] if a is not None]
    assert records[2]["metrics"]["average_accuracy"] == pytest.approx(sum(row) / 3)
    assert run(spec(**{**one.model_dump(), "until": 1}), tmp_path / "f") == records[:1]
    assert run(one, tmp_path / "f") == records


def test_tasks_are_learned_in_the_order_given_and_keep_their_names(tmp_path: Path) -> None:
    records = run(spec(tasks=[2, 0], graded="stream"), tmp_path)
    names = [r["name"] for r in run(spec(graded="stream"), tmp_path)]
    assert [r["name"] for r in records] == [names[2], names[0]]
    assert len(records[-1]["accuracy"]) == 2


@pytest.mark.parametrize("head", ["growing", "fixed"])
def test_units_of_tasks_that_are_left_out_never_compete(
    head: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rivals: list[torch.Tensor] = []
    observe = Learner.cross_entropy

    def noted(self: Learner, logits: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        rivals.append(self.rivals[y[0]].clone())
        return observe(self, logits, y)

    monkeypatch.setattr(Learner, "cross_entropy", noted)
    run(spec(tasks=[0, 2], graded="stream", protocol={"epochs": 1, "head": head}), tmp_path)
    assert rivals[-1].tolist() == [True, True, False, False, True, True]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tasks": [0, 3]}, "tasks: got 3"),
        ({"until": 4}, "until: got 4; accepted: at most 3"),
        ({"tasks": [0, 1], "until": 3}, "at most 2"),
        ({"changes": [change(3)]}, "changes: task: got 3"),
        ({"changes": [change(1, method={"name": "ewc", "strenght": 1})]}, "strenght"),
    ],
)
def test_what_the_stream_does_not_have_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(BadSpec, match=message):
        spec(**changes)
