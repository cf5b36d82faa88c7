"""Adapters change nothing at first, learn alone, and leave a plain network."""

from __future__ import annotations

import io

import pytest
import torch
from torch import Tensor, nn

from clray.models.low_rank_adapters import Adapted, LowRankAdapter, adaptable, narrowest


def network() -> nn.Sequential:
    torch.manual_seed(0)
    shared = nn.Linear(6, 6)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1),
        nn.BatchNorm2d(6),
        nn.Conv2d(6, 8, 1, stride=2),
        nn.Conv2d(8, 8, 1, groups=2),
        nn.Conv2d(8, 6, 1, bias=False),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        shared,
        nn.GELU(),
        shared,
    )


def images() -> Tensor:
    return torch.randn(5, 3, 8, 8, generator=torch.Generator().manual_seed(3))


def stir(adapted: Adapted) -> None:
    for adapter in adapted.adapters:
        nn.init.normal_(adapter.up)


def test_fresh_adapters_change_nothing() -> None:
    plain = network().eval()
    before = plain(images())
    adapted = Adapted(plain, 3, 1.0)
    assert len(adapted.adapters) == 3  # the shared layer once
    assert torch.equal(plain(images()), before)
    bounds = [(a.down.abs().max(), a.down.shape[1] ** -0.5) for a in adapted.adapters]
    assert all(largest <= bound for largest, bound in bounds)


@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
def test_merged_answers_as_before_and_is_plain(dtype: torch.dtype, rtol: float) -> None:
    plain = network().eval().to(dtype)
    plain[1].requires_grad_(False)
    names, learning = list(plain.state_dict()), [p.requires_grad for p in plain.parameters()]
    before = plain(images().to(dtype))
    adapted = Adapted(plain, 3, 2.0)
    stir(adapted)
    after = plain(images().to(dtype))
    assert not torch.allclose(before, after)
    for adapter in adapted.adapters:
        x = torch.randn(2, adapter.weight.shape[1]).to(dtype)
        if isinstance(adapter.layer, nn.Linear):
            expected = nn.functional.linear(x, adapter.weight, adapter.bias)
            torch.testing.assert_close(adapter(x), expected, rtol=rtol, atol=rtol)
    adapted.merge()
    torch.testing.assert_close(plain(images().to(dtype)), after, rtol=rtol, atol=rtol)
    assert list(plain.state_dict()) == names
    assert [p.requires_grad for p in plain.parameters()] == learning
    assert not any(isinstance(m, LowRankAdapter) for m in plain.modules())
    with pytest.raises(RuntimeError, match="merged before"):
        adapted.merge()


def test_adapters_alone_learn_and_statistics_stay() -> None:
    plain = network()
    adapted = Adapted(plain, 2, 1.0)
    learning = {id(p) for p in plain.parameters() if p.requires_grad}
    assert learning == {id(p) for a in adapted.adapters for p in (a.down, a.up)}
    assert adapted.num_parameters == 2 * (6 + 8 + 8 + 6 + 6 + 6)
    plain.train()
    adapted.freeze_statistics()
    before = {k: v.clone() for k, v in plain.state_dict().items() if "running" in k}
    plain(images()).sum().backward()
    assert all(a.up.grad is not None and a.up.grad.any() for a in adapted.adapters)
    assert all(torch.equal(plain.state_dict()[k], v) for k, v in before.items())


def test_layers_that_do_not_learn_or_share_a_weight_stay() -> None:
    tied = nn.Linear(4, 4)
    tied.weight = (first := nn.Linear(4, 4)).weight
    frozen = nn.Linear(4, 4).requires_grad_(False)
    attention = nn.MultiheadAttention(4, 2)  # takes weights from its layer, of a class of its own
    assert adaptable(nn.Sequential(first, tied, frozen, attention)) == []
    layers = adaptable(network())
    assert [tuple(layer.weight.shape[:2]) for layer in layers] == [(8, 6), (6, 8), (6, 6)]
    assert narrowest(layers) == 6


def test_is_stored_in_the_middle() -> None:
    plain = network().eval()
    adapted = Adapted(plain, 2, 1.0)
    stir(adapted)
    stored = io.BytesIO()
    torch.save((plain, adapted), stored)
    stored.seek(0)
    other, its_adapted = torch.load(stored, weights_only=False)
    adapted.merge()
    its_adapted.merge()
    pairs = zip(plain.state_dict().values(), other.state_dict().values(), strict=True)
    assert all(torch.equal(one, two) for one, two in pairs)


@pytest.mark.parametrize(
    "name", ["mobilenetv3_small_050", "convnextv2_atto", "vit_tiny_patch16_224"]
)
def test_deep_networks_are_adapted(name: str) -> None:
    import timm

    torch.manual_seed(0)
    options = {"img_size": 32} if name.startswith("vit") else {}
    plain = timm.create_model(name, num_classes=0, **options).eval()
    x = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        before = plain(x)
        adapted = Adapted(plain, 1, 1.0)
        assert len(adapted.adapters) > 10
        assert torch.equal(plain(x), before)
        stir(adapted)
        after = plain(x)
        assert not torch.allclose(before, after)
        adapted.merge()
        torch.testing.assert_close(plain(x), after, rtol=1e-3, atol=1e-3)


def test_as_many_numbers_learn_as_in_the_released_code() -> None:
    """The last two stages of ConvNeXt V2 Femto at rank 48, with a head of 1,365 classes."""
    import timm

    plain = timm.create_model("convnextv2_femto", num_classes=0).requires_grad_(False)
    plain.stages[2:].requires_grad_(True)
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        below = plain.stages[1](plain.stages[0](plain.stem(x)))
    adapted = Adapted(plain, 48, 1.0)
    assert len(adapted.adapters) == 16
    assert adapted.num_parameters == 921_600
    assert sum(p.numel() for p in plain.parameters() if p.requires_grad) == 921_600
    assert sum(p.numel() for p in nn.Linear(384, 1365).parameters()) == 525_525
    optimizer = torch.optim.AdamW([p for p in plain.parameters() if p.requires_grad], 0.01)
    plain(x).square().sum().backward()
    optimizer.step()
    adapted.merge()
    with torch.no_grad():
        after = plain.stages[1](plain.stages[0](plain.stem(x)))
    assert torch.equal(below, after)
