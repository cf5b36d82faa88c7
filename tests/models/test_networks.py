"""The networks: shapes, knobs, refusals; the timm encoders and their weights."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from clray import registry
from clray.errors import BadData, BadSpec, UnknownName
from clray.models.classifier import Classifier
from clray.spec import Component
from clray.streams import sources
from clray.streams.dataset import Source


def build(
    name: str, shape: tuple[int, int, int] = (3, 32, 32), num_classes: int = 7, **knobs: Any
) -> Classifier:
    config = registry.configure("model", Component(name=name, **knobs))
    model = config.build(registry.find("model", name).variant, shape, num_classes)
    assert isinstance(model, Classifier)
    return model


def test_are_found() -> None:
    small = ["digits_mlp", "lenet", "mlp", "slim_resnet18", "small_alexnet", "text_cnn"]
    assert registry.names("model") == [*small, "timm", "torchvision"]


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 32, 32)])
@pytest.mark.parametrize("name", ["mlp", "lenet", "slim_resnet18"])
def test_serve_images_of_all_sizes(name: str, shape: tuple[int, int, int]) -> None:
    model = build(name, shape)
    assert isinstance(model.head, nn.Linear)
    assert model(torch.rand(2, *shape)).shape == (2, 7)
    assert all(p.requires_grad for p in model.parameters())


def count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def test_sizes_are_those_of_the_papers() -> None:
    assert count(build("mlp", (1, 28, 28), 10)) == 269_322
    assert count(build("slim_resnet18", num_classes=100)) == 1_109_240
    wide = build("slim_resnet18", num_classes=10, width=64)
    assert count(wide) == 11_173_962  # ResNet-18 for CIFAR
    encoder = build("mlp", hidden=[5, 4], dropout=0.5).encoder
    kinds = [type(layer) for layer in encoder.children()]
    assert kinds[1:] == 2 * [nn.Linear, nn.ReLU, nn.Dropout]


OMNIGLOT = {"channels": [64, 128], "hidden": [2500, 1500]}
WIDE = {"width": 32, "bias": True, "pool": 2}


@pytest.mark.parametrize(
    ("name", "knobs", "shape", "num_classes", "size"),
    [
        ("lenet", {"batch_norm": True}, (3, 32, 32), 10, 2_995_620),
        ("lenet", {"batch_norm": True}, (3, 32, 32), 5, 2_993_115),
        ("lenet", {"batch_norm": True, **OMNIGLOT}, (1, 28, 28), 12, 19_666_988),
        ("small_alexnet", {}, (3, 32, 32), 10, 6_533_450),
        ("small_alexnet", {}, (3, 64, 64), 10, 23_310_666),
        ("small_alexnet", {}, (3, 64, 64), 5, 23_300_421),
        ("slim_resnet18", WIDE, (3, 32, 32), 10, 2_807_690),
        ("slim_resnet18", WIDE, (3, 64, 64), 10, 2_838_410),
        ("slim_resnet18", WIDE, (3, 64, 64), 5, 2_817_925),
    ],
)
def test_sizes_are_those_of_halrp(
    name: str, knobs: dict[str, Any], shape: tuple[int, int, int], num_classes: int, size: int
) -> None:
    with torch.device("meta"):  # shapes alone: nothing is drawn
        model = build(name, shape, num_classes, **knobs)
        assert count(model) == size
        assert model(torch.empty(2, *shape)).shape == (2, num_classes)


def test_normalisation_and_dropout_stand_where_the_papers_have_them() -> None:
    def kinds(name: str, **knobs: Any) -> str:
        layers = build(name, hidden=[4], **knobs).encoder.children()
        return " ".join(type(layer).__name__ for layer in layers)

    assert kinds("lenet", batch_norm=True) == (
        "Conv2d BatchNorm2d ReLU MaxPool2d " * 2 + "Flatten Linear BatchNorm1d ReLU"
    )
    assert kinds("small_alexnet", width=2) == (
        "Conv2d BatchNorm2d ReLU Dropout MaxPool2d " * 3 + "Flatten Linear BatchNorm1d ReLU Dropout"
    )
    assert "Dropout" not in kinds("small_alexnet", width=2, dropout=False)


def test_without_running_statistics_a_prediction_depends_on_its_batch() -> None:
    x = torch.rand(4, 3, 32, 32)
    for kept in (True, False):
        model = build("small_alexnet", width=2, hidden=[4], running_stats=kept).eval()
        assert torch.allclose(model(x)[:2], model(x[:2]), atol=1e-6) is kept


def test_what_cannot_be_built_is_refused() -> None:
    with pytest.raises(BadSpec, match="4 x 4"):
        build("lenet", (1, 3, 3))
    with pytest.raises(BadSpec, match="19 x 19"):
        build("small_alexnet", (3, 28, 18))
    assert build("small_alexnet", (1, 19, 28), width=2)(torch.rand(2, 1, 19, 28)).shape == (2, 7)
    with pytest.raises(BadSpec, match="9 x 9 or more, with pool: 2"):
        build("slim_resnet18", (3, 32, 8), pool=2)
    pooled = build("slim_resnet18", (3, 9, 17), width=2, pool=2)
    assert pooled(torch.rand(2, 3, 9, 17)).shape == (2, 7)
    with pytest.raises(BadSpec, match="hidden"):
        build("mlp", hidden=[0])
    with pytest.raises(UnknownName, match="variant"):
        registry.configure("model", Component(name="mlp")).check("big")


@pytest.mark.parametrize(
    ("name", "shape"),
    [("mlp", (1, 8, 8)), ("digits_mlp", (1, 8, 8)), ("timm/resnet10t", (3, 32, 32))],
)
def test_a_norm_before_the_head(name: str, shape: tuple[int, int, int]) -> None:
    def built(norm: str) -> Classifier:
        torch.manual_seed(0)
        return build(name, shape, norm=norm)

    plain, normed = built("none").train(), built("layer").train()
    width = plain.head.in_features
    assert count(normed) == count(plain) + 2 * width
    if name != "digits_mlp":  # it is learned with its norm
        assert torch.equal(plain.head.weight, normed.head.weight)
        x = torch.rand(4, *shape)
        expected = nn.functional.layer_norm(plain.encoder(x), [width])
        torch.testing.assert_close(normed.encoder(x), expected)


def test_a_norm_learns_on_an_encoder_that_does_not() -> None:
    for name, knobs in (("mlp", {"hidden": []}), ("timm/resnet10t", {"frozen": True})):
        assert not registry.configure("model", Component(name=name, **knobs)).learns_encoder
        normed = Component(name=name, norm="layer", **knobs)
        assert registry.configure("model", normed).learns_encoder
        model = build(name, norm="layer", **knobs).train()
        model(torch.rand(4, 3, 32, 32)).square().sum().backward()
        learned = {n for n, p in model.named_parameters() if p.grad is not None and p.grad.any()}
        assert len(learned) == 4
        assert {"head.weight", "head.bias"} < learned


# digits_mlp


def probed(model: Classifier, classes: set[int]) -> float:
    """Accuracy on the rest of the digits of a linear head on features that stay as they are."""
    rest = sources.load(Source("digits-rest"))
    with torch.no_grad():
        own = [torch.isin(y, torch.tensor(sorted(classes))) for y in (rest.train_y, rest.test_y)]
        given, asked = rest.train_x[own[0]], rest.test_x[own[1]]
        x, asked_x = (model.encoder(images.float() / 255) for images in (given, asked))
    head = nn.Linear(128, 10)
    optimizer = torch.optim.Adam(head.parameters(), lr=0.01)
    for _ in range(100):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(head(x), rest.train_y[own[0]])
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return float((head(asked_x).argmax(1) == rest.test_y[own[1]]).double().mean())


def test_digits_mlp_has_seen_digits() -> None:
    config = registry.configure("model", Component(name="digits_mlp"))
    assert config.is_pretrained
    assert config.learns_encoder
    first, again, other = (build_digits(seed) for seed in (0, 0, 1))
    state = first.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in again.state_dict().items())
    assert not torch.equal(other.head.weight, first.head.weight)
    frozen = {name for name, p in first.named_parameters() if not p.requires_grad}
    assert frozen == {"encoder.0.1.weight", "encoder.0.1.bias"}
    assert all(p.grad is None for p in first.parameters())
    weak = build_digits(0, classes=(0, 1, 2, 3, 4, 5))
    unseen = {6, 7, 8, 9}
    assert probed(first, set(range(10))) > 0.93
    assert probed(first, unseen) > probed(weak, unseen)


def build_digits(seed: int, **knobs: Any) -> Classifier:
    torch.manual_seed(seed)
    return build("digits_mlp", (1, 8, 8), **knobs)


def test_digits_mlp_takes_digits_alone() -> None:
    with pytest.raises(BadSpec, match=r"got \(1, 28, 28\); accepted: \(1, 8, 8\)"):
        build("digits_mlp", (1, 28, 28))
    for classes in ([3], [3, 3], [1, 10]):
        with pytest.raises(BadSpec, match="classes"):
            build_digits(0, classes=classes)


# timm


def test_a_frozen_encoder_stays_as_it_is() -> None:
    model = build("timm/resnet10t", frozen=True, image_size=32)
    before = {k: v.clone() for k, v in model.encoder.state_dict().items()}
    model.train()
    assert model.training
    assert not any(m.training for m in model.encoder.network.modules())  # type: ignore[union-attr]
    x = torch.rand(4, 3, 8, 8)
    model(x).sum().backward()
    assert {n for n, p in model.named_parameters() if p.requires_grad} == {
        "head.weight",
        "head.bias",
    }
    assert all(torch.equal(v, before[k]) for k, v in model.encoder.state_dict().items())
    thawed = build("timm/resnet10t").train()
    assert all(m.training for m in thawed.modules())
    assert all(p.requires_grad for p in thawed.parameters())


def test_grey_images_resizing_and_normalisation() -> None:
    torch.manual_seed(0)
    grey = build("timm/resnet10t", (1, 8, 8), mean=[0.5] * 3, std=[0.25] * 3).eval()
    x = torch.rand(2, 1, 8, 8)
    expected = grey.encoder.network(((x - 0.5) / 0.25).repeat(1, 3, 1, 1))  # type: ignore[operator]
    assert torch.equal(grey.encoder(x), expected)
    with pytest.raises(BadSpec, match="channels"):
        build("timm/resnet10t", (2, 32, 32))
    with pytest.raises(BadSpec, match="vit_tiny"):
        build("timm/vit_tiny_patch16_224", (3, 32, 32))


def test_unknown_names_are_refused() -> None:
    check = registry.configure("model", Component(name="timm")).check
    with pytest.raises(UnknownName, match=r"Did you mean 'resnet18'\?"):
        check("resnet81")
    with pytest.raises(UnknownName):
        check("")
    tagged = registry.configure("model", Component(name="timm", weights="a1_in1l"))
    with pytest.raises(UnknownName, match=r"Did you mean 'a1_in1k'\?"):
        tagged.check("resnet18")
    with pytest.raises(BadSpec, match="nonsense"):
        build("timm/resnet10t", options={"nonsense": 1})


def test_weights_come_from_a_file_that_executes_nothing(tmp_path: Path) -> None:
    model = build("timm/resnet10t")
    state = model.encoder.network.state_dict()  # type: ignore[union-attr]
    good = tmp_path / "good.safetensors"
    save_file(state, good)
    again = build("timm/resnet10t", weights=str(good))
    loaded = again.encoder.network.state_dict()  # type: ignore[union-attr]
    assert all(torch.equal(value, loaded[key]) for key, value in state.items())
    with pytest.raises(BadData, match="resnet14t alone"):
        build("timm/resnet14t", weights=str(good))
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(good.read_bytes()[:1000])
    torch.save(state, tmp_path / "pickle.pt")
    for name, why in {
        "missing.safetensors": "exists",
        "damaged.safetensors": "undamaged",
        "pickle.pt": "execute",
    }.items():
        config = registry.configure("model", Component(name="timm", weights=str(tmp_path / name)))
        with pytest.raises(BadData, match=why):
            config.check("resnet10t")


def test_no_way_to_the_hub_is_bad_data(monkeypatch: pytest.MonkeyPatch) -> None:
    import timm

    def offline(name: str, pretrained: bool = False, **_: Any) -> nn.Module:
        raise ConnectionError("no route to host")

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(BadData, match="no route to host"):
        build("timm/resnet18", weights="pretrained")


@pytest.mark.skipif("CLRAY_DATA" not in os.environ, reason="CLRAY_DATA is not set")
def test_the_pretrained_encoder() -> None:
    path = Path(os.environ["CLRAY_DATA"]) / "weights/mobilenetv1_100.imagenet-12of13.safetensors"
    model = build(
        "timm/mobilenetv1_100",
        weights=str(path),
        frozen=True,
        image_size=96,
        options={"pad_type": "same"},
    )
    x = torch.rand(2, 3, 32, 32)
    features = model.encoder(x)
    assert features.shape == (2, 1024)
    assert not features.requires_grad
    scaled = nn.functional.interpolate(x, (96, 96), mode="bilinear") * 255 / 127.5 - 1
    with torch.no_grad():
        expected = model.encoder.network(scaled)  # type: ignore[operator]
    assert torch.allclose(features, expected, atol=1e-4)
