"""Prompts go where they should, and without them the network is timm's."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from clray import registry
from clray.errors import BadSpec
from clray.models.prompted_vit import (
    check_layers,
    check_transformer,
    embedded,
    pooled,
    prefixed_attention,
    with_prefixes,
    with_tokens,
)
from clray.spec import Component

SMALL: dict[str, Any] = {
    "img_size": 8,
    "patch_size": 4,
    "embed_dim": 16,
    "depth": 3,
    "num_heads": 2,
    "weight_init": "jax",
}
VARIANTS: list[dict[str, Any]] = [
    {},
    {"class_token": False, "global_pool": "avg"},
    {"reg_tokens": 2, "no_embed_class": True, "init_values": 0.3, "qk_norm": True},
]


def network(**options: Any) -> Any:
    torch.manual_seed(0)
    name = "vit_tiny_patch16_224"
    made: nn.Module = timm.create_model(name, num_classes=0, **SMALL, **options)
    return made.eval().requires_grad_(False)


def images() -> Tensor:
    return torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("options", VARIANTS)
def test_without_prompts_it_is_timms_own(options: dict[str, Any]) -> None:
    net, x = network(**options), images()
    tokens = embedded(net, x)
    torch.testing.assert_close(pooled(net, net.blocks(tokens)), net(x))
    torch.testing.assert_close(with_tokens(net, tokens, tokens[:, :0]), net.forward_features(x))
    for layers in (0, 2, 3):
        prefixes = torch.zeros(layers, 3, 0, 16)
        torch.testing.assert_close(with_prefixes(net, tokens, prefixes), net(x))


def test_tokens_in_front_are_tokens_like_others() -> None:
    """Tokens know no order but by their positions: put in front, an image's last ones do the same
    as where they stood."""
    net = network()
    tokens = embedded(net, images())
    outputs = with_tokens(net, tokens[:, :-2], tokens[:, -2:])
    expected = net.norm(net.blocks(tokens))
    torch.testing.assert_close(outputs, torch.cat([expected[:, -2:], expected[:, :-2]], 1))


def test_attention_to_a_prefix_by_hand() -> None:
    attention = network(qk_norm=True).blocks[0].attn
    x, keys, values = (torch.randn(2, n, 16) for n in (5, 3, 3))
    q, k, v = (part.unflatten(2, (2, 8)) for part in attention.qkv(x).chunk(3, 2))
    q, k = attention.q_norm(q), attention.k_norm(k)
    mixed = torch.empty(2, 5, 16)
    for image in range(2):
        for head in range(2):
            own = slice(8 * head, 8 * head + 8)
            all_k = torch.cat([keys[image, :, own], k[image, :, head]])
            all_v = torch.cat([values[image, :, own], v[image, :, head]])
            weights = (q[image, :, head] @ all_k.T / 8**0.5).softmax(1)
            mixed[image, :, own] = weights @ all_v
    torch.testing.assert_close(
        prefixed_attention(attention, x, keys, values), attention.proj(mixed)
    )
    torch.testing.assert_close(
        prefixed_attention(attention, x, keys[:, :0], values[:, :0]), attention(x)
    )


def test_keys_come_first_in_a_prefix_and_the_first_layers_get_them() -> None:
    net = network()
    tokens = embedded(net, images())
    prefixes = torch.randn(2, 3, 6, 16)
    x = tokens
    for block, prefix in zip(net.blocks[:2], prefixes, strict=True):
        x = x + prefixed_attention(block.attn, block.norm1(x), prefix[:, :3], prefix[:, 3:])
        x = x + block.mlp(block.norm2(x))
    expected = net.norm(net.blocks[2](x))[:, 0]
    torch.testing.assert_close(with_prefixes(net, tokens, prefixes), expected)


def test_models_that_cannot_be_prompted_are_refused() -> None:
    def build(name: str, **knobs: Any) -> nn.Module:
        component = Component(name=name, **knobs)
        made: nn.Module = registry.configure("model", component).build(
            registry.find("model", name).variant, (1, 8, 8), 2
        )
        return made

    tiny = "timm/vit_tiny_patch16_224"
    check_transformer(build(tiny, frozen=True, options=SMALL), "x")
    with pytest.raises(BadSpec, match=r"method x: got 'Sequential'; accepted: a frozen vision"):
        check_transformer(build("mlp"), "x")
    with pytest.raises(BadSpec, match="got 'ResNet'"):
        check_transformer(build("timm/resnet10t", frozen=True, image_size=32), "x")
    for knobs in ({}, {"frozen": True, "norm": "layer"}):
        with pytest.raises(BadSpec, match="an encoder that learns"):
            check_transformer(build(tiny, options=SMALL, **knobs), "x")


def test_layers_that_take_no_prefix_are_refused() -> None:
    check_layers(network(), 3, "x")
    with pytest.raises(BadSpec, match=r"num_layers: got 4; accepted: at most 3"):
        check_layers(network(), 4, "x")
    with pytest.raises(BadSpec, match="Block with DiffAttention"):
        check_layers(network(attn_layer="diff"), 1, "x")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("timm/vit_base_patch16_224", True),
        ("timm/deit_tiny_distilled_patch16_224", True),
        ("timm/resnet18", False),
        ("timm/swin_tiny_patch4_window7_224", False),
        ("mlp", False),
        ("torchvision/vit_b_16", False),
    ],
)
def test_a_vision_transformer_is_known_by_its_name(name: str, expected: bool) -> None:
    config = registry.configure("model", Component(name=name))
    assert config.is_vision_transformer(registry.find("model", name).variant) == expected
