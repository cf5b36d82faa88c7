"""Networks of masked layers: how they begin, what learns in them, and what they refuse."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from clray import registry
from clray.errors import BadSpec
from clray.models.bitmask import Largest, kept
from clray.models.classifier import Classifier
from clray.models.masked import MaskedLayer
from clray.models.subnetworks import Subnetworks
from clray.spec import Component


def built(
    name: str = "mlp", shape: tuple[int, int, int] = (1, 8, 8), **knobs: object
) -> Classifier:
    torch.manual_seed(0)
    found = registry.find("model", name)
    config = registry.configure("model", Component.model_validate({"name": name, **knobs}))
    network: Classifier = config.build(found.variant, shape, 4)
    return network


def search(subnetworks: Subnetworks, seed: int, density: float = 0.3) -> list[nn.Parameter]:
    selections = {
        name: Largest(kept(density, layer.weight.numel()))
        for name, layer in subnetworks.layers.items()
    }
    return subnetworks.search(subnetworks.draw(seed), selections)


def test_weights_begin_as_signed_constants_and_scores_within_their_bound() -> None:
    plain = built("lenet", channels=[4, 6], hidden=[20])
    signs = {n: p.detach().clone() for n, p in plain.named_parameters() if p.ndim > 1}
    subnetworks = Subnetworks(plain, outputs=3)
    scores = subnetworks.draw(5)
    assert list(scores) == ["encoder.0", "encoder.3", "encoder.7", "head"]
    for name, layer in subnetworks.layers.items():
        size = math.sqrt(2 / layer.weight[0].numel())
        assert torch.unique(layer.weight.abs()).tolist() == pytest.approx([size])
        if name != "head":  # which is drawn anew, in its own width
            assert torch.equal(layer.weight < 0, signs[f"{name}.weight"] < 0)
        assert scores[name].abs().max() <= 1 / math.sqrt(layer.weight[0].numel())
        assert torch.equal(scores[name], subnetworks.draw(5)[name])
        assert not torch.equal(scores[name], subnetworks.draw(6)[name])
    assert not any(p.requires_grad for p in plain.parameters())
    assert not any("bias" in name for name, _ in plain.named_parameters())


def test_gradients_go_straight_through_the_mask_to_every_score() -> None:
    network = built(hidden=[12])
    subnetworks = Subnetworks(network, outputs=4)
    scores = search(subnetworks, 1)
    x, y = torch.randn(16, 1, 8, 8), torch.randint(4, (16,))
    nn.functional.cross_entropy(network(x), y).backward()  # type: ignore[no-untyped-call]
    # The same by hand: effective weights as leaves.
    first, second = subnetworks.layers.values()
    leaves = [
        torch.where(layer.found(), layer.weight.detach(), 0).requires_grad_()
        for layer in (first, second)
    ]
    hidden = (x.flatten(1) @ leaves[0].T).relu()
    nn.functional.cross_entropy(hidden @ leaves[1].T, y).backward()  # type: ignore[no-untyped-call]
    for layer, score, leaf in zip((first, second), scores, leaves, strict=True):
        assert leaf.grad is not None
        assert score.grad is not None
        expected = leaf.grad * layer.weight * score.sign()
        assert torch.allclose(score.grad, expected, atol=1e-7)
        off = ~layer.found()
        assert bool((score.grad[off] != 0).any())
        assert layer.weight.grad is None


@pytest.mark.parametrize("compact", [True, False])
def test_weights_off_what_learns_get_no_gradient(compact: bool) -> None:
    network = built(hidden=[12])
    subnetworks = Subnetworks(network, outputs=4)
    search(subnetworks, 1)
    subnetworks.settle()
    subnetworks.keep("0", subnetworks.capture())
    search(subnetworks, 2)
    subnetworks.settle()
    trained = subnetworks.train_weights(exclusive=True, compact=compact)
    x, y = torch.randn(16, 1, 8, 8), torch.randint(4, (16,))
    nn.functional.cross_entropy(network(x), y).backward()  # type: ignore[no-untyped-call]
    for layer, parameter in zip(subnetworks.layers.values(), trained, strict=True):
        learns = layer.found() & ~layer.is_claimed()
        assert parameter.grad is not None
        if compact:
            assert parameter.shape == (int(learns.sum()),)
        else:
            assert not parameter.grad[~learns].any()
        assert bool(parameter.grad.any())


def test_an_infinite_weight_off_the_mask_does_no_harm() -> None:
    network = built(hidden=[12])
    subnetworks = Subnetworks(network, outputs=4)
    scores = search(subnetworks, 1)
    x = torch.randn(5, 1, 8, 8)
    for layer in subnetworks.layers.values():
        layer.weight.data[~layer.found()] = torch.inf
    assert bool(network(x).isfinite().all())
    subnetworks.settle()
    trained = subnetworks.train_weights(exclusive=True)
    network(x).sum().backward()
    assert all(bool(p.grad.isfinite().all()) for p in trained if p.grad is not None)
    subnetworks.keep("0", subnetworks.capture())
    subnetworks.show("0")
    assert bool(network(x).isfinite().all())
    assert len(scores) == 2


@pytest.mark.parametrize(
    ("name", "shape", "knobs"),
    [
        ("slim_resnet18", (3, 8, 8), {"width": 4}),
        ("lenet", (1, 8, 8), {"channels": [3, 4], "hidden": [10]}),
        ("timm/resnet10t", (3, 32, 32), {}),
    ],
)
def test_each_task_has_masks_and_statistics_of_its_own(
    name: str, shape: tuple[int, int, int], knobs: dict[str, object]
) -> None:
    network = built(name, shape, **knobs)
    subnetworks = Subnetworks(network, outputs=4)
    network.train()
    answers: dict[str, Tensor] = {}
    stored = torch.randn(6, *shape)
    for number in ("0", "1", "2"):
        scores = search(subnetworks, int(number), 0.4)
        optimizer = torch.optim.Adam(scores, 0.05)
        for _ in range(3):
            x, y = torch.randn(12, *shape) + int(number), torch.randint(4, (12,))
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(x), y).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        subnetworks.settle()
        subnetworks.keep(number, subnetworks.capture())
        network.eval()
        subnetworks.show(number)
        answers[number] = network(stored)
        network.train()
        subnetworks.learn()
    network.eval()
    for number in ("1", "0", "2"):
        subnetworks.show(number)
        assert torch.equal(network(stored), answers[number])
    assert not torch.equal(answers["0"], answers["1"])
    assert bool(subnetworks.norms) == (name != "lenet")
    state = network.state_dict()
    for path, layer in subnetworks.layers.items():
        assert state[f"{path}.mask_1"].numel() == -(-layer.weight.numel() // 8)
    assert not any(isinstance(m, nn.Linear | nn.Conv2d) for m in network.modules())


def test_what_is_frozen_stays_as_it_is() -> None:
    network = built("timm/resnet10t", (3, 32, 32), frozen=True)
    before = {n: p.clone() for n, p in network.encoder.state_dict().items()}
    subnetworks = Subnetworks(network, outputs=4)
    assert list(subnetworks.layers) == ["head"]
    assert subnetworks.norms == {}
    after = network.encoder.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_network_that_cannot_be_masked_is_refused() -> None:
    with pytest.raises(BadSpec, match=r"encoder\.network\.patch_embed|cls_token|Vision"):
        Subnetworks(built("timm/vit_tiny_patch16_224", (3, 224, 224)), outputs=4)
    reflecting = Classifier(
        nn.Sequential(nn.Conv2d(1, 2, 3, padding=1, padding_mode="reflect"), nn.Flatten()),
        nn.Linear(128, 4),
    )
    with pytest.raises(BadSpec, match=r"encoder\.0.*Conv2d"):
        Subnetworks(reflecting, outputs=4)
    twice = built(hidden=[4])
    Subnetworks(twice, outputs=4)
    with pytest.raises(BadSpec, match="no other method has masked"):
        Subnetworks(twice, outputs=4)


def test_layers_see_what_they_are_shown_only() -> None:
    layer = MaskedLayer(torch.ones(2, 4))
    assert torch.equal(layer.effective, layer.weight)
    layer.keep("0", torch.tensor([[True, False, True, False]] * 2), None)
    layer.show("0")
    assert layer.effective.tolist() == [[1, 0, 1, 0]] * 2
