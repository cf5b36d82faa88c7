"""Probes: their statistics, their loss, and what they train."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from sklearn.preprocessing import StandardScaler
from torch import nn

from clray.distributed import Distributed
from clray.models.probes import ProbeLearner, Standardise
from clray.task import Task
from tests.methods.conftest import needs_no_boundaries

Build = Callable[..., ProbeLearner]
PROBES = ["linear_probe", "two_layer_probe"]


def test_statistics_are_those_of_all_batches_together() -> None:
    torch.manual_seed(0)
    x = torch.randn(101, 6) * torch.logspace(-3, 3, 6) + torch.tensor([0, 10.0, -7, 0.1, 5, 0])
    x[:, 0] = 0.1  # never varies
    standardise = Standardise(6)
    assert torch.equal(standardise(x), x)
    for part in (x[:1], x[1:40], x[40:]):
        standardise.add(part, Distributed())
    theirs = StandardScaler().fit(x.double())
    torch.testing.assert_close(standardise.mean, torch.from_numpy(theirs.mean_))
    wanted = torch.from_numpy(theirs.transform(x.double())).float()
    torch.testing.assert_close(standardise(x), wanted, rtol=1e-3, atol=1e-3)
    moved = standardise(x + torch.eye(6)[0])
    torch.testing.assert_close(moved[:, 0], torch.ones(101), rtol=0, atol=1e-6)


@pytest.mark.parametrize("method", PROBES)
def test_a_step_is_that_of_the_smoothed_loss_among_competing_units(
    build: Build, tasks: list[Task], method: str
) -> None:
    learner = build(method, linear=True, smoothing=0.2, begin="default", standardise=False)
    x, y = next(tasks[0].train.batches(50))
    y = y % 2
    twin = copy.deepcopy(learner.probe)
    logits = twin(learner.features(x))
    alone = F.cross_entropy(logits, y, label_smoothing=0.2)
    alike = F.cross_entropy(logits[:, :2], y, label_smoothing=0.2)

    learner.rivals[:2] = torch.tensor([True, True, False, False])
    learner.all_rivals = False
    loss = learner.observe(x, y, tasks[0])["loss"]
    torch.testing.assert_close(loss, alike.detach())
    assert loss < alone
    gradients = torch.autograd.grad(alike, list(twin.parameters()))
    for new, old, g in zip(learner.probe.parameters(), twin.parameters(), gradients, strict=True):
        torch.testing.assert_close(new, old - 0.1 * g, rtol=1e-4, atol=1e-6)

    learner.rivals[:], learner.all_rivals = True, True
    again = F.cross_entropy(learner.probe(learner.features(x)), y, label_smoothing=0.2)
    torch.testing.assert_close(learner.observe(x, y, tasks[0])["loss"], again.detach())


@pytest.mark.parametrize("method", PROBES)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("begin", ["zeros", "default"])
def test_layers_are_as_asked_for(build: Build, method: str, bias: bool, begin: str) -> None:
    learner = build(method, linear=True, bias=bias, begin=begin)
    layers = [layer for layer in learner.probe.layers if isinstance(layer, nn.Linear)]
    widths = [(36, 4)] if method == "linear_probe" else [(36, 128), (128, 4)]
    assert [(layer.in_features, layer.out_features) for layer in layers] == widths
    assert [layer.bias is not None for layer in layers] == [bias] * len(layers)
    assert bool(layers[-1].weight.any()) == (begin == "default")
    for layer in layers[: None if begin == "default" else -1]:
        bound = layer.in_features**-0.5  # torch's own: uniform within it
        assert 0.9 * bound < float(layer.weight.detach().abs().max()) <= bound
    again = build(method, linear=True, bias=bias, begin=begin)
    assert all(map(torch.equal, learner.probe.parameters(), again.probe.parameters()))
    trained = sum(p.numel() for p in learner.probe.parameters())
    assert learner.footprint()["parameters"] == trained


@pytest.mark.parametrize("method", PROBES)
def test_needs_no_task_boundary(build: Build, tasks: list[Task], method: str) -> None:
    assert needs_no_boundaries(partial(build, method, linear=True), tasks)


def test_each_example_counts_once(build: Build, tasks: list[Task]) -> None:
    learner = build("linear_probe", linear=True)
    for task in tasks:
        for epoch in range(3):
            learner.begin_epoch(task, epoch, 3)
            for x, y in task.train.batches(8, seed=0, epoch=epoch):
                learner.observe(x, y, task)
    assert learner.probe.standardise is not None
    assert float(learner.probe.standardise.count) == 150
    x = torch.cat([learner.features(next(task.train.batches(50))[0]) for task in tasks])
    torch.testing.assert_close(learner.probe.standardise.mean, x.double().mean(0))
