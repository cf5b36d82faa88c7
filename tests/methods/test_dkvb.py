"""The discrete key-value bottleneck: no tasks, no order, and what the regime number says."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from clray import registry, trial
from clray.errors import BadInput, BadSpec
from clray.events import ignore
from clray.learner import Learner
from clray.methods.dkvb import Dkvb
from clray.outcome import Outcome
from clray.spec import Component, TrialSpec
from clray.store import Folder
from clray.streams import building
from clray.task import Task
from tests.methods.conftest import Build, needs_no_boundaries

SMALL = {"codebooks": 16, "pairs": 16, "key_dim": 4, "key_epochs": 2, "key_batch": 50}


@pytest.fixture
def small(build: Build) -> Build:
    """Builds the learner with few keys."""

    def built(**knobs: Any) -> Learner:
        return build("dkvb", linear=True, **{**SMALL, **knobs})

    return built


def weights(learner: Learner) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in learner.model.state_dict().items()}


def same(one: dict[str, Tensor], two: dict[str, Tensor]) -> bool:
    assert one.keys() == two.keys()
    return all(torch.equal(value, two[name]) for name, value in one.items())


@pytest.mark.parametrize("knobs", [{}, {"values": "counted"}, {"plasticity": 3.0}])
def test_it_does_not_matter_whether_it_is_told_where_tasks_begin(
    small: Build, tasks: list[Task], knobs: dict[str, Any]
) -> None:
    assert needs_no_boundaries(partial(small, **knobs), tasks)


def test_counts_know_no_order_and_no_batches(small: Build, tasks: list[Task]) -> None:
    """Bit for bit: keys from the same examples, then any order and any batch size."""
    found = []
    for order, size in (((0, 1, 2), 8), ((2, 0, 1), 50)):
        learner = small(values="counted")
        learner.begin_task(tasks[0])
        for index in order:
            for x, y in tasks[index].train.batches(size, seed=size):
                learner.observe(x, y, tasks[index])
        found.append(weights(learner))
    assert same(*found)


def test_only_selected_values_change(small: Build, tasks: list[Task]) -> None:
    learner = small()
    assert isinstance(learner, Dkvb)
    learner.begin_task(tasks[0])
    before = weights(learner)
    chosen = torch.zeros(16, 16, dtype=torch.bool)
    for x, y in tasks[0].train.batches(8, seed=0):
        codes = learner.bottleneck.codes(learner.features(x))
        chosen[torch.arange(16)[None, :, None], codes] = True
        learner.observe(x, y, tasks[0])
    after = weights(learner)
    changed = [name for name, value in before.items() if not torch.equal(value, after[name])]
    assert changed == ["head.used", "head.table.values"]
    assert torch.equal(after["head.table.values"].ne(0).any(1), chosen.flatten())
    assert torch.equal(after["head.used"], chosen)


@pytest.mark.parametrize("knobs", [{}, {"plasticity": 3.0}])
def test_a_closed_step_is_the_step_of_plain_sgd(
    small: Build, tasks: list[Task], knobs: dict[str, Any]
) -> None:
    learners = [small(value_spread=0.3, **knobs) for _ in range(2)]
    learners[1]._rate = lambda: None  # type: ignore[attr-defined]  # through autograd
    found = []
    for learner in learners:
        learner.begin_task(tasks[0])
        losses = [learner.observe(x, y, tasks[0])["loss"] for x, y in tasks[0].train.batches(8)]
        found.append((torch.stack(losses), weights(learner)["head.table.values"]))
    torch.testing.assert_close(found[0], found[1], atol=1e-6, rtol=1e-5)


def test_the_mask_routes_to_used_keys_alone(small: Build, tasks: list[Task]) -> None:
    learner = small()
    assert isinstance(learner, Dkvb)
    learner.begin_task(tasks[0])
    bottleneck = learner.bottleneck
    probe = learner.features(next(iter(tasks[0].train.batches(50)))[0])
    bottleneck.eval()
    assert not bottleneck.codes(probe).any()  # nothing was used yet
    bottleneck.used[:, 3:7] = True
    assert set(bottleneck.codes(probe).flatten().tolist()) <= set(range(3, 7))
    before = bottleneck.codes(probe)
    bottleneck.used[:, 7:] = True  # a later task uses other keys, and re-routes old examples
    assert not torch.equal(bottleneck.codes(probe), before)
    bottleneck.mask_unused = False
    unmasked = bottleneck.codes(probe)
    bottleneck.used.zero_()
    assert torch.equal(bottleneck.codes(probe), unmasked)


def test_more_than_one_key_and_a_linear_decoder(small: Build, tasks: list[Task]) -> None:
    for knobs in (
        {"top": 2},
        {"decoder": "linear", "value_width": 8, "plasticity": 30.0},
        {"decoder": "linear", "value_width": 8, "decoder_learns": True, "value_spread": 0.1},
    ):
        learner = small(**knobs)
        assert isinstance(learner, Dkvb)
        learner.begin_task(tasks[0])
        decoder = learner.bottleneck.decoder
        drawn = None if decoder is None else decoder.detach().clone()
        losses = []
        for epoch in range(30):
            for x, y in tasks[0].train.batches(50, seed=0, epoch=epoch):
                losses.append(float(learner.observe(x, y, tasks[0])["loss"]))
        assert losses[-1] < losses[0]
        if drawn is not None and decoder is not None:
            assert torch.equal(drawn, decoder) == (not knobs.get("decoder_learns"))


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"values": "counted", "decoder": "linear"}, "decoder: voting"),
        ({"top": 17}, "at most 16, as many as pairs"),
        ({"projection": "chunk", "codebooks": 7}, "codebooks"),
        ({"key_source": "nowhere"}, "key_source: got 'nowhere'; accepted: first-task, the address"),
        ({"key_source": "first-taks"}, "Did you mean 'first-task'"),
        ({"pairs": 40000}, "pairs"),
        ({"plasticity": 0}, "plasticity"),
        ({"plasticity": 1, "optimizer": "adam"}, "sgd without momentum"),
    ],
)
def test_bad_knobs(knobs: dict[str, Any], message: str, tmp_path: Path) -> None:
    optimizer = {"name": knobs.get("optimizer", "sgd")}
    own = {name: value for name, value in knobs.items() if name != "optimizer"}
    with pytest.raises(BadInput, match=message):
        run(digits({**SMALL, **own}, optimizer=optimizer), tmp_path)


# Through the frame.


def digits(knobs: dict[str, Any], **others: Any) -> TrialSpec:
    """Split-Digits, 5 tasks of 2 classes, from pixels."""
    plain = {
        "method": {"name": "dkvb", **knobs},
        "benchmark": "split-digits",
        "model": {"name": "mlp", "hidden": []},
        "protocol": {"epochs": 1, "batch_size": 64, "head": "fixed"},
        "optimizer": {"lr": 0.3},
        **others,
    }
    return registry.complete(TrialSpec.model_validate(plain))


def run(spec: TrialSpec, path: Path) -> Outcome:
    return trial.run(spec, Folder(str(path / spec.key)))


def test_the_published_regime_is_a_vote_of_counts(tmp_path: Path) -> None:
    """Up to near-ties; and no order of tasks, nor cutting the data into tasks, matters."""
    knobs = {"codebooks": 64, "pairs": 32, "key_dim": 8, "key_source": "unit-cube", "key_seed": 0}
    knobs = {**knobs, "key_batch": 64, "key_epochs": 20}
    orders = [
        {"name": "split-digits", "task_order": order} for order in ("natural", [4, 2, 0, 1, 3])
    ]
    whole = {"name": "split-digits", "num_tasks": 1}
    found = {}
    for values in ("trained", "counted"):
        for index, benchmark in enumerate([*orders, whole]):
            spec = digits({**knobs, "values": values}, benchmark=benchmark, split="test")
            outcome = run(spec, tmp_path)
            found[values, index] = outcome.metrics["average_accuracy"]
            assert 0 <= outcome.records[-1]["facts"]["plasticity"] < 0.01
    accuracies = [accuracy for accuracy in found.values() if accuracy is not None]
    assert len(accuracies) == 6
    assert min(accuracies) > 0.8
    assert max(accuracies) - min(accuracies) < 0.01
    assert found["counted", 0] == found["counted", 1]


def test_plasticity_is_the_dial_between_old_and_new(tmp_path: Path) -> None:
    """Small s: the order does not matter; large s: shuffled data gain, and a stream loses."""
    knobs = {"codebooks": 32, "pairs": 16, "key_dim": 8, "key_source": "unit-cube", "key_seed": 0}
    knobs = {**knobs, "key_batch": 64, "key_epochs": 20}
    found: dict[tuple[float, int], float] = {}
    for plasticity in (0.1, 500.0):
        for num_tasks in (5, 1):
            spec = digits(
                {**knobs, "plasticity": plasticity},
                benchmark={"name": "split-digits", "num_tasks": num_tasks},
                protocol={"epochs": 10, "batch_size": 32, "head": "fixed"},
            )
            outcome = run(spec, tmp_path)
            assert outcome.records[-1]["facts"]["plasticity"] == pytest.approx(plasticity)
            found[plasticity, num_tasks] = outcome.metrics["average_accuracy"] or 0
    assert found[500.0, 5] < found[0.1, 5] - 0.05
    assert found[500.0, 1] > found[0.1, 1] + 0.02


@pytest.mark.parametrize(
    "books",
    [
        {"codebooks": 1, "pairs": 400, "projection": "chunk"},
        {"codebooks": 20, "pairs": 20, "key_dim": 2},
    ],
    ids=["one", "twenty"],
)
def test_classes_of_the_plane_are_all_kept(books: dict[str, Any], tmp_path: Path) -> None:
    """The paper's toy, at its regime number, in a fiftieth of its passes."""
    keys = {"key_source": "unit-cube", "key_batch": 100, "key_epochs": 1000}
    spec = digits(
        {**books, **keys, "plasticity": 3.0, "smoothing": 0.0},
        benchmark="plane",
        protocol={"epochs": 20, "batch_size": 100, "head": "fixed"},
        split="test",
    )
    assert (run(spec, tmp_path).metrics["average_accuracy"] or 0) >= 0.99


def test_a_model_that_learns_its_encoder_is_refused() -> None:
    network = {"name": "mlp", "hidden": [32]}
    with pytest.raises(BadSpec, match=r"for method dkvb.*a frozen encoder"):
        digits(SMALL, model=network)
    later = [{"task": 1, "method": {"name": "ncm"}}]
    with pytest.raises(BadSpec, match=r"for method ncm.*a frozen encoder"):
        digits({}, method="finetune", model=network, changes=later)


@pytest.mark.slow
@pytest.mark.skipif("CLRAY_DATA" not in os.environ, reason="CLRAY_DATA is not set")
def test_digits_from_pixels_as_measured_elsewhere(tmp_path: Path) -> None:
    """A third of MNIST, five tasks: 0.904 with independent code, and the same without tasks."""
    name = Component(name="split-mnist", dataset="parquet:$CLRAY_DATA/mnist", train_fraction=0.34)
    config = registry.configure("benchmark", name)
    plan: dict[str, Any] = {"seed": 0, "validation_fraction": 0.1, "on_bad_row": "error"}
    stream = str(tmp_path / "stream")
    building.build(config, "split-mnist", stream, **plan, watch=ignore)
    found = []
    for at_once in (1, 5):
        spec = digits(
            {"codebooks": 64, "pairs": 256, "key_epochs": 2, "key_source": stream},
            benchmark={"stream": stream, "tasks_at_once": at_once},
            protocol={"epochs": 1, "batch_size": 256, "head": "fixed"},
            split="test",
        )
        found.append(run(spec, tmp_path).metrics["average_accuracy"] or 0)
    assert found[0] == pytest.approx(0.904, abs=0.01)
    assert abs(found[0] - found[1]) < 0.01
