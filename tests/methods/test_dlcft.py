"""Linearised, with a squared loss and the full curvature, one task after another is all at once."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from clray import registry, trial
from clray.errors import BadSpec
from clray.methods.dlcft import WHOLE
from clray.models.curvature import Outputs
from clray.models.linearised_learner import HEAD, LinearisedLearner
from clray.spec import Component, TrialSpec
from clray.store import Folder
from clray.task import Task
from tests.methods.conftest import Build
from tests.methods.exact_learning import (
    SHAPE,
    begin,
    joined,
    learn,
    loss_of,
    solve,
    steps,
    tasks_of,
)

SIZES = [25, 40, 60]
IN_CLASSES = [(0, 1), (2,), (3,)]
LINEAR: dict[str, Any] = {"head": "linearised", "ridge": 1e-2, "slope": 0.1}


@pytest.fixture(autouse=True)
def in_float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def small(
    build: Build, method: str, scenario: str, *, setting: dict[str, Any] | None = None, **knobs: Any
) -> LinearisedLearner:
    """A learner for ``exact_learning``'s tasks, with 89 weights."""
    given = {"image_shape": SHAPE, "num_examples": sum(SIZES), "scenario": scenario}
    learner = build(method, hidden=(5, 5), setting={**given, **(setting or {})}, **knobs)
    assert isinstance(learner, LinearisedLearner)
    return learner


def distance(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).norm() / wanted.norm())


@pytest.mark.parametrize(
    ("scenario", "classes"), [("data-incremental", None), ("class-incremental", IN_CLASSES)]
)
def test_learning_in_any_order_is_joint_learning(
    build: Build, scenario: str, classes: list[tuple[int, ...]] | None
) -> None:
    tasks = tasks_of(SIZES, classes=classes)
    joint = learn(small(build, "joint_linear", scenario, **LINEAR), [joined(tasks)])
    for order in itertools.permutations(tasks):
        learner = small(build, "dlcft", scenario, curvature="full", **LINEAR)
        assert distance(learn(learner, list(order)), joint) < 1e-10


@pytest.mark.parametrize("changes", [{"damping": 1e-2}, {"past_weight": 0.5}, {"examples": 10}])
def test_what_the_theory_does_not_allow_shows(build: Build, changes: dict[str, Any]) -> None:
    tasks = tasks_of(SIZES)
    joint = learn(small(build, "joint_linear", "data-incremental", **LINEAR), [joined(tasks)])
    knobs = {**LINEAR, "curvature": "full", **changes}
    assert distance(learn(small(build, "dlcft", "data-incremental", **knobs), tasks), joint) > 1e-2


def test_a_ridge_that_is_counted_for_each_task_shows(build: Build) -> None:
    tasks = tasks_of(SIZES)
    joint = learn(small(build, "joint_linear", "data-incremental", **LINEAR), [joined(tasks)])
    learner = small(build, "dlcft", "data-incremental", curvature="full", **LINEAR)
    for index, task in enumerate(tasks):
        learn(learner, [task])
        learner.ridge = LINEAR["ridge"] * (index + 2)
    assert distance(steps(learner), joint) > 1e-2


@pytest.mark.parametrize("curvature", ["kfac", "tkfac", "ekfac", "full"])
def test_a_growing_linear_head_is_joint_ridge_regression(build: Build, curvature: str) -> None:
    tasks = tasks_of(SIZES, classes=IN_CLASSES)
    knobs: dict[str, Any] = {"linear": True, "ridge": 1e-2}
    joint = learn(small(build, "joint_linear", "class-incremental", **knobs), [joined(tasks)])
    learner = small(build, "dlcft", "class-incremental", curvature=curvature, **knobs)
    assert distance(learn(learner, tasks), joint) < 1e-10


def test_outputs_that_join_unheld_cost_a_third(build: Build) -> None:
    tasks = tasks_of(SIZES, classes=IN_CLASSES)
    knobs: dict[str, Any] = {"linear": True, "ridge": 1e-2}
    joint = learn(small(build, "joint_linear", "class-incremental", **knobs), [joined(tasks)])
    learner = small(build, "dlcft", "class-incremental", curvature="kfac", **knobs)
    for index, task in enumerate(tasks):
        begin(learner, tasks[: index + 1])
        head = learner.penalty.blocks.get(HEAD)
        if isinstance(head, Outputs):
            old = torch.zeros(4, dtype=torch.bool)
            old[[label for before in tasks[:index] for label in before.classes]] = True
            learner.penalty.blocks[HEAD] = Outputs(old, head.inputs)
        solve(learner, task)
        learner.end_task(task)
    assert distance(steps(learner), joint) > 0.05


@pytest.mark.parametrize("head", ["bilinear", "linearised"])
def test_the_quadratic_of_an_old_task_holds_however_far_one_goes(build: Build, head: str) -> None:
    tasks = tasks_of(SIZES[:2], classes=[(0, 1), (2, 3)])
    learner = small(build, "dlcft", "task-incremental", curvature="full", head=head)
    begin(learner, tasks[:1])
    backbone = [p for part in learner.parts().values() for p in part.parameters]
    backbone = backbone if head == "linearised" else backbone[:-2]
    centre = torch.randn(sum(p.numel() for p in backbone))
    _put(backbone, centre)
    learner.end_task(tasks[0])
    curvature = learner.penalty.blocks[WHOLE].tensors[0][0]
    loss = loss_of(learner, tasks[0])
    gradient = torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, backbone)])
    for _ in range(3):
        step = 100 * torch.randn_like(centre)
        _put(backbone, centre + step)
        expected = loss.detach() + gradient @ step + step @ curvature @ step / 2
        found = loss_of(learner, tasks[0]).detach()
        assert float(found) == pytest.approx(float(expected.detach()), rel=1e-9)


def test_the_more_of_the_curvature_is_kept_the_less_is_lost(build: Build) -> None:
    lost: dict[str, list[float]] = {kind: [] for kind in ("full", "kfac", "diag", "none")}
    for seed in range(20):
        tasks = tasks_of([20] * 4, seed=seed)
        whole = joined(tasks)
        knobs = {**LINEAR, "ridge": 1e-4, "setting": {"num_examples": 80}}
        joint = small(build, "joint_linear", "data-incremental", **knobs)
        learn(joint, [whole])
        least = float(loss_of(joint, whole).detach())
        for kind, found in lost.items():
            learner = small(
                build, "dlcft", "data-incremental", curvature=kind, noise="exact", **knobs
            )
            learn(learner, tasks)
            found.append(float(loss_of(learner, whole).detach()) - least)
        assert abs(lost["full"][-1]) < 1e-6 * least
    medians = [statistics.median(found) for found in lost.values()]
    assert medians == sorted(medians)
    assert medians[1] < 0.7 * medians[2] < 0.5 * medians[3]


def test_adam_comes_to_the_same_minimum(build: Build) -> None:
    tasks = tasks_of(SIZES)
    exact = small(build, "dlcft", "data-incremental", curvature="full", **LINEAR)
    learn(exact, tasks)
    learner = small(
        build, "dlcft", "data-incremental", curvature="full", setting={"optimizer": adam}, **LINEAR
    )
    first = float(loss_of(learner, joined(tasks)).detach())
    for index, task in enumerate(tasks):
        begin(learner, tasks[: index + 1])
        learner.optimizer.state.clear()
        learner.num_steps = 400
        ((x, y),) = task.train.batches(len(task.train))
        for _ in range(learner.num_steps):
            learner.observe(x, y, task)
        learner.end_task(task)
    least = float(loss_of(exact, joined(tasks)).detach())
    assert float(loss_of(learner, joined(tasks)).detach()) - least < 0.01 * (first - least)


def test_an_old_head_is_never_touched(build: Build) -> None:
    tasks = tasks_of(SIZES[:2], classes=[(0, 1), (2, 3)])
    for curvature in ("none", "tkfac"):
        for head in ("bilinear", "linearised"):
            learner = small(
                build,
                "dlcft",
                "task-incremental",
                curvature=curvature,
                head=head,
                setting={"optimizer": adam},
            )
            rows = []
            for index, task in enumerate(tasks):
                begin(learner, tasks[: index + 1])
                learner.optimizer.state.clear()
                for x, y in task.train.batches(8):
                    learner.observe(x, y, task)
                learner.end_task(task)
                parameters = list(learner.parts().values())[-1].parameters
                rows.append([p[:2].detach().clone() for p in parameters])
            assert all(torch.equal(a, b) for a, b in zip(*rows, strict=True))
            assert any(p[2:].any() for p in parameters)


def test_what_is_kept_does_not_grow_unless_asked_to(build: Build) -> None:
    tasks = tasks_of(SIZES)
    sizes: dict[str, list[int]] = {}
    for accumulate in ("factors", "sum"):
        learner = small(build, "dlcft", "data-incremental", accumulate=accumulate)
        sizes[accumulate] = []
        for index in range(len(tasks)):
            begin(learner, tasks[: index + 1])
            learner.end_task(tasks[index])
            sizes[accumulate].append(learner.footprint()["bytes"])
    first, *later = sizes["factors"]
    assert later == [first, first]
    one, two, three = sizes["sum"]
    assert two - one == three - two > 0


def test_a_network_can_be_linearised_where_the_first_task_ends(build: Build) -> None:
    tasks = tasks_of(SIZES)
    learner = small(
        build, "dlcft", "data-incremental", anchor="first-task", setting={"optimizer": adam}
    )
    encoder = learner.setup.model.get_submodule("encoder")
    anchors = []
    for index, task in enumerate(tasks):
        begin(learner, tasks[: index + 1])
        before = [p.clone() for p in encoder.parameters()]
        for x, y in task.train.batches(8):
            learner.observe(x, y, task)
        learner.end_task(task)
        after = list(encoder.parameters())
        anchors.append(all(torch.equal(a, b) for a, b in zip(before, after, strict=True)))
        assert learner.linear
        assert steps(learner).any()
    assert anchors == [False, True, True]


def test_the_first_task_says_what_a_leak_has_done(build: Build) -> None:
    tasks = tasks_of(SIZES)
    found = []
    for slope in (0.0, 0.01, 0.5):
        learner = small(build, "dlcft", "data-incremental", slope=slope)
        begin(learner, tasks[:1])
        found.append(learner.end_task(tasks[0]))
    assert found[0] is None
    small_leak, large_leak = (facts for facts in found[1:] if facts is not None)
    assert small_leak["leaks"] == 2
    assert 0 < small_leak["features_moved"] < 0.1 < large_leak["features_moved"]
    assert small_leak["probe_without_leak"] == large_leak["probe_without_leak"]


@pytest.mark.parametrize("fold_norms", [True, False])
def test_statistics_and_weights_of_the_network_never_change(
    build: Build, fold_norms: bool, tasks: list[Task]
) -> None:
    model = registry.configure("model", Component(name="slim_resnet18")).build("", (1, 6, 6), 4)
    learner = build("dlcft", fold_norms=fold_norms, setting={"model": model})
    before = {name: value.clone() for name, value in model.encoder.state_dict().items()}
    assert any("running_mean" in name for name in before) != fold_norms
    learner.train_mode(True)
    learner.begin_task(tasks[0])
    learner.observe(*next(iter(tasks[0].train.batches(8))), tasks[0])
    after = model.encoder.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_classes_that_come_later_leave_old_ones_known(tmp_path: Path) -> None:
    torch.set_default_dtype(torch.float32)
    accuracies: dict[str, float] = {}
    for curvature in ("none", "kfac"):
        spec = TrialSpec.model_validate(
            {
                "method": {"name": "dlcft", "curvature": curvature},
                "benchmark": {"name": "split-digits", "scenario": "class-incremental"},
                "model": {"name": "mlp", "hidden": [64]},
                "protocol": {"epochs": 20, "batch_size": 32},
                "optimizer": {"name": "adam", "lr": 0.003, "reset": True},
            }
        )
        outcome = trial.run(registry.complete(spec), Folder(str(tmp_path / curvature / "trial")))
        accuracies[curvature] = outcome.metrics["average_accuracy"] or 0
    assert accuracies["none"] < 0.25  # the last of five tasks alone
    assert accuracies["kfac"] > accuracies["none"] + 0.15


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"optimizer": "decaying"}, "weight_decay"),
        ({"hidden": (200, 200), "curvature": "full"}, "5000 weights at most"),
    ],
)
def test_what_cannot_be_is_refused(build: Build, knobs: dict[str, Any], message: str) -> None:
    setting = {"optimizer": decaying} if knobs.pop("optimizer", None) else {}
    with pytest.raises(BadSpec, match=message):
        build("dlcft", setting=setting, **knobs)


def adam(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, 0.1)


def decaying(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, 0.1, weight_decay=1e-4)


def _put(parameters: list[nn.Parameter], values: Tensor) -> None:
    pieces = torch.split(values, [p.numel() for p in parameters])
    with torch.no_grad():
        for p, piece in zip(parameters, pieces, strict=True):
            p.copy_(piece.view_as(p))
