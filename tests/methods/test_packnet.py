"""What is pruned when, and that nothing is forgotten."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from clray.errors import BadSpec
from clray.methods.packnet import PackNet
from clray.models.bitmask import kept
from tests.methods.conftest import Build
from tests.methods.own_rows import (
    CASES,
    Optimizer,
    chain_learner,
    forgets_nothing,
    learn,
    network,
    split_tasks,
    steps,
)


def packnet(build: Build, name: str = "mlp", **knobs: Any) -> PackNet:
    learner = chain_learner(build, "packnet", name, knobs)
    assert isinstance(learner, PackNet)
    return learner


@pytest.mark.parametrize(("name", "optimizer"), CASES)
def test_answers_on_earlier_tasks_stay_to_the_bit(
    build: Build, name: str, optimizer: Optimizer
) -> None:
    learner = packnet(build, name, setting={"optimizer": optimizer, "num_tasks": 3})
    assert forgets_nothing(learner, split_tasks())


def test_prunes_when_it_is_told_and_keeps_as_many_of_each_layer_as_it_is_told(build: Build) -> None:
    """Seven steps: the last 3 retrain (3 / 7 of them)."""
    learner = packnet(build, prune=0.6, retrain_share=3 / 7, setting={"num_tasks": 3})
    layers = learner.network.layers.values()
    sizes = [layer.weight.numel() for layer in layers]
    free = list(sizes)
    for task in split_tasks():
        own = [kept(0.4, n) for n in free] if task.index < 2 else free
        claimed = [size - n for size, n in zip(sizes, free, strict=True)]
        before = [n + new for n, new in zip(claimed, free, strict=True)]
        after = [n + new for n, new in zip(claimed, own, strict=True)]
        counts = []
        for _ in steps(learner, task):
            counts.append([int(layer.found().sum()) for layer in layers])
        assert counts == [before] * 3 + [after] * 4
        free = [n - new for n, new in zip(free, own, strict=True)]
        assert [int((~layer.is_claimed()).sum()) for layer in layers] == free
    assert free == [0, 0]


def test_retraining_has_a_rate_of_its_own(build: Build) -> None:
    learner = packnet(build, retrain_share=3 / 7, retrain_lr=0.5)
    rates = [learner.optimizer.param_groups[0]["lr"] for _ in steps(learner, split_tasks()[0])]
    assert rates == [0.1] * 3 + [0.05] * 4


def test_what_tasks_share_beside_weights_learns_on_the_first_one_only(build: Build) -> None:
    learner = packnet(build, "normalised")
    first, second, _ = split_tasks()

    def shared() -> dict[str, Tensor]:
        state = {n: v.clone() for n, v in learner.model.state_dict().items() if "encoder" in n}
        return {n: v for n, v in state.items() if not n.endswith("weight") or v.ndim == 1}

    before = shared()
    learn(learner, first)
    after = shared()
    learn(learner, second)
    names = [n for n in before if "mask" not in n and "claimed" not in n]
    assert len(names) == 3 + 3 * 5  # biases, and scale, shift, mean, variance, number of norms
    assert not any(torch.equal(before[name], after[name]) for name in names)
    assert all(torch.equal(after[name], shared()[name]) for name in names)


def test_where_nothing_is_free_the_head_alone_learns(build: Build) -> None:
    learner = packnet(build, prune=0.0)
    tasks = split_tasks()
    learn(learner, tasks[0])
    kept_weights = [layer.weight.clone() for layer in learner.network.layers.values()]
    assert forgets_nothing(learner, tasks[1:])
    for layer, weight in zip(learner.network.layers.values(), kept_weights, strict=True):
        assert torch.equal(layer.weight, weight)


def test_a_network_without_hidden_layers_is_refused(build: Build) -> None:
    with pytest.raises(BadSpec, match="layers that learn"):
        packnet(build, setting={"model": network("mlp", hidden=[])})
