"""Frozen encoders: what their features are known by, and the head that stands on them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from clray import registry
from clray.errors import BadSpec
from clray.models.classifier import ModelConfig
from clray.spec import Component

OTHER = "0" * 20


def configure(name: str = "timm", **knobs: Any) -> ModelConfig:
    config: ModelConfig = registry.configure("model", Component(name=name, **knobs))
    return config


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A file of random weights for resnet10t."""
    torch.manual_seed(0)
    model = configure().build("resnet10t", (3, 32, 32), 2)
    path = tmp_path / "weights.safetensors"
    save_file(model.encoder.network.state_dict(), path)  # type: ignore[union-attr]
    return path


def test_a_key_knows_content_and_transform_alone(weights: Path) -> None:
    def key(**knobs: Any) -> str | None:
        return configure(frozen=True, **knobs).encoder_key("resnet10t")

    copy = weights.with_name("copy.safetensors")
    shutil.copy(weights, copy)
    known = key(weights=str(weights))
    assert known == key(weights=str(copy))
    assert known == key(weights=str(weights), mean=[0.485, 0.456, 0.406])  # what timm says
    for other in ({"image_size": 64}, {"mean": [0.5] * 3}, {"options": {"drop_rate": 0.5}}):
        assert key(weights=str(weights), **other) != known
    save_file({"a": torch.zeros(3)}, copy)
    assert key(weights=str(copy)) != known
    assert key(weights="pretrained") == key(weights="c3_in1k") != known


def test_no_key_where_every_trial_has_another_encoder(weights: Path) -> None:
    assert configure(frozen=True).encoder_key("resnet10t") is None
    assert configure(weights=str(weights)).encoder_key("resnet10t") is None
    assert configure("lenet").encoder_key("") is None


@pytest.mark.parametrize("name", ["lenet", "slim_resnet18", "timm/resnet10t"])
def test_features_are_no_images(name: str) -> None:
    config = configure(name)
    with pytest.raises(BadSpec, match=f"features of the encoder {OTHER}.*such as mlp"):
        config.check_features(name.partition("/")[2], OTHER)


def test_who_may_learn_from_features(weights: Path) -> None:
    configure("mlp").check_features("", OTHER)
    config = configure(frozen=True, weights=str(weights))
    own = config.encoder_key("resnet10t")
    assert own is not None
    config.check_features("resnet10t", own)
    with pytest.raises(BadSpec):
        config.check_features("resnet10t", OTHER)


def test_the_head_on_features_is_the_head_on_images(weights: Path) -> None:
    config = configure(frozen=True, weights=str(weights))
    torch.manual_seed(3)
    whole = config.build("resnet10t", (3, 32, 32), 5)
    torch.manual_seed(3)
    alone = config.build_on_features("resnet10t", (512, 1, 1), 5)
    assert not list(alone.encoder.parameters())
    for name, value in whole.head.state_dict().items():
        assert torch.equal(value, alone.head.state_dict()[name])
    images = torch.rand(4, 3, 32, 32)
    features = whole.eval().encoder(images)
    assert torch.equal(whole(images), alone(features.view(4, 512, 1, 1)))


def test_a_norm_stands_on_features_and_is_none_of_them(weights: Path) -> None:
    config = configure(frozen=True, weights=str(weights), norm="layer")
    assert config.encoder_key("resnet10t") == configure(
        frozen=True, weights=str(weights)
    ).encoder_key("resnet10t")
    images = torch.rand(4, 3, 32, 32)
    features = config.build_encoder("resnet10t", (3, 32, 32))(images)
    torch.manual_seed(3)
    whole = config.build("resnet10t", (3, 32, 32), 5).eval()
    torch.manual_seed(3)
    alone = config.build_on_features("resnet10t", (512, 1, 1), 5)
    assert alone.state_dict().keys() < whole.state_dict().keys()
    assert torch.equal(whole(images), alone(features.view(4, 512, 1, 1)))
    assert torch.equal(alone.encoder(features), torch.nn.functional.layer_norm(features, [512]))
