"""The curvature of an ordinary network: what is estimated of it, and where it says too little."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, jacrev

from clray import registry, trial
from clray.errors import BadSpec
from clray.methods.ewc import Ewc
from clray.methods.laplace import HEAD, REST, Laplace
from clray.models.curvature import Kronecker, Outputs, Rotated
from clray.models.label_losses import LabelLosses
from clray.models.per_example import cotangents_of
from clray.models.squared_loss import output_noise, squared_losses
from clray.spec import Component, TrialSpec
from clray.store import Folder
from clray.streams.examples import TensorExamples
from clray.task import Task

Build = Callable[..., Any]


def learn(learner: Laplace | Ewc, task: Task) -> None:
    learner.begin_task(task)
    learner.train_mode(True)
    for x, y in task.train.batches(8, seed=0):
        learner.observe(x, y, task)
    learner.end_task(task)


def weights(learner: Laplace | Ewc) -> Tensor:
    return torch.cat([p.detach().reshape(-1) for p in learner.model.parameters()])


def rebuilt(learner: Laplace, **changes: Any) -> Laplace:
    """The same one in another setup."""
    return Laplace(learner.config, dataclasses.replace(learner.setup, **changes))


def curvature(learner: Laplace, task: Task) -> dict[str, Any]:
    learner.train_mode(False)
    return learner.curvature_of(task)


def named(learner: Laplace, blocks: dict[str, Any]) -> dict[str, Tensor]:
    """The diagonal of all else, by parameter."""
    values = learner.penalty.parts[REST].unpack(blocks[REST].values)
    return dict(zip(learner.rest, values, strict=True))


@pytest.fixture
def exactly() -> Iterator[None]:
    """Numbers of double precision."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


# What elastic weight consolidation and this share.


@pytest.mark.parametrize("labels", ["empirical", "sampled", "exact"])
@pytest.mark.parametrize("examples", [None, 20])
def test_the_diagonal_is_the_importance_of_elastic_weight_consolidation(
    build: Build, tasks: list[Task], labels: str, examples: int | None
) -> None:
    """To the bit."""
    learner = build("laplace", curvature="diag", labels=labels, examples=examples)
    expected = build("ewc", importance=labels, examples=examples).importance_for(tasks[0])
    found = named(learner, curvature(learner, tasks[0]))
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


def test_with_weights_that_match_its_steps_are_those_of_elastic_weight_consolidation(
    build: Build, tasks: list[Task]
) -> None:
    """A strength of past_weight times the 5 tasks, and all over 3 after two of equal size."""
    mine = build("laplace", curvature="diag", labels="empirical", past_weight=2)
    other = build("ewc", strength=10)
    for task in tasks[:2]:
        learn(other, task)
        mine.model.load_state_dict(other.model.state_dict())
        mine.end_task(task)
    for p, same in zip(mine.model.parameters(), other.model.parameters(), strict=True):
        nn.init.normal_(p)
        same.data.copy_(p.data)
    before = weights(mine)
    x, y = next(tasks[2].train.batches(8))
    found, expected = (one.observe(x, y, tasks[2]) for one in (mine, other))
    torch.testing.assert_close(3 * found["penalty"], expected["penalty"])
    steps = [before - weights(one) for one in (mine, other)]
    torch.testing.assert_close(3 * steps[0], steps[1], rtol=1e-4, atol=1e-6)


def test_without_curvature_it_is_fine_tuning(build: Build, tasks: list[Task]) -> None:
    learners = build("laplace", curvature="none"), build("finetune")
    for learner in learners:
        for task in tasks:
            learn(learner, task)
    assert torch.equal(*map(weights, learners))
    assert learners[0].footprint() == learners[1].footprint()


# Factors.


def test_factors_of_one_example_are_its_curvature(
    build: Build, tasks: list[Task], exactly: None
) -> None:
    """Of a layer that is used at one place: the sum over labels of gradients times themselves."""
    x, y = (part[:1] for part in next(tasks[0].train.batches(50)))
    one = TensorExamples(x, y, torch.zeros(1, dtype=torch.int64))
    task = dataclasses.replace(tasks[0], train=one)
    learner = build("laplace", labels="exact")
    blocks = curvature(learner, task)
    assert blocks.keys() == {"encoder.1", "head"}
    log_p = learner.forward(x)[0].log_softmax(0)
    for name, block in blocks.items():
        part = learner.penalty.parts[name]
        gradients = [
            part.pack(torch.autograd.grad(value, part.parameters, retain_graph=True)) * p.sqrt()
            for value, p in zip(log_p, log_p.detach().exp(), strict=True)
        ]
        step = torch.randn_like(gradients[0])
        expected = torch.stack([g * (g * step).sum() for g in gradients]).sum(0)
        torch.testing.assert_close(block.times(step), expected)


@pytest.mark.parametrize("kind", ["tkfac", "ekfac"])
@pytest.mark.parametrize("loss", ["cross-entropy", "squared"])
def test_traces_are_those_of_the_diagonal(
    build: Build, tasks: list[Task], kind: str, loss: str, exactly: None
) -> None:
    knobs = {"labels": "exact", "noise": "exact", "loss": loss}
    learner = build("laplace", curvature="diag", **knobs)
    expected = named(learner, curvature(learner, tasks[0]))
    block = curvature(build("laplace", curvature=kind, **knobs), tasks[0])["encoder.1"]
    assert isinstance(block, Kronecker | Rotated)
    values = block.trace if isinstance(block, Kronecker) else block.moments
    assert values is not None
    layer = sum(value.sum() for name, value in expected.items() if name.startswith("encoder.1"))
    torch.testing.assert_close(values.sum(), layer)


def resnet(learner: Laplace) -> Laplace:
    """On a network with normalisation."""
    torch.manual_seed(0)
    model = registry.configure("model", Component(name="slim_resnet18")).build("", (1, 6, 6), 4)
    return rebuilt(learner, model=model)


@pytest.mark.parametrize("loss", ["cross-entropy", "squared"])
@pytest.mark.parametrize("kind", ["diag", "kfac"])
def test_each_parameter_is_pulled_once(build: Build, kind: str, loss: str) -> None:
    learner = resnet(build("laplace", curvature=kind, loss=loss))
    pulled = [id(p) for part in learner.penalty.parts.values() for p in part.parameters]
    assert sorted(pulled) == sorted(id(p) for p in learner.model.parameters())


@pytest.mark.parametrize("kind", ["diag", "kfac"])
def test_a_parameter_that_does_not_learn_is_not_pulled(
    build: Build, tasks: list[Task], kind: str
) -> None:
    learner = build("laplace", curvature=kind)
    learner.model.encoder[1].weight.requires_grad_(False)
    learner = rebuilt(learner)
    learn(learner, tasks[0])
    pulled = [p for part in learner.penalty.parts.values() for p in part.parameters]
    assert sum(p.numel() for p in pulled) == 660 - 36 * 16
    assert "encoder.1.bias" in learner.rest


def test_scales_and_shifts_have_a_diagonal(build: Build, tasks: list[Task]) -> None:
    learner = resnet(build("laplace", labels="exact", examples=10))
    norms = {n for n, m in learner.model.named_modules() if isinstance(m, nn.BatchNorm2d)}
    assert {name.rpartition(".")[0] for name in learner.rest} == norms
    state = learner.setup.generator.get_state()
    found = named(learner, curvature(learner, tasks[0]))
    learner.setup.generator.set_state(state)
    config = registry.configure("method", Component(name="ewc", importance="exact", examples=10))
    expected = Ewc(config, learner.setup).importance_for(tasks[0])
    for name, value in found.items():
        assert torch.equal(value, expected[name]), name


def test_a_network_that_mixes_examples_is_refused(build: Build) -> None:
    learner = build("laplace")
    learner.model.encoder.append(nn.BatchNorm1d(16, track_running_stats=False))
    with pytest.raises(BadSpec, match="accepted: running statistics"):
        rebuilt(learner)


@pytest.mark.parametrize(
    ("knobs", "numbers"),
    [
        ({"curvature": "diag"}, 660),
        ({"curvature": "kfac"}, 37**2 + 16**2 + 17**2 + 4**2),
        ({"curvature": "tkfac"}, 37**2 + 16**2 + 1 + 17**2 + 4**2 + 1),
        ({"curvature": "ekfac"}, 2 * (37**2 + 16**2 + 17**2 + 4**2) + 660),
        ({"curvature": "kfac", "accumulate": "sum"}, 2 * (37**2 + 16**2 + 17**2 + 4**2)),
        ({"curvature": "kfac", "loss": "squared"}, 37**2 + 16**2 + 17**2 + 1),  # and 4 truths
        ({"curvature": "diag", "loss": "squared"}, 660 - 68 + 17 + 1),
    ],
)
def test_footprint_counts_curvature_and_centres(
    build: Build, tasks: list[Task], knobs: dict[str, Any], numbers: int
) -> None:
    """Of 37 x 16 and 17 x 4 weights, after two tasks."""
    learner = build("laplace", past_weight=0, **knobs)
    for task in tasks[:2]:
        learn(learner, task)
    kept = learner.footprint()
    assert kept["parameters"] == 660
    assert kept["bytes"] == 4 * (2 * 660 + numbers)


# Where the theory does not hold.


def test_curvature_of_cross_entropy_is_bounded_by_twice_the_loss() -> None:
    """At the output; a squared loss has 1 for each class, whatever was learned."""
    torch.manual_seed(0)
    spread = torch.logspace(-2, 2, 2000).unsqueeze(1)
    logits, y = torch.randn(2000, 7) * spread, torch.randint(7, (2000,))
    every = torch.ones(2000, 7, dtype=torch.bool)
    fisher = LabelLosses("exact", every, y, torch.rand(2000))
    found = torch.stack(cotangents_of(fisher)(logits)).square().sum((0, 2))
    p = logits.softmax(1)
    torch.testing.assert_close(found, 1 - p.square().sum(1), rtol=1e-4, atol=1e-5)
    assert (found <= 2 * F.cross_entropy(logits, y, reduction="none") + 1e-5).all()
    ones = output_noise("exact", 2000, slice(0, 2000), every, torch.Generator())
    assert (torch.stack(ones).square().sum((0, 2)) == 7).all()


@pytest.mark.parametrize("loss", ["cross-entropy", "squared"])
def test_curvature_of_cross_entropy_vanishes_as_a_task_is_learned(
    build: Build, tasks: list[Task], loss: str
) -> None:
    """Measured: from 2.4 to 0.02 while the loss falls from 1.4 to 0.00003; squared, 7.9 to 57."""
    knobs = {"labels": "exact", "noise": "exact", "target_scale": 1.0}
    learner = build("laplace", curvature="diag", loss=loss, **knobs)
    learner.optimizer = torch.optim.Adam(learner.model.parameters(), 0.01)
    x, y = next(tasks[0].train.batches(50))
    losses, traces = [], []
    for steps in (1, 3000):
        learner.train_mode(True)
        for _ in range(steps):
            out = learner.observe(x, y, tasks[0])
        losses.append(float(out["loss"]))
        found = named(learner, curvature(learner, tasks[0]))
        traces.append(sum(float(value.sum()) for value in found.values()))
    assert losses[1] < 0.001 * losses[0]
    if loss == "squared":
        assert traces[1] > traces[0]
    else:
        assert traces[1] < 0.01 * traces[0]


@pytest.mark.parametrize(
    ("loss", "linear", "exact"),
    [
        ("squared", True, True),
        ("squared", False, False),
        ("cross-entropy", True, False),
        ("cross-entropy", False, False),
    ],
)
def test_a_quadratic_is_the_loss_only_where_all_is_linear_and_squared(
    build: Build, tasks: list[Task], loss: str, linear: bool, exact: bool, exactly: None
) -> None:
    """Far from the weights, with all of the curvature: no approximation is to blame."""
    learner = build("laplace", linear=linear, loss=loss)
    learn(learner, tasks[0])
    x, y = next(tasks[0].train.batches(50))
    x = learner.setup.prepare(x)
    every = torch.ones(50, 4, dtype=torch.bool)
    at = weights(learner)

    def logits(flat: Tensor) -> Tensor:
        sizes = [p.numel() for p in learner.model.parameters()]
        pieces = zip(learner.model.named_parameters(), torch.split(flat, sizes), strict=True)
        values = {name: piece.view_as(p) for (name, p), piece in pieces}
        found: Tensor = functional_call(learner.model, values, (x,))
        return found

    def mean_loss(flat: Tensor) -> Tensor:
        out = logits(flat)
        if loss == "squared":
            return squared_losses(out, y, every, 15.0).mean()
        return F.cross_entropy(out, y)

    p = logits(at).softmax(1)
    inner = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
    if loss == "squared":
        inner = torch.eye(4).expand(50, 4, 4)
    jacobian = jacrev(logits)(at)
    whole = torch.einsum("bcp,bcd,bdq->pq", jacobian, inner, jacobian) / 50
    step = torch.randn(len(at), generator=torch.Generator().manual_seed(0))
    gradient = jacrev(mean_loss)(at)
    expected = gradient @ step + step @ whole @ step / 2
    found = mean_loss(at + step) - mean_loss(at)
    error = float((found - expected).abs() / found.abs())
    assert error < 1e-9 if exact else error > 0.1
    if exact:  # and nothing is left to approximate of it
        nn.utils.vector_to_parameters(at + step, learner.model.parameters())
        torch.testing.assert_close(learner.penalty(1.0, 0.0) / 50, step @ whole @ step / 2)


def test_new_classes_of_a_squared_loss_begin_at_zero_and_are_held(
    build: Build, tasks: list[Task]
) -> None:
    learner = rebuilt(build("laplace", loss="squared"), scenario="class-incremental")
    head = learner.model.get_submodule(HEAD)
    assert isinstance(head, nn.Linear)
    x, y = next(tasks[0].train.batches(50))
    few = TensorExamples(x, y % 2, torch.arange(50))
    learner.rivals[:] = torch.arange(4) < 2
    learner.begin_task(dataclasses.replace(tasks[0], classes=(0, 1)))
    assert not any(p.any() for p in head.parameters())
    learn(learner, dataclasses.replace(tasks[0], classes=(0, 1), train=few))
    learner.rivals[:] = torch.arange(4) < 3
    before = learner.penalty.blocks[HEAD]
    assert isinstance(before, Outputs)
    assert before.rows.tolist() == [True, True, False, False]
    learner.begin_task(dataclasses.replace(tasks[1], classes=(2,)))
    assert head.weight[:2].any()
    block = learner.penalty.blocks[HEAD]
    assert isinstance(block, Outputs)
    assert block.rows.tolist() == [True, True, True, False]
    assert not any(p[2:].any() for p in head.parameters())
    step = torch.randn(16)
    with torch.no_grad():
        features = learner.features(x)
        for unit, pulled in ((2, True), (3, False)):
            head.weight[unit] = step
            head.bias[unit] = 0.5
            expected = (features @ step + 0.5).square().sum() / 2 if pulled else torch.zeros(())
            torch.testing.assert_close(learner.penalty(1.0, 0.0), expected)
            head.weight[unit] = head.bias[unit] = 0


def test_heads_of_tasks_of_their_own_are_layers_like_others(build: Build) -> None:
    learner = rebuilt(build("laplace", loss="squared"), scenario="task-incremental")
    assert learner.layers == ["encoder.1", HEAD]
    assert not learner.exact_head


def digits(folder: Path, method: dict[str, Any]) -> float:
    """Accuracy on all digits after five tasks of two, class-incremental."""
    spec = {
        "method": {"name": "laplace", **method},
        "benchmark": {"name": "split-digits", "num_tasks": 5, "scenario": "class-incremental"},
        "model": {"name": "mlp", "hidden": [64]},
        "protocol": {"epochs": 20, "batch_size": 32},
        "optimizer": {"name": "adam", "lr": 0.003},
    }
    done = trial.run(registry.complete(TrialSpec.model_validate(spec)), Folder(str(folder / "t")))
    found = done.metrics["average_accuracy"]
    assert found is not None
    return found


@pytest.mark.parametrize("kind", ["diag", "kfac"])
def test_cross_entropy_keeps_the_last_task_alone(kind: str, tmp_path: Path) -> None:
    """Measured: 0.19; a fifth of 0.96, as without any penalty."""
    assert digits(tmp_path, {"curvature": kind}) < 0.25


def test_a_squared_loss_keeps_some(tmp_path: Path) -> None:
    """Measured: 0.64, 0.28 at a weight of 1, 0.19 without; all tasks at once reach 0.96."""
    assert digits(tmp_path, {"loss": "squared", "past_weight": 30}) > 0.5
