"""Networks in two: what is frozen, what learns, and that both halves give what the whole gives."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from clray import registry
from clray.errors import BadData, BadSpec, UnknownName
from clray.models.classifier import ModelConfig
from clray.models.cut_network import CutNetwork
from clray.models.image_encoder import EncoderConfig
from clray.spec import Component

SMALL = "mobilenetv1_100"
SHAPE = (3, 32, 32)


def configure(name: str = "timm", **knobs: Any) -> EncoderConfig:
    config: EncoderConfig = registry.configure("model", Component(name=name, **knobs))
    return config


def count(*modules: nn.Module) -> int:
    return sum(p.numel() for module in modules for p in module.parameters())


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A file of random weights whose batch normalisation has seen something."""
    torch.manual_seed(0)
    network = configure().load(SMALL).network.train()
    with torch.no_grad():
        network(torch.rand(8, 3, 32, 32))
    path = tmp_path_factory.mktemp("weights") / "weights.safetensors"
    save_file(network.state_dict(), path)
    return str(path)


@pytest.mark.parametrize(
    ("name", "variant", "lower"),
    [
        ("timm", SMALL, "blocks.2"),
        ("timm", SMALL, "bn1"),
        ("timm", "resnet10t", "layer3.0"),
        ("torchvision", "resnet18", "layer2"),
        ("torchvision", "mobilenet_v3_small", "features.4"),
    ],
)
def test_both_halves_give_what_the_whole_gives(name: str, variant: str, lower: str) -> None:
    def built(**knobs: Any) -> nn.Module:
        torch.manual_seed(0)
        return configure(name, **knobs).build(variant, SHAPE, 7)

    whole, halves = built().eval(), built(lower=lower).eval()
    x = torch.rand(4, *SHAPE)
    torch.testing.assert_close(halves(x), whole(x))
    assert count(halves) == count(whole)
    assert not any(module._forward_hooks for module in halves.modules())
    again = pickle.loads(pickle.dumps(halves))
    assert torch.equal(again(x), halves(x))
    again.load_state_dict(halves.state_dict(), strict=True)


def test_the_upper_half_alone_learns() -> None:
    model = configure(lower="blocks.2").build(SMALL, SHAPE, 7)
    network = model.encoder.network
    assert isinstance(network, CutNetwork)
    model.train()
    x = torch.rand(4, *SHAPE)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    trained = [p for p in model.parameters() if p.requires_grad]
    assert len(trained) == len([*network.upper.parameters(), *model.head.parameters()])
    in_training = model(x)
    assert torch.equal(in_training, model.eval()(x))
    optimizer = torch.optim.SGD(trained, lr=0.1)
    model.train()(x).square().sum().backward()
    optimizer.step()
    for name, value in network.state_dict().items():
        learns = name.startswith("upper.") and "running" not in name and "num_b" not in name
        assert torch.equal(value, before[name]) is not learns, name


def test_nothing_works_in_place_on_what_it_is_given() -> None:
    network = configure(lower="bn1").build("resnet18", SHAPE, 7).eval()
    halves = network.encoder.network
    assert isinstance(halves, CutNetwork)
    found = halves.lower(torch.randn(2, *SHAPE))
    kept = found.clone()
    halves.upper(found)
    assert torch.equal(found, kept)


def test_sizes_are_those_of_stability_gap_mitigation() -> None:
    config = configure(lower="stages.2.downsample", image_size=64)
    model = config.build("convnextv2_femto", SHAPE, 1365)
    network = model.encoder.network
    assert isinstance(network, CutNetwork)
    assert count(network.lower) == 298_224
    assert count(network.upper, model.head) == 5_075_541


def test_what_cannot_be_cut_is_refused() -> None:
    with pytest.raises(UnknownName, match=r"lower: got 'block\.4'.*Did you mean 'blocks\.4'\?"):
        configure(lower="block.4").build(SMALL, SHAPE, 7)
    with pytest.raises(BadSpec, match=r"modules run in a row, such as layer2, layer2\.1"):
        configure(lower="layer3.0.conv1").build("resnet18", SHAPE, 7)
    small = {"img_size": 32, "patch_size": 8, "depth": 2, "embed_dim": 48, "num_heads": 2}
    with pytest.raises(BadSpec, match=r"got 'blocks\.1'.*such as patch_embed"):
        configure(lower="blocks.1", options=small).build("vit_tiny_patch16_224", SHAPE, 7)
    with pytest.raises(BadSpec, match=r"lower, with frozen: got 'blocks\.1'"):
        configure(lower="blocks.1", frozen=True).check(SMALL)


# Stored maps.


def test_what_stored_maps_are_known_by(weights: str) -> None:
    def key(**knobs: Any) -> str | None:
        config: ModelConfig = configure(**{"weights": weights, "image_size": 32, **knobs})
        return config.encoder_key(SMALL)

    known = key(lower="blocks.2")
    assert known is not None
    assert known == key(lower="blocks.2", norm="layer")  # which the maps do not depend on
    assert len({known, key(lower="blocks.1"), key(frozen=True)}) == 3
    assert key(lower="blocks.2", weights="none") is None
    assert key(lower="blocks.2", image_size=None) is None  # maps of a size that is not known
    assert key() is None


@pytest.mark.parametrize("norm", ["none", "layer"])
def test_on_stored_maps_as_on_images(weights: str, norm: str) -> None:
    config = configure(weights=weights, lower="blocks.2", image_size=32, norm=norm)
    encoder = config.build_encoder(SMALL, (1, 28, 28))
    x, y = torch.rand(8, 1, 28, 28), torch.arange(8) % 5
    maps = encoder(x)
    assert maps.shape == (8, encoder.width)
    assert not maps.requires_grad
    torch.manual_seed(3)
    whole = config.build(SMALL, (1, 28, 28), 5)
    torch.manual_seed(3)
    alone = config.build_on_features(SMALL, (encoder.width, 1, 1), 5)
    assert count(alone) == count(whole) - count(encoder)
    assert all(p.requires_grad for p in alone.parameters())
    for model, given in ((whole, x), (alone, maps.view(8, -1, 1, 1))):
        trained = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.SGD(trained, lr=0.01)
        for _ in range(5):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(given), y)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    torch.testing.assert_close(
        whole.eval()(x), alone.eval()(maps.view(8, -1, 1, 1)), rtol=1e-6, atol=1e-6
    )


def test_maps_of_another_size_are_refused(weights: str) -> None:
    config = configure(weights=weights, lower="blocks.2", image_size=32)
    with pytest.raises(BadSpec, match="width of features: got 512; accepted: 4096, flattened"):
        config.build_on_features(SMALL, (512, 1, 1), 5)
    unknown = configure(weights=weights, lower="blocks.2")
    with pytest.raises(BadSpec, match="image_size, on features"):
        unknown.build_on_features(SMALL, (4096, 1, 1), 5)


# The network's own classifier.


@pytest.mark.parametrize(("name", "variant"), [("timm", "resnet10t"), ("torchvision", "resnet18")])
@pytest.mark.parametrize("knobs", [{}, {"lower": "layer2"}, {"frozen": True}])
def test_the_first_rows_of_the_head_are_learned(
    name: str, variant: str, knobs: dict[str, Any], tmp_path: Path
) -> None:
    import timm
    from torchvision import models

    torch.manual_seed(0)
    made = timm.create_model(variant) if name == "timm" else models.get_model(variant)
    path = tmp_path / "weights.safetensors"
    save_file(made.state_dict(), path)

    def built(**others: Any) -> nn.Linear:
        torch.manual_seed(1)
        config = configure(name, weights=str(path), image_size=32, **knobs, **others)
        head: nn.Linear = config.build(variant, SHAPE, 1010).head
        torch.manual_seed(1)
        width = 512
        if "lower" in knobs:
            width = config.build_encoder(variant, SHAPE).width
            torch.manual_seed(1)
        alone = config.build_on_features(variant, (width, 1, 1), 1010).head
        assert torch.equal(alone.weight, head.weight)
        assert torch.equal(alone.bias, head.bias)
        return head

    plain, learned = built(), built(classifier=True)
    for part in ("weight", "bias"):
        own = getattr(learned, part)
        assert torch.equal(own[:1000], getattr(made.fc, part))
        assert torch.equal(own[1000:], getattr(plain, part)[1000:])


def test_a_classifier_that_does_not_fit_is_refused(weights: str, tmp_path: Path) -> None:
    import timm

    with pytest.raises(BadSpec, match="classifier, without weights: got True"):
        configure(classifier=True).check("resnet10t")
    with pytest.raises(BadData, match=r"a file with the linear classifier classifier"):
        configure(classifier=True, weights=weights).build(SMALL, SHAPE, 1000)
    path = tmp_path / "weights.safetensors"
    state = timm.create_model("resnet10t").state_dict()
    save_file(state, path)
    config = configure(classifier=True, weights=str(path))
    with pytest.raises(BadSpec, match="got '1000 classes'; accepted: at most 7"):
        config.build("resnet10t", SHAPE, 7)
    save_file({**state, "fc.weight": torch.zeros(1000, 8)}, path)
    with pytest.raises(BadSpec, match="got 'one of 8 features'; accepted: one of the 512"):
        config.build("resnet10t", SHAPE, 1000)


def test_the_classifier_of_weights_that_are_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    import timm

    made = timm.create_model("resnet10t", num_classes=5)
    rows = made.get_classifier().weight.clone()

    def fetched(name: str, pretrained: bool = False, **_: Any) -> nn.Module:
        assert pretrained
        network: nn.Module = made
        return network

    monkeypatch.setattr(timm, "create_model", fetched)
    config = configure(classifier=True, weights="pretrained")
    assert torch.equal(config.build("resnet10t", SHAPE, 7).head.weight[:5], rows)


@pytest.mark.skipif("CLRAY_DATA" not in os.environ, reason="CLRAY_DATA is not set")
def test_the_pretrained_encoder_in_two() -> None:
    path = Path(os.environ["CLRAY_DATA"]) / "weights/mobilenetv1_100.imagenet-12of13.safetensors"
    knobs: dict[str, Any] = {
        "weights": str(path),
        "image_size": 96,
        "options": {"pad_type": "same"},
    }
    config = configure(lower="blocks.3", **knobs)
    x = torch.rand(2, 3, 32, 32)
    maps = config.build_encoder(SMALL, SHAPE)(x)
    assert maps.shape == (2, 512 * 6 * 6)
    upper = config.build_on_features(SMALL, (maps.shape[1], 1, 1), 7).encoder
    whole = configure(frozen=True, **knobs).build(SMALL, SHAPE, 7).encoder
    torch.testing.assert_close(upper(maps), whole(x))  # in training mode as well
