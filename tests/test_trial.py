"""The training loop: divergence, stopping, sealed data, determinism, and what it stores."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from clray import assembly, loop, registry, trial
from clray.errors import BadInput
from clray.learner import Learner
from clray.methods.finetune import Finetune
from clray.outcome import Interrupted
from clray.spec import Storing, TrialSpec
from clray.store import Folder
from clray.task import Task


def spec(**changes: Any) -> TrialSpec:
    plain: dict[str, Any] = {
        "method": "finetune",
        "benchmark": {"name": "split-digits", "num_tasks": 3, "class_order": [0, 1, 2, 3, 4, 5]},
        "model": {"name": "mlp", "hidden": [32]},
        "protocol": {"epochs": 4},
        **changes,
    }
    return registry.complete(TrialSpec.model_validate(plain))


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(str(tmp_path))


def test_same_spec_same_records_and_another_seed_others(tmp_path: Path) -> None:
    folders = [Folder(str(tmp_path / name)) for name in "abc"]
    for one, seed in zip(folders, (0, 0, 1), strict=True):
        trial.run(spec(seed=seed), one)
    first, same, other = (one.read("records.jsonl") for one in folders)
    assert first == same != other


def test_the_accuracy_matrix_has_holes_only_where_no_unit_exists_yet(tmp_path: Path) -> None:
    classes = trial.run(spec(), Folder(str(tmp_path / "class")))
    assert [r["accuracy"].count(None) for r in classes.records] == [2, 1, 0]
    assert classes.metrics["forward_transfer"] is None
    benchmark = {**spec().benchmark.model_dump(), "scenario": "task-incremental"}
    tasks = trial.run(spec(benchmark=benchmark), Folder(str(tmp_path / "task")))
    assert all(None not in r["accuracy"] for r in tasks.records)
    assert tasks.metrics["forward_transfer"] is not None


def test_a_loss_that_is_no_number_ends_the_trial_with_a_record(folder: Folder) -> None:
    outcome = trial.run(spec(optimizer={"lr": 1e30}), folder)
    assert outcome.state == "diverged"
    assert outcome.records[-1]["diverged"]["epoch"] >= 1
    assert outcome.records[-1]["accuracy"] is None
    json.loads(folder.read("records.jsonl").splitlines()[-1])
    assert not folder.has("checkpoint")
    again = trial.run(spec(optimizer={"lr": 1e30}), folder)
    assert again.records == outcome.records


def test_predictions_that_are_no_numbers_end_the_trial_too(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def end_task(self: Learner, task: Task) -> None:
        with torch.no_grad():
            for parameter in self.model.parameters():
                parameter.fill_(torch.nan)

    monkeypatch.setattr(Finetune, "end_task", end_task)
    assert trial.run(spec(), folder).state == "diverged"


def test_report_stops_a_trial_and_a_later_run_goes_on(tmp_path: Path) -> None:
    stopped, whole = Folder(str(tmp_path / "stopped")), Folder(str(tmp_path / "whole"))
    seen: list[int] = []

    def report(record: dict[str, Any]) -> bool:
        seen.append(record["task"])
        return len(seen) < 2

    assert trial.run(spec(), stopped, report).state == "stopped"
    assert seen == [0, 1]
    assert trial.run(spec(), stopped).state == "completed"
    trial.run(spec(), whole)
    assert stopped.read("records.jsonl") == whole.read("records.jsonl")


def test_a_finished_trial_is_reported_again_and_not_run_again(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = trial.run(spec(), folder)
    monkeypatch.setattr(loop.Loop, "__init__", lambda *_: pytest.fail("it ran again"))
    seen: list[dict[str, Any]] = []

    def report(record: dict[str, Any]) -> bool:
        seen.append(record)
        return True

    again = trial.run(spec(), folder, report)
    assert seen == first.records == again.records


def test_an_interrupted_trial_goes_on_where_it_was(tmp_path: Path) -> None:
    cut, whole = Folder(str(tmp_path / "cut")), Folder(str(tmp_path / "whole"))
    asked = 0

    def interrupted() -> bool:
        nonlocal asked
        asked += 1
        return asked > 30

    with pytest.raises(Interrupted):
        trial.run(spec(), cut, interrupted=interrupted)
    trial.run(spec(), cut)
    trial.run(spec(), whole)
    assert cut.read("records.jsonl") == whole.read("records.jsonl")


@pytest.mark.parametrize("moment", ["begin_task", "observe", "end_task"])
def test_a_method_cannot_touch_what_it_is_graded_on(
    moment: str, folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = getattr(Finetune, moment)

    def peek(self: Learner, *arguments: Any) -> Any:
        list(arguments[-1].eval.batches(8))
        return original(self, *arguments)

    monkeypatch.setattr(Finetune, moment, peek)
    with pytest.raises(PermissionError, match="evaluation examples of task '0-1'"):
        trial.run(spec(), folder)


def test_a_method_cannot_learn_while_it_predicts(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def predict(self: Learner, x: Tensor, task: Task | None) -> Tensor:
        assert task is not None
        next(iter(task.train.batches(8)))
        return self.forward(x)

    monkeypatch.setattr(Finetune, "predict", predict)
    benchmark = {**spec().benchmark.model_dump(), "scenario": "task-incremental"}
    with pytest.raises(PermissionError, match="training examples"):
        trial.run(spec(benchmark=benchmark), folder)


def test_only_the_task_incremental_scenario_tells_the_task(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: set[int | None] = set()

    def predict(self: Learner, x: Tensor, task: Task | None) -> Tensor:
        told.add(None if task is None else task.index)
        return self.forward(x)

    monkeypatch.setattr(Finetune, "predict", predict)
    trial.run(spec(), Folder(str(tmp_path / "class")))
    assert told == {None}
    benchmark = {**spec().benchmark.model_dump(), "scenario": "task-incremental"}
    trial.run(spec(benchmark=benchmark), Folder(str(tmp_path / "task")))
    assert told == {None, 0, 1, 2}


def test_units_of_the_future_do_not_compete_with_a_growing_head(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    biases: list[Tensor] = []

    def end_task(self: Learner, task: Task) -> None:
        biases.append(self.model.head.bias.detach().clone())  # type: ignore[union-attr, operator]

    monkeypatch.setattr(Finetune, "end_task", end_task)
    trial.run(spec(), folder)
    assert torch.equal(biases[0][4:], biases[1][4:])  # task 2's units, before they were due
    assert not torch.equal(biases[1][4:], biases[2][4:])


def test_the_final_model_is_kept_when_asked_for(folder: Folder, tmp_path: Path) -> None:
    trial.run(spec(), folder)
    assert not folder.has("model.safetensors")
    kept = Folder(str(tmp_path / "kept"))
    trial.run(spec(), kept, storing=Storing(model=True))
    assert set(load_file(tmp_path / "kept" / "model.safetensors"))
    assert kept.read("records.jsonl") == folder.read("records.jsonl")


def test_a_checkpoint_of_another_version_is_not_loaded(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial.run(spec(), folder, lambda record: False)
    assert folder.has("checkpoint")
    monkeypatch.setattr("clray.__version__", "0.0.0")
    built: list[Learner] = []
    original = assembly.build_learner

    def build(*arguments: Any) -> Learner:
        built.append(original(*arguments))
        return built[-1]

    monkeypatch.setattr(loop, "build_learner", build)
    assert trial.run(spec(), folder).state == "completed"
    assert len(built) == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "ewcc"}, "method: got 'ewcc'.*Did you mean 'ewc'"),
        ({"benchmark": "split-digit"}, "Did you mean 'split-digits'"),
        ({"model": "mpl"}, "Did you mean 'mlp'"),
        ({"model": "mlp/big"}, "without a variant"),
        ({"method": {"name": "ewc", "strength": -1}}, "strength: got -1.*equal to 0"),
        ({"method": {"name": "ewc", "strenght": 1}}, "Did you mean 'strength'"),
        ({"method": "clray.spec"}, "a module with a class Config"),
        ({"method": "no.such.module"}, "got 'no.such.module'"),
        ({"optimizer": {"name": "adam", "momentum": 0.9}}, "except with name: sgd"),
        ({"method": "er"}, "protocol.memory, for method er: got 0"),
        (
            {
                "method": "supsup",
                "changes": [{"task": 1, "method": "finetune"}],
            },
            "changes: method: got 'finetune'; accepted: supsup: no other method can go on",
        ),
    ],
)
def test_bad_trials_are_refused_before_they_start(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        spec(**changes)


@pytest.mark.parametrize(("updates", "first"), [(7, None), (7, 3), (None, 2), (40, 0)])
def test_learns_for_as_many_steps_as_it_is_told(
    updates: int | None, first: int | None, folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    observe = Finetune.observe

    def counting(self: Finetune, x: Tensor, y: Tensor, task: Task) -> dict[str, Tensor]:
        sizes.append(len(x))
        return observe(self, x, y, task)

    monkeypatch.setattr(Finetune, "observe", counting)
    told = {"updates": updates, "first_updates": first, "batch_size": 33, "epochs": 2}
    records = trial.run(spec(protocol=told), folder).records
    for record in records:
        own, sizes[: record["steps"]] = sizes[: record["steps"]], []
        assert record["examples_seen"] == sum(own)
    assert not sizes
    each = 2 * 8 if updates is None else updates
    assert [record["steps"] for record in records] == [each if first is None else first, each, each]
