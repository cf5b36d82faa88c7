"""What every method promises, whatever it does."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
import torch
import torch.distributed as dist
from pydantic import ValidationError
from safetensors.torch import load_file
from torch import Tensor

from clray import apart, assembly, loop, registry, trial
from clray.errors import BadSpec
from clray.learner import Learner
from clray.spec import STABILITY, Component, Resources, Storing, Tag, TrialSpec
from clray.store import Folder
from clray.task import Task
from tests.methods.conftest import TRANSFORMER

Build = Callable[..., Learner]

METHODS = registry.names("method")
KNOBS = [(m, k) for m in METHODS for k in registry.find("method", m).config.model_fields]
REGULARISERS = [method for method, knob in KNOBS if knob == "strength"]
PROMISING = [
    method
    for method in METHODS
    for config in [registry.configure("method", Component(name=method))]
    if registry.find("method", method).learner.independent_after_first(config)
]
EPOCHS, TASKS = 2, 3
CPU = torch.device("cpu")
MEMORY = 30


SCORES: dict[str, Any] = {"optimizer": {"lr": 3.0}}
"""Plain SGD moves scores, whose gradients are small, at such a rate only."""
INPUTS: dict[str, Any] = {"model": {"name": "mlp", "hidden": []}}
"""The identity in place of a frozen encoder."""
FEW_PROMPTS = {"pool_size": 5, "length": 1, "num_selected": 2}
"""As many as leave an image's few tokens a part in what the prompts attend to."""
FEW_COMPONENTS = {"components": 12, "length": 4, "num_layers": 2}
ARRIVING: dict[str, Any] = {
    "benchmark": {
        "name": "split-digits",
        "num_tasks": TASKS,
        "class_order": [0, 1, 2, 3, 4, 5],
        "scenario": "class-incremental",
    },
    "optimizer": {"lr": 0.3},
}
"""New classes compete with old ones, which is all that the method is about."""
FEW_KEYS = {"codebooks": 16, "pairs": 16, "key_dim": 4, "key_epochs": 2}
SUITED: dict[str, dict[str, Any]] = {
    "apd": {"optimizer": {"name": "adam", "lr": 0.003}},
    "supsup": SCORES,
    "ssnet": {**SCORES, "method": {"name": "ssnet", "weight_lr": 0.1}},
    "exssnet": {**SCORES, "method": {"name": "exssnet", "weight_lr": 0.1}},
    **{m: INPUTS for m in METHODS if registry.find("method", m).learner.frozen_encoder},
    "l2p": {"model": TRANSFORMER, "method": {"name": "l2p", **FEW_PROMPTS}},
    "coda_prompt": {"model": TRANSFORMER, "method": {"name": "coda_prompt", **FEW_COMPONENTS}},
    "dkvb": {**INPUTS, "method": {"name": "dkvb", "plasticity": 5.0, **FEW_KEYS}},
    "knn": {**INPUTS, "method": {"name": "knn", "k": 3}},  # of 30 that are kept
    "ranpac": {**INPUTS, "method": {"name": "ranpac", "dimension": 100}},
    "dlcft": {"optimizer": {"name": "adam", "lr": 0.003}},
    "joint_linear": {"optimizer": {"name": "adam", "lr": 0.003}},
    "icarl": ARRIVING,
    "bic": ARRIVING,
}
"""What a method needs to learn within the tiny trial."""
SHOWING: dict[str, dict[str, Any]] = {
    "apd": {"drift": 1.0},  # plain SGD diverges at 100
    "supsup": {"outputs": 9},
    "ssnet": {"state": "last"},
    "exssnet": {"state": "last"},
    "dkvb": FEW_KEYS,
    "ranpac": {"dimension": 50},
    "coda_prompt": FEW_COMPONENTS,
    "dlcft": {"target_scale": 0.5},
    "joint_linear": {"target_scale": 0.5},
    "gpm": {"threshold": 0.9, "increase": 0.1},
}
"""What a method needs for every knob to show after a handful of steps on noise."""


def tiny(method: str, **changes: Any) -> TrialSpec:
    """A trial of about a second on three tasks of two digits each."""
    plain: dict[str, Any] = {
        "method": method,
        "benchmark": {
            "name": "split-digits",
            "num_tasks": TASKS,
            "class_order": [0, 1, 2, 3, 4, 5],
            "scenario": _scenario(method),
        },
        "model": {"name": "mlp", "hidden": [32]},
        "protocol": {"epochs": EPOCHS, "memory": MEMORY, "batch_size": 33},
        "optimizer": {"lr": 0.1},
        **SUITED.get(method, {}),
        **changes,
    }
    return registry.complete(TrialSpec.model_validate(plain))


def traced(method: str) -> TrialSpec:
    """The same trial, graded after every update."""
    evaluation = {"every": 1, "first": 0, "subset": 3}
    protocol = tiny(method).protocol.model_dump()
    return tiny(method, protocol={**protocol, "evaluation": evaluation})


def _scenario(method: str) -> str:
    scenarios = registry.find("method", method).learner.scenarios
    preferred = ("task-incremental", "class-incremental", "domain-incremental")
    return next(name for name in preferred if name in scenarios)


@pytest.mark.parametrize("method", METHODS)
def test_learns_more_than_chance(method: str, tmp_path: Path) -> None:
    outcome = trial.run(tiny(method), Folder(str(tmp_path / "trial")))
    assert outcome.state == "completed"
    assert (outcome.metrics["learning_accuracy"] or 0) > 0.7
    assert (outcome.metrics["average_accuracy"] or 0) > 0.6  # chance: 0.5


@pytest.mark.parametrize("method", METHODS)
def test_serves_each_scenario_that_it_claims(method: str, tmp_path: Path) -> None:
    benchmarks = {
        "class-incremental": "split-digits",
        "task-incremental": "split-digits",
        "domain-incremental": "permuted-digits",
        "data-incremental": "chunked-digits",
    }
    for scenario in registry.find("method", method).learner.scenarios:
        benchmark = {"name": benchmarks[scenario], "num_tasks": 2, "scenario": scenario}
        spec = tiny(method, benchmark=benchmark, protocol={"epochs": 6, "memory": MEMORY})
        outcome = trial.run(spec, Folder(str(tmp_path / scenario / "trial")))
        assert outcome.state == "completed", scenario
        assert (outcome.metrics["learning_accuracy"] or 0) > 0.3, scenario


@pytest.mark.parametrize("method", METHODS)
def test_learns_the_same_while_it_is_graded_after_every_update(method: str, tmp_path: Path) -> None:
    plain = trial.run(tiny(method), Folder(str(tmp_path / "plain" / "trial"))).records
    graded = trial.run(traced(method), Folder(str(tmp_path / "traced" / "trial"))).records
    for index, (one, other) in enumerate(zip(plain, graded, strict=True)):
        trace = other["trace"]
        assert trace["updates"] == list(range(other["steps"] + 1))
        assert len(trace["right"][-1]) == index + 1
        parts = {"trace", "metrics", *(("part", "reads") if "part" in one else ())}
        same = {name: value for name, value in one.items() if name not in parts}
        assert same == {name: value for name, value in other.items() if name not in parts}
        assert one["metrics"].items() <= other["metrics"].items()


@pytest.mark.parametrize("method", METHODS)
def test_keeps_the_encoder_still_where_the_first_task_teaches_the_head_alone(
    method: str, tmp_path: Path
) -> None:
    protocol = {**tiny(method).protocol.model_dump(), "first_learns": "head"}
    if not registry.find("method", method).learner.learns_head_alone:
        with pytest.raises(BadSpec, match="first_learns"):
            tiny(method, protocol=protocol)
        return
    one = tiny(method, protocol=protocol, until=1)
    first = assembly.build_learner(one, assembly.build_stream(one, CPU, Resources()), CPU)
    trial.run(one, Folder(str(tmp_path / "trial")), storing=Storing(model=True))
    learned = load_file(tmp_path / "trial" / "model.safetensors")
    began = first.setup.model.state_dict()
    assert learned.keys() >= began.keys()
    same = {name: torch.equal(value, learned[name]) for name, value in began.items()}
    assert all(same[name] for name in began if name.startswith("encoder."))
    # And goes on with all of it.
    both = tiny(method, protocol=protocol, until=2)
    trial.run(both, Folder(str(tmp_path / "both")), storing=Storing(model=True))
    now = load_file(tmp_path / "both" / "model.safetensors")
    still = all(torch.equal(value, now[n]) for n, value in began.items() if n.startswith("enc"))
    assert still == registry.find("method", method).learner.frozen_encoder


class Cut(BaseException):
    """Stands for a kill."""


@pytest.mark.parametrize("method", METHODS)
def test_resumes_bit_for_bit_from_a_cut_at_every_task_and_epoch(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storing = Storing(checkpoint_epochs=1, model=True)
    spec = tiny(method)
    whole = Folder(str(tmp_path / "whole" / "trial"))
    trial.run(spec, whole, storing=storing)
    original = loop.Loop._checkpoint
    cuts = TASKS * EPOCHS - 1  # the last epoch of the last task ends the trial
    if apart.is_whole(spec):
        cuts = TASKS * (EPOCHS - 1) + 1  # each later task ends a trial
    for cut in range(1, cuts + 1):
        count = 0

        def checkpoint(progress: loop.Loop, cut: int = cut) -> None:
            nonlocal count
            original(progress)
            count += 1
            if count == cut:
                raise Cut

        monkeypatch.setattr(loop.Loop, "_checkpoint", checkpoint)
        folder = Folder(str(tmp_path / f"cut-{cut}" / "trial"))
        with pytest.raises(Cut):
            trial.run(spec, folder, storing=storing)
        assert not folder.has("result.json")
        monkeypatch.setattr(loop.Loop, "_checkpoint", original)
        trial.run(spec, folder, storing=storing)
        for name in ("records.jsonl", "result.json", "model.safetensors"):
            assert folder.read(name) == whole.read(name), (cut, name)


@pytest.mark.parametrize("method", PROMISING)
def test_keeps_its_promise_that_later_tasks_are_learned_apart(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bit for bit: put together from parts, which all orders share, or gone through at once."""
    assert "class-incremental" not in registry.find("method", method).learner.scenarios
    for order in ((0, 1, 2), (0, 2, 1)):
        spec = tiny(method, tasks=order)
        together, alone = (Folder(str(tmp_path / name / f"{order}")) for name in ("all", "alone"))
        trial.run(spec, together, storing=Storing(model=True))
        with monkeypatch.context() as patched:
            patched.setattr(apart, "is_whole", lambda spec: False)
            trial.run(spec, alone, storing=Storing(model=True))
        records = [
            [{k: v for k, v in r.items() if k not in ("part", "reads")} for r in lines]
            for lines in (folder.read_lines("records.jsonl") for folder in (together, alone))
        ]
        assert records[0] == records[1]
        assert together.read("model.safetensors") == alone.read("model.safetensors")


@pytest.mark.parametrize("method", METHODS)
def test_stays_within_its_memory(method: str, tmp_path: Path) -> None:
    outcome = trial.run(tiny(method), Folder(str(tmp_path / "trial")))
    for record in outcome.records:
        footprint = record["footprint"]
        assert set(footprint) == {"parameters", "examples", "bytes"}
        assert footprint["examples"] <= MEMORY
        assert footprint["bytes"] >= 4 * footprint["parameters"]


@pytest.mark.parametrize("method", METHODS)
def test_is_documented(method: str) -> None:
    found = registry.find("method", method)
    assert len(found.summary) > 20
    for name, field in found.config.model_fields.items():
        assert field.description, f"{method}.{name} has no docstring"
        assert not field.is_required(), f"{method}.{name} has no default"


@pytest.mark.parametrize(("method", "knob"), KNOBS)
def test_the_tagged_knobs_and_no_others_act_between_tasks(
    method: str, knob: str, build: Build, tasks: list[Task]
) -> None:
    """A knob may act at the end of a task only, and so show in the weights of the one after it."""
    field = registry.find("method", method).config.model_fields[knob]
    tags = [item for item in field.metadata if isinstance(item, Tag)]
    made = partial(build, method, linear=registry.find("method", method).learner.frozen_encoder)
    learners = [made(**SHOWING.get(method, {})) for _ in range(2)]
    for learner in learners:
        learn(learner, tasks[0])
    learners[1].config = another(learners[1], knob)
    for learner, task in itertools.product(learners, tasks[1:]):
        learn(learner, task)
    assert all(weights(learner).isfinite().all() for learner in learners)
    assert torch.equal(*map(weights, learners)) == (not tags)
    if tags == [STABILITY]:  # on the first task there is nothing to keep
        fresh = made(), made()
        fresh[1].config = another(fresh[1], knob)
        for learner in fresh:
            learn(learner, tasks[0])
        assert torch.equal(*map(weights, fresh))


@pytest.mark.parametrize("method", REGULARISERS)
def test_a_penalty_is_above_zero_after_the_first_task(
    method: str, build: Build, tasks: list[Task]
) -> None:
    learner = build(method)
    assert "penalty" not in learn(learner, tasks[0])
    assert learn(learner, tasks[1])["penalty"] > 0


@pytest.mark.parametrize("method", REGULARISERS)
def test_without_strength_a_regulariser_is_fine_tuning(
    method: str, build: Build, tasks: list[Task]
) -> None:
    learners = build(method, strength=0), build("finetune")
    for learner, task in itertools.product(learners, tasks):
        learn(learner, task)
    assert torch.equal(*map(weights, learners))


def another(learner: Learner, knob: str) -> Any:
    """The learner's config with another value of one knob."""
    config = learner.config
    annotation = type(config).model_fields[knob].annotation
    values: list[Any] = [0.001, 0.3, 3, True, False]
    if get_origin(annotation) is Literal:
        values = [*get_args(annotation)]
    elif get_origin(annotation) is tuple:
        values = [(choice,) for choice in get_args(get_args(annotation)[0])]
    for value in values:
        if value != getattr(config, knob):
            try:
                return type(config).model_validate({**config.model_dump(), knob: value})
            except ValidationError:
                continue
    # One that suits no other knob as it is must not act either.
    return config.model_copy(update={knob: values[0]})


def learn(learner: Learner, task: Task) -> dict[str, Tensor]:
    """One task as the frame would go about it; what the last step returned."""
    learner.begin_task(task)
    learner.train_mode(True)
    learner.begin_epoch(task, 0, 1)
    for x, y in task.train.batches(8, seed=0):
        out = learner.observe(x, y, task)
    learner.end_task(task)
    return out


def weights(learner: Learner) -> Tensor:
    """All that the model holds, as one row of numbers: weights, statistics, masks."""
    return torch.cat([v.flatten().float() for v in learner.model.state_dict().values()])


@pytest.fixture(scope="session")
def two_workers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every method's trial on two workers, all in one group of processes."""
    root = tmp_path_factory.mktemp("two")
    command = [sys.executable, "-m", "tests.methods.test_contract", str(root)]
    top = Path(__file__).parents[2]
    workers = [subprocess.Popen([*command, str(rank)], cwd=top) for rank in range(2)]
    assert [worker.wait(timeout=600) for worker in workers] == [0, 0]
    return root


def _worker(rank: int, root: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{root}/group", rank=rank, world_size=2)
    for method in METHODS:
        trial.run(tiny(method), Folder(f"{root}/{method}/trial"), storing=Storing(model=True))
    trial.run(traced("er"), Folder(f"{root}/traced/trial"))
    dist.destroy_process_group()


@pytest.mark.parametrize("method", METHODS)
def test_two_workers_equal_one(method: str, two_workers: Path, tmp_path: Path) -> None:
    mine, theirs = tmp_path / "trial", two_workers / method / "trial"
    trial.run(tiny(method), Folder(str(mine)), storing=Storing(model=True))
    one = load_file(mine / "model.safetensors")
    two = load_file(theirs / "model.safetensors")
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        assert torch.allclose(tensor, two[name], atol=1e-5), name
    for single, double in zip(_losses(mine), _losses(theirs), strict=True):
        assert single.keys() == double.keys()
        for name, losses in single.items():
            assert losses == pytest.approx(double[name], abs=1e-5), name


def test_two_workers_are_graded_between_updates_as_one_is(
    two_workers: Path, tmp_path: Path
) -> None:
    one = trial.run(traced("er"), Folder(str(tmp_path / "trial"))).records
    lines = (two_workers / "traced" / "trial" / "records.jsonl").read_text().splitlines()
    for mine, theirs in zip(one, map(json.loads, lines), strict=True):
        assert mine["trace"] == theirs["trace"]


def _losses(folder: Path) -> list[dict[str, list[float]]]:
    lines = (folder / "records.jsonl").read_text().splitlines()
    return [json.loads(line)["losses"] for line in lines]


if __name__ == "__main__":
    _worker(int(sys.argv[2]), sys.argv[1])
