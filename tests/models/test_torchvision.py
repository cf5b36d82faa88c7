"""Networks of torchvision: their classifier taken off, their weights from files, and linearised."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision import models

from clray import registry
from clray.errors import BadData, BadSpec, UnknownName
from clray.models.classifier import Classifier
from clray.models.folding import fold_norms
from clray.models.linearised_classifier import LinearisedClassifier
from clray.models.torchvision import MEAN, STD, Config
from clray.spec import Component

SMALL = ("resnet18", "mobilenet_v3_small", "shufflenet_v2_x0_5")


def configure(**knobs: Any) -> Config:
    config: Config = registry.configure("model", Component(name="torchvision", **knobs))
    return config


def build(variant: str, **knobs: Any) -> Classifier:
    torch.manual_seed(0)
    return configure(**knobs).build(variant, (3, 32, 32), 7)


def normalised(x: Tensor) -> Tensor:
    mean, std = (torch.tensor(three).view(1, 3, 1, 1) for three in (MEAN, STD))
    return (x - mean) / std


@pytest.mark.parametrize("variant", SMALL)
def test_is_torchvision_s_network_but_for_the_classifier(variant: str, tmp_path: Path) -> None:
    torch.manual_seed(1)
    given = models.get_model(variant, weights=None).eval()
    file = tmp_path / "weights.safetensors"
    save_file(given.state_dict(), file)
    model = build(variant, weights=str(file)).eval()
    assert isinstance(model.head, nn.Linear)
    last = [m for m in given.modules() if isinstance(m, nn.Linear)][-1]
    assert model.head.in_features == last.in_features
    x = torch.rand(2, 3, 32, 32)
    assert model(x).shape == (2, 7)
    torch.testing.assert_close(last(model.encoder(x)), given(normalised(x)))
    kept = [p for p in model.encoder.parameters() if p.requires_grad]
    assert sum(p.numel() for p in kept) == sum(
        p.numel() for p in given.parameters() if p is not last.weight and p is not last.bias
    )


def test_the_classifier_in_a_file_does_not_matter(tmp_path: Path) -> None:
    state = models.resnet18().state_dict()
    files = [tmp_path / name for name in ("with.safetensors", "without.safetensors")]
    save_file(state, files[0])
    save_file({k: v for k, v in state.items() if not k.startswith("fc.")}, files[1])
    first, second = (build("resnet18", weights=str(file)).state_dict() for file in files)
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    with pytest.raises(BadData, match="resnet34 alone"):
        build("resnet34", weights=str(files[0]))


def test_weights_are_files_alone(tmp_path: Path) -> None:
    for weights, why in {
        "missing.safetensors": "exists",
        "resnet18-f37072fd.pth": "execute code",
    }.items():
        with pytest.raises(BadData, match=f"model torchvision: weights.*{why}"):
            configure(weights=str(tmp_path / weights)).check("resnet18")
    with pytest.raises(BadSpec, match="'IMAGENET1K_V1'; accepted: none, or the path"):
        configure(weights="IMAGENET1K_V1").check("resnet18")


def test_what_cannot_be_built_is_refused() -> None:
    with pytest.raises(UnknownName, match=r"Did you mean 'resnet18'\?"):
        configure().check("resnet81")
    for variant in ("", "squeezenet1_1", "fcn_resnet50", "raft_small"):
        with pytest.raises(UnknownName):
            configure().check(variant)
    for options in ({"nonsense": 1}, {"num_classes": 10}, {"weights": "DEFAULT"}):
        with pytest.raises(BadSpec, match=r"model torchvision/resnet18: got.*what the network"):
            build("resnet18", options=options)
    with pytest.raises(BadSpec, match=r"aux1.fc2, aux2.fc2, fc: \{aux_logits: false\}"):
        build("googlenet", options={"init_weights": False})
    plain = build("googlenet", options={"init_weights": False, "aux_logits": False})
    assert plain.train()(torch.rand(2, 3, 32, 32)).shape == (2, 7)
    with pytest.raises(BadSpec, match="Wrong image height"):
        build("vit_b_32")


def test_options_reach_the_network() -> None:
    model = build("resnet18", options={"zero_init_residual": True})
    assert not model.encoder.get_submodule("network.layer1.0.bn2").weight.any()  # type: ignore[operator]


def test_a_frozen_encoder_has_a_key(tmp_path: Path) -> None:
    file = tmp_path / "weights.safetensors"
    save_file(models.resnet18().state_dict(), file)
    key = configure(weights=str(file), frozen=True).encoder_key("resnet18")
    assert key == configure(weights=str(file), frozen=True, mean=MEAN).encoder_key("resnet18")
    other = configure(weights=str(file), frozen=True, image_size=64).encoder_key("resnet18")
    assert key is not None
    assert key != other
    assert configure(weights=str(file)).encoder_key("resnet18") is None
    assert configure(frozen=True).encoder_key("resnet18") is None
    model = build("resnet18", weights=str(file), frozen=True, image_size=64).train()
    assert not any(m.training for m in model.encoder.network.modules())  # type: ignore[union-attr]
    assert {n for n, p in model.named_parameters() if p.requires_grad} == {
        "head.weight",
        "head.bias",
    }


@pytest.mark.parametrize("mode", ["bilinear", "linearised"])
@pytest.mark.parametrize("variant", SMALL)
def test_can_be_linearised(variant: str, mode: Any) -> None:
    """Without a step the network itself; along one a straight line."""
    model = build(variant).double().eval()
    x = torch.rand(3, 3, 32, 32, dtype=torch.float64)
    given = model(x).detach()
    assert fold_norms(model.encoder, x) == 0
    linear = LinearisedClassifier(model, mode, x)
    torch.testing.assert_close(linear(x), given)
    layers = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert len(linear.layers) == len(layers) - (mode == "bilinear")
    with torch.no_grad():
        for step in linear.linear.steps.values():
            step.normal_()
        once = linear(x) - given
        for step in linear.linear.steps.values():
            step.mul_(-2)
        twice = linear(x) - given
    assert once.abs().max() > 1e-3
    torch.testing.assert_close(twice, -2 * once)
