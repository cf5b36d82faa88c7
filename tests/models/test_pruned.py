"""Weights that tasks share out: which are pruned, and what they begin as."""

from __future__ import annotations

import pytest
import torch

from clray import registry
from clray.models.bitmask import kept
from clray.models.classifier import Classifier
from clray.models.pruned import PrunedNetwork
from clray.spec import Component


def test_the_smallest_of_the_weights_that_were_trained_become_0_and_free() -> None:
    torch.manual_seed(0)
    component = Component.model_validate({"name": "lenet", "channels": [2, 3], "hidden": [5]})
    model: Classifier = registry.configure("model", component).build("", (1, 8, 8), 4)
    network = PrunedNetwork(model)
    for task in range(3):
        free = {name: ~layer.is_claimed() for name, layer in network.layers.items()}
        before = {name: layer.weight.clone() for name, layer in network.layers.items()}
        network.begin()
        for layer in network.layers.values():
            assert layer.trained is not None
            layer.trained.data.normal_()
        trained = {name: layer.effective.detach().clone() for name, layer in network.layers.items()}
        network.prune(0.7)
        network.keep(str(task))
        for name, layer in network.layers.items():
            own = free[name] & (layer.weight != 0)
            assert torch.equal(layer.mask_of(str(task)), own | ~free[name])
            assert own.sum() == kept(0.3, int(free[name].sum()))
            smallest_kept = trained[name][own].abs().min()
            assert (trained[name][free[name] & ~own].abs() < smallest_kept).all()
            assert torch.equal(layer.weight[own], trained[name][own])
            assert torch.equal(layer.weight[~free[name]], before[name][~free[name]])
    assert network.num_claimed / network.num_weights == pytest.approx(1 - 0.7**3, abs=0.01)
