"""Gates: how they anneal, what they cost, what they protect, and that nothing is forgotten."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from clray.errors import BadSpec
from clray.methods.hat import HAT, compensation
from tests.methods.conftest import Build
from tests.methods.own_rows import (
    BATCH,
    CASES,
    Optimizer,
    answers,
    chain_learner,
    forgets_nothing,
    learn,
    network,
    split_tasks,
    steps,
)


def hat(build: Build, name: str = "mlp", **knobs: Any) -> HAT:
    learner = chain_learner(build, "hat", name, knobs)
    assert isinstance(learner, HAT)
    return learner


@pytest.mark.parametrize(("name", "optimizer"), CASES)
def test_answers_on_earlier_tasks_stay_to_the_bit(
    build: Build, name: str, optimizer: Optimizer
) -> None:
    learner = hat(build, name, setting={"optimizer": optimizer})
    assert forgets_nothing(learner, split_tasks())


def test_soft_gates_leak_a_little(build: Build) -> None:
    first, second, _ = split_tasks()
    learner = hat(build, "lenet", gates="soft", max_scale=10.0)
    learn(learner, first)
    before = answers(learner, [first])[0]
    learn(learner, second)
    after = answers(learner, [first])[0]
    assert not torch.equal(before, after)
    assert torch.allclose(before, after, atol=0.05)
    gate = learner.chain.gates[0]
    both = torch.stack([gate.kept("0"), gate.kept("1")])
    assert torch.equal(gate.attended, both.amax(0))
    assert ((both > 0) & (both < 1)).all()


def test_weights_between_units_of_earlier_tasks_stay_and_others_learn(build: Build) -> None:
    learner = hat(build, "normalised", setting={"optimizer": CASES[2][1]})
    first, second, _ = split_tasks()
    learn(learner, first)
    encoder = dict(learner.model.get_submodule("encoder").named_parameters())
    before = {name: p.detach().clone() for name, p in encoder.items()}
    conv1, conv2, hidden = (gate.kept("0") == 1 for gate in learner.chain.gates)
    places = 2 * 2  # of each plane, where it is flattened
    still = {
        "0.weight": conv1[:, None, None, None].expand(4, 1, 5, 5),
        "4.weight": (conv2[:, None] & conv1)[..., None, None].expand(6, 4, 5, 5),
        "9.weight": hidden[:, None] & conv2[:, None].expand(6, places).reshape(-1),
        **{f"{layer}.bias": conv1 for layer in (0, 1)},
        **{f"{layer}.bias": conv2 for layer in (4, 5)},
        **{f"{layer}.bias": hidden for layer in (9, 10)},
        "1.weight": conv1,
        "5.weight": conv2,
        "10.weight": hidden,
    }
    assert still.keys() == before.keys()
    for _ in steps(learner, second):
        for name, mask in still.items():
            gradient = encoder[name].grad
            assert gradient is not None
            assert not gradient[mask].any()
            assert gradient[~mask].any()
            assert torch.equal(encoder[name][mask], before[name][mask])
            assert not torch.equal(encoder[name][~mask], before[name][~mask])


def test_gradients_are_conditioned_by_how_far_both_ends_are_attended_to(build: Build) -> None:
    learner = hat(build, gates="soft")
    chain = learner.chain
    chain.learned.append("0")
    chain.gates[0].attended = torch.rand(16)
    chain.gates[1].attended = torch.rand(12)
    chain.begin(torch.Generator().manual_seed(0))
    layer = chain.layers[1].weights
    layer.weight.grad = torch.ones(12, 16)
    for parameter in chain.conditioned:
        parameter.grad = torch.ones_like(parameter)
    chain.condition()
    for i in range(12):
        post = chain.gates[1].attended[i]
        assert layer.bias is not None
        assert layer.bias.grad is not None
        assert layer.bias.grad[i] == 1 - post
        for j in range(16):
            assert layer.weight.grad[i, j] == 1 - torch.minimum(post, chain.gates[0].attended[j])


def test_the_scale_rises_within_each_pass_from_one_end_to_the_other(build: Build) -> None:
    """A last pass that is cut short has all of it as well."""
    learner = hat(build, max_scale=50.0, setting={"updates": 11})
    task = split_tasks()[0]
    learner.begin_task(task)
    scales = []
    for epoch in range(2):
        learner.begin_epoch(task, epoch, 2)
        for x, y in list(task.train.batches(BATCH))[: 11 - 7 * epoch]:
            learner.observe(x, y, task)
            scales.append(learner.scale)
            assert learner.chain.gates[0].scale == learner.scale
    rise = 50 - 1 / 50
    expected = [1 / 50 + rise * b / 6 for b in range(7)] + [1 / 50 + rise * b / 3 for b in range(4)]
    assert scales == pytest.approx(expected)
    assert learner.scale_of(0, 1) == pytest.approx(50)


def test_the_penalty_by_hand(build: Build) -> None:
    """Openings of units that earlier tasks leave, each weighted by how far these do."""
    learner = hat(build, sparsity=3.0)
    task = split_tasks()[0]
    learner.begin_task(task)
    learner.begin_epoch(task, 0, 1)
    first, second = learner.chain.gates
    for gate, embedding in ((first, 300.0), (second, -500.0)):
        assert gate.embedding is not None
        gate.embedding.data.fill_(embedding)  # at a scale of 1 / 400
    first.attended = torch.tensor([1.0] * 4 + [0.25] * 12)
    second.attended = torch.tensor([1.0] * 10 + [0.0] * 2)
    out = learner.observe(*next(task.train.batches(BATCH)), task)
    one, other = 1 / (1 + math.exp(-0.75)), 1 / (1 + math.exp(1.25))
    expected = 3 * (9 * one + 2 * other) / (9 + 2)
    assert out["penalty"] == pytest.approx(expected, rel=1e-5)
    first.attended, second.attended = torch.ones(16), torch.ones(12)
    assert learner.observe(*next(task.train.batches(BATCH)), task)["penalty"] == 0


def test_gradients_of_embeddings_are_compensated(build: Build) -> None:
    values = torch.tensor([0.0, 0.3, -2.0, 5.9])
    for scale in (0.0025, 1.0, 3.0, 400.0):
        expected = [
            400 / scale * (math.cosh(max(-50, min(50, scale * e))) + 1) / (math.cosh(e) + 1)
            for e in values.tolist()
        ]
        assert compensation(values, scale, 400).tolist() == pytest.approx(expected, rel=1e-4)
    # As far as nothing is clamped: the derivative at a scale of 1, times the largest one.
    e = torch.tensor([0.4, -1.1], requires_grad=True)
    slopes = [torch.autograd.grad(torch.sigmoid(s * e).sum(), e)[0] for s in (5.0, 1.0)]
    assert torch.allclose(slopes[0] * compensation(e.detach(), 5.0, 20.0), 20 * slopes[1])


def test_a_step_moves_embeddings_by_the_compensated_gradient_within_bounds(build: Build) -> None:
    learner = hat(build, "lenet", max_scale=20.0)
    task = split_tasks()[0]
    learner.begin_task(task)
    learner.begin_epoch(task, 0, 1)
    x, y = next(task.train.batches(BATCH))
    learner.chain.set_scale(1 / 20)
    loss = learner.cross_entropy(learner.forward(x), y) + 0.75 * learner.chain.usage()
    embeddings = learner.chain.embeddings
    gradients: tuple[Tensor, ...] = torch.autograd.grad(loss, embeddings)
    before = [e.detach().clone() for e in embeddings]
    learner.observe(x, y, task)
    for e, old, g in zip(embeddings, before, gradients, strict=True):
        moved = old - 0.1 * g * compensation(old, 1 / 20, 20.0)
        assert (moved - old).abs().max() > 1e-3
        assert torch.allclose(e, moved.clamp(-6, 6), atol=1e-5)
    embeddings[0].data.fill_(7.0)
    learner.observe(x, y, task)
    assert embeddings[0].max() <= 6


@pytest.mark.parametrize(
    ("name", "knobs"),
    [
        ("slim_resnet18", {"width": 2}),
        ("mlp", {"hidden": []}),
        ("mlp", {"hidden": [8], "norm": "layer"}),
    ],
)
def test_networks_that_are_no_chain_are_refused(
    build: Build, name: str, knobs: dict[str, Any]
) -> None:
    with pytest.raises(BadSpec, match="mlp, lenet and small_alexnet"):
        hat(build, setting={"model": network(name, **knobs)})


def test_what_is_frozen_below_the_chain_stays(build: Build) -> None:
    model = network("mlp", hidden=[16, 12, 8])
    frozen = model.get_submodule("encoder.1").requires_grad_(False)
    before = {name: value.clone() for name, value in frozen.state_dict().items()}
    learner = hat(build, setting={"model": model})
    assert [gate.num_units for gate in learner.chain.gates] == [12, 8]
    assert forgets_nothing(learner, split_tasks())
    assert all(torch.equal(frozen.state_dict()[name], value) for name, value in before.items())
