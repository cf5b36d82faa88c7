"""Continual evaluation: where its points lie, what they count, and that they disturb nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from clray import loop, registry, trial
from clray.assembly import build_stream
from clray.errors import BadInput
from clray.grading import Grader
from clray.methods.finetune import Finetune
from clray.spec import Evaluation, Resources, Storing, TrialSpec
from clray.store import Folder
from clray.task import Task
from clray.traces import traces_of
from clray.tracing import Tracer

CPU = torch.device("cpu")


def spec(**changes: Any) -> TrialSpec:
    protocol = {"epochs": 3, "batch_size": 20, "memory": 30, **changes.pop("protocol", {})}
    plain: dict[str, Any] = {
        "method": "er",
        "benchmark": {"name": "split-digits", "task_sizes": [4, 2, 2, 2]},
        "model": {"name": "mlp", "hidden": [16]},
        "protocol": {"evaluation": {"every": 7, "first": 3, "subset": 6}, **protocol},
        "split": "test",
        **changes,
    }
    return registry.complete(TrialSpec.model_validate(plain))


def test_points_lie_dense_early_and_sparse_late_and_at_both_ends(tmp_path: Path) -> None:
    outcome = trial.run(spec(), Folder(str(tmp_path / "trial")))
    for index, record in enumerate(outcome.records):
        trace, steps = record["trace"], record["steps"]
        assert trace["updates"] == sorted({0, 1, 2, 3, *range(7, steps + 1, 7), steps})
        assert trace["examples"] == [24, 12, 12, 12][: index + 1]
        assert len(trace["before"]) == index
        assert len(trace["right"]) == len(trace["updates"])
    assert outcome.seconds["trace"] > 0
    assert outcome.metrics["depth"] is not None


def test_what_is_counted_is_what_a_whole_evaluation_finds(tmp_path: Path) -> None:
    everything = {"every": 100, "first": 0, "subset": 10_000}
    records = trial.run(
        spec(protocol={"evaluation": everything}), Folder(str(tmp_path / "trial"))
    ).records
    for trace, record in zip(traces_of(records), records, strict=True):
        for index in range(trace.task + 1):
            assert (trace.of_task(index) or [])[-1] == pytest.approx(record["accuracy"][index])
    # What a task finds is what the one before it left.
    assert traces_of(records)[1].found() == pytest.approx(records[0]["accuracy"][0])


def test_the_subset_is_stratified_and_the_same_for_every_seed_and_method() -> None:
    subsets = []
    for seed, method in ((0, "er"), (7, "ewc")):
        one = spec(seed=seed, method=method)
        stream = build_stream(one, CPU, Resources())
        tracer = Tracer(Evaluation(subset=5), Grader(stream, "growing", CPU))
        x, y = tracer._subset(1)
        assert y.bincount(minlength=10).tolist() == [0, 0, 0, 0, 5, 5, 0, 0, 0, 0]
        subsets.append(x)
    assert torch.equal(*subsets)


def test_old_accuracy_is_found_without_units_of_new_classes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A head that shouts a new class before it is learned costs point 0, not what was found."""
    begin = Finetune.begin_task

    def shout(self: Finetune, task: Task) -> None:
        begin(self, task)
        head = self.model.get_submodule("head")
        with torch.no_grad():
            head.bias[list(task.classes)] += 100.0 * (1 + task.index)  # type: ignore[index, operator]

    monkeypatch.setattr(Finetune, "begin_task", shout)
    records = trial.run(spec(method="finetune"), Folder(str(tmp_path / "trial"))).records
    trace = traces_of(records)[1]
    assert (trace.found() or 0) > 0.8
    assert (trace.of_group("old") or [1])[0] == 0.0


def test_a_method_that_draws_and_changes_modes_while_it_predicts_is_not_disturbed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    predict, observe = Finetune.predict, Finetune.observe
    modes = []

    def restless(self: Finetune, x: Tensor, task: Task | None) -> Tensor:
        assert not self.model.training
        torch.rand(3)
        torch.rand(3, generator=self.setup.generator)
        return predict(self, x, task)

    def noisy(self: Finetune, x: Tensor, y: Tensor, task: Task) -> dict[str, Tensor]:
        modes.append((self.model.training, self.model.get_submodule("head").training))
        self.model.get_submodule("head").eval()  # of a method's own making
        return {**observe(self, x, y, task), "drawn": torch.rand(())}

    monkeypatch.setattr(Finetune, "observe", noisy)
    monkeypatch.setattr(Finetune, "predict", restless)
    dropout = {"name": "mlp", "hidden": [16], "dropout": 0.5}
    plain = spec(method="finetune", model=dropout, protocol={"evaluation": None})
    one = trial.run(plain, Folder(str(tmp_path / "plain"))).records
    told, modes = modes, []
    graded = spec(method="finetune", model=dropout)
    other = trial.run(graded, Folder(str(tmp_path / "graded"))).records
    assert modes == told
    for mine, theirs in zip(one, other, strict=True):
        assert mine["losses"] == theirs["losses"]


def test_a_trial_that_is_cut_in_the_midst_of_a_task_leaves_the_same_traces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storing = Storing(checkpoint_epochs=1)
    whole, cut = (Folder(str(tmp_path / name / "trial")) for name in ("whole", "cut"))
    trial.run(spec(), whole, storing=storing)
    original, count = loop.Loop._learn, 0

    def learn(self: loop.Loop, task: Task, num_epochs: int) -> bool:
        nonlocal count
        count += 1
        if count % 2 == 0:
            raise KeyboardInterrupt
        return original(self, task, num_epochs)

    monkeypatch.setattr(loop.Loop, "_learn", learn)
    for _ in range(30):
        try:
            trial.run(spec(), cut, storing=storing)
            break
        except KeyboardInterrupt:
            continue
    assert count > 12
    assert cut.read("records.jsonl") == whole.read("records.jsonl")


@pytest.mark.parametrize(
    ("scenario", "benchmark"),
    [
        ("task-incremental", {"name": "split-digits", "num_tasks": 5}),
        ("domain-incremental", {"name": "permuted-digits", "num_tasks": 3}),
        ("data-incremental", {"name": "chunked-digits", "num_tasks": 3}),
    ],
)
def test_every_scenario_is_traced(scenario: str, benchmark: dict[str, Any], tmp_path: Path) -> None:
    one = spec(benchmark={**benchmark, "scenario": scenario})
    records = trial.run(one, Folder(str(tmp_path / "trial"))).records
    for trace in traces_of(records)[1:]:
        assert trace.of_group("old") is not None
        assert (trace.of_group("new") or [0.0])[-1] > 0.1


@pytest.mark.parametrize(
    "evaluation", [{"every": 0}, {"first": -1}, {"subset": 0}, {"evry": 3}, 5, {"every": 1.5}]
)
def test_bad_evaluations_are_refused(evaluation: Any) -> None:
    from clray.parsing import parse

    with pytest.raises(BadInput, match="evaluation"):
        parse(
            TrialSpec,
            {"method": "er", "benchmark": "split-digits", "protocol": {"evaluation": evaluation}},
            "trial",
        )
