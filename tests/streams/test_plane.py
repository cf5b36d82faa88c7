"""The plane: where its points lie, that a seed is data, and that regions are what is answered."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from clray import registry, trial
from clray.errors import BadInput
from clray.grading import SIDE, Grader
from clray.learner import Learner
from clray.outcome import Interrupted
from clray.spec import Component, TrialSpec
from clray.store import Folder
from clray.streams.benchmarks.plane import MEANS, TASKS
from clray.task import Stream, Task


def plane(split: Any = "test", seed: int = 0, **knobs: Any) -> Stream:
    config = registry.configure("benchmark", Component(name="plane", **knobs))
    stream: Stream = config.build(split, 0.1, seed, torch.device("cpu"))
    return stream


def content(examples: Any) -> tuple[Tensor, Tensor]:
    xs, ys = zip(*examples.batches(10_000), strict=True)
    return torch.cat(xs).flatten(1), torch.cat(ys)


def spec(**changes: Any) -> TrialSpec:
    plain: dict[str, Any] = {
        "method": "finetune",
        "benchmark": "plane",
        "model": {"name": "mlp", "hidden": [8]},
        "protocol": {"epochs": 3, "batch_size": 50, "head": "fixed"},
        **changes,
    }
    return registry.complete(TrialSpec.model_validate(plain))


def test_points_lie_where_the_paper_has_them() -> None:
    stream = plane(points=20_000)
    assert [task.name for task in stream.tasks] == ["0-4", "1-5", "2-6", "3-7"]
    assert [len(task.eval) for task in stream.tasks] == [500] * 4
    for task in stream.tasks:
        x, y = content(task.train)
        assert len(x) == 20_000
        for cls in task.classes:
            own = x[y == cls]
            assert len(own) == pytest.approx(10_000, abs=300)  # 4 standard deviations of the coin
            assert torch.allclose(own.mean(0), torch.tensor(MEANS[cls]), atol=0.0015)
            assert torch.allclose(own.std(0), torch.tensor(0.035), rtol=0.03)


def test_a_seed_is_data_of_its_own_on_both_sides() -> None:
    first, second = plane(seed=1), plane(seed=2)
    for one, other in zip(first.tasks, second.tasks, strict=True):
        assert not torch.isin(content(one.train)[0], content(other.train)[0]).any()
        assert not torch.isin(content(one.train)[0], content(one.eval)[0]).any()
    held = plane("validation", seed=1).tasks[0]
    assert (len(held.train), len(held.eval)) == (90, 10)


def test_units_stay_with_their_tasks() -> None:
    assert [t.classes for t in plane().tasks] == list(TASKS)
    some = plane(task_order=[3, 1])
    assert [(t.name, t.classes) for t in some.tasks] == [("3-7", (1, 3)), ("1-5", (0, 2))]
    assert torch.equal(content(some.tasks[0].train)[0], content(plane().tasks[3].train)[0])
    domain = plane(scenario="domain-incremental")
    assert domain.num_classes == 2
    x, y = content(domain.tasks[1].train)
    assert torch.equal(y, (x[:, 0] < 0.625).long())  # class 1 lies right of class 5


@pytest.mark.parametrize(
    "knobs",
    [
        {"points": 39},
        {"spread": 0},
        {"scenario": "task-incremental"},
        {"task_order": [0, 4]},
        {"task_order": "cifar100-split/B"},
    ],
)
def test_refused(knobs: dict[str, Any]) -> None:
    with pytest.raises(BadInput, match=next(iter(knobs))):
        registry.complete(spec().model_copy(update={"benchmark": Component(name="plane", **knobs)}))


class Quarters(Learner):
    """Answers by position: 3 top left, 2 top right, 0 bottom left, 1 bottom right."""

    def __init__(self) -> None:
        pass

    def observe(self, x: Tensor, y: Tensor, task: Task) -> dict[str, Tensor]:
        """Nothing is learned."""
        return {}

    def predict(self, x: Tensor, task: Task | None) -> Tensor:
        """Logits that are highest for the quarter, and next for the class of the same row."""
        assert task is None
        right, top = (x.flatten(1) > 0.5).long().T
        best = torch.where(top.bool(), 3 - right, right)
        logits = torch.zeros(len(x), 8)
        logits.scatter_(1, (best ^ 1)[:, None], 1.0)
        return logits.scatter_(1, best[:, None], 2.0)


@pytest.mark.parametrize(
    ("head", "seen", "corners"),
    # after two tasks, units 0, 1, 4 and 5 may be answered; the first where none is better
    [("fixed", 1, "3201"), ("growing", 2, "0001"), ("growing", 4, "3201")],
)
def test_the_grid_is_what_is_answered(head: str, seen: int, corners: str) -> None:
    stream = plane()
    found = Grader(stream, head, torch.device("cpu")).regions(Quarters(), seen)
    assert found is not None
    grid = found["grid"]
    assert (len(grid), {len(row) for row in grid}) == (SIDE, {SIDE})
    half = SIDE // 2
    for row, column, answer in zip((0, 0, half, half), (0, half, 0, half), corners, strict=True):
        assert {symbol for one in grid[row:][:half] for symbol in one[column:][:half]} == {answer}
    x, y = content(stream.tasks[seen - 1].train)
    for told, place, label in zip(found["points"], x.tolist(), y.tolist(), strict=True):
        assert told == [*(round(value, 3) for value in place), label]


@pytest.mark.parametrize("others", [{"square": None}, {"scenario": "task-incremental"}])
def test_no_regions_where_there_is_no_plane_or_no_single_answer(others: dict[str, Any]) -> None:
    stream = dataclasses.replace(plane(), **others)
    assert Grader(stream, "fixed", torch.device("cpu")).regions(Quarters(), 1) is None


def test_regions_change_nothing_and_survive_a_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = trial.run(spec(), Folder(str(tmp_path / "whole")))
    assert [r["reads"]["train"] for r in whole.records] == [[0], [1], [2], [3]]
    assert all(record["regions"] for record in whole.records)
    cut, asked = Folder(str(tmp_path / "cut")), iter(range(100))
    with pytest.raises(Interrupted):
        trial.run(spec(), cut, interrupted=lambda: next(asked) > 14)
    trial.run(spec(), cut)
    assert cut.read("records.jsonl") == (tmp_path / "whole" / "records.jsonl").read_bytes()

    monkeypatch.setattr(Grader, "regions", lambda *_: None)
    without = trial.run(spec(), Folder(str(tmp_path / "without")))
    bare = [{k: v for k, v in r.items() if k != "regions"} for r in whole.records]
    assert bare == without.records


@pytest.mark.slow
@pytest.mark.parametrize(
    ("hidden", "lr", "most"), [((32,), 0.001, 0.40), ((), 0.01, 0.30)], ids=["mlp", "linear"]
)
def test_networks_forget_as_in_the_paper(
    hidden: tuple[int, ...], lr: float, most: float, tmp_path: Path
) -> None:
    scores = []
    for seed in range(3):
        one = spec(
            model={"name": "mlp", "hidden": hidden},
            protocol={"epochs": 1000, "batch_size": 100, "head": "fixed"},
            optimizer={"name": "adam", "lr": lr, "reset": True},
            split="test",
            seed=seed,
        )
        outcome = trial.run(one, Folder(str(tmp_path / str(seed))))
        assert (outcome.metrics["learning_accuracy"] or 0.0) > 0.99
        scores.append(outcome.metrics["average_accuracy"] or 0.0)
    assert 0.24 <= sum(scores) / 3 <= most
