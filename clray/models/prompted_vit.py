"""A vision transformer of timm's with prompts: as tokens, or in front of keys and values.

What is learned comes in from outside: the network stays as it is, and is meant to be frozen and in
evaluation mode, for no dropout is applied where a prefix comes in. Gradients reach the prompts.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clray.errors import BadSpec
from clray.models.image_encoder import Encoder

ACCEPTED = (
    "a frozen vision transformer of timm's on images, such as timm/vit_base_patch16_224 with "
)
ACCEPTED += "frozen: true and weights"


def check_transformer(model: nn.Module, method: str) -> None:
    """Refuse a model that cannot be prompted.

    Args:
        model: an encoder and a head.
        method: whose name an error gives.

    Raises:
        BadSpec: its encoder is no frozen vision transformer of timm's, or reads features.
    """
    from timm.models.vision_transformer import VisionTransformer

    encoder = getattr(model, "encoder", None)
    network = getattr(encoder, "network", None)
    if not isinstance(encoder, Encoder) or not isinstance(network, VisionTransformer):
        given = type(encoder if network is None else network).__name__
        raise BadSpec(f"model, for method {method}", given, ACCEPTED)
    if not encoder.frozen or encoder.norm is not None:
        raise BadSpec(f"model, for method {method}", "an encoder that learns", ACCEPTED)


def check_layers(network: Any, num_layers: int, method: str) -> None:
    """Refuse a transformer that has no such layers for prefixes.

    Args:
        network: a ``VisionTransformer``.
        num_layers: how many of its first layers get a prefix.
        method: whose name an error gives.

    Raises:
        BadSpec: it has fewer, or others than timm's plain blocks.
    """
    from timm.layers import Attention
    from timm.models.vision_transformer import Block

    if num_layers > len(network.blocks):
        accepted = f"at most {len(network.blocks)}, as many as the encoder has"
        raise BadSpec(f"method {method}: num_layers", num_layers, accepted)
    for block in network.blocks[:num_layers]:
        kinds = type(block), type(block.attn) if hasattr(block, "attn") else None
        if kinds != (Block, Attention) or block.attn.attn_dim != network.embed_dim:
            given = " with ".join(kind.__name__ for kind in kinds if kind is not None)
            accepted = "timm's Block with Attention, as wide as its tokens"
            raise BadSpec(f"layers of the model, for method {method}", given, accepted)


def embedded(network: Any, x: Tensor) -> Tensor:
    """Tokens [B, T, D], with positions, that go into the first layer for float [B, 3, H, W]."""
    tokens: Tensor = network._pos_embed(network.patch_embed(x))
    ready: Tensor = network.norm_pre(network.patch_drop(tokens))
    return ready


def pooled(network: Any, outputs: Tensor) -> Tensor:
    """The network's own features [B, D] of what its last layer gives [B, T, D]."""
    features: Tensor = network.forward_head(network.norm(outputs), pre_logits=True)
    return features


def with_tokens(network: Any, tokens: Tensor, prompts: Tensor) -> Tensor:
    """What the network gives for prompts [B, P, D] and tokens [B, T, D] behind them.

    Returns:
        [B, P + T, D], normalised.
    """
    outputs: Tensor = network.norm(network.blocks(torch.cat([prompts, tokens], 1)))
    return outputs


def with_prefixes(network: Any, tokens: Tensor, prefixes: Tensor) -> Tensor:
    """Features [B, D] of tokens [B, T, D].

    Args:
        prefixes: [L, B, 2 * P, D] for the first L layers: P keys, then P values.
    """
    for number, block in enumerate(network.blocks):
        if number < len(prefixes):
            keys, values = prefixes[number].chunk(2, 1)
            attended = prefixed_attention(block.attn, block.norm1(tokens), keys, values)
            tokens = tokens + block.ls1(attended)
            tokens = tokens + block.ls2(block.mlp(block.norm2(tokens)))
        else:
            tokens = block(tokens)
    return pooled(network, tokens)


def prefixed_attention(attention: Any, x: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Self-attention of tokens [B, T, D] that also attend to P keys and values [B, P, D].

    Args:
        attention: timm's ``Attention``, with its own projections of the tokens alone.
    """
    shape = attention.num_heads, attention.head_dim
    q, k, v = attention.qkv(x).unflatten(2, (3, *shape)).permute(2, 0, 3, 1, 4)
    q, k = attention.q_norm(q), attention.k_norm(k)
    more_k, more_v = (t.reshape(*t.shape[:2], *shape).transpose(1, 2) for t in (keys, values))
    mixed = F.scaled_dot_product_attention(q, torch.cat([more_k, k], 2), torch.cat([more_v, v], 2))
    joined = attention.norm(mixed.transpose(1, 2).flatten(2))
    if attention.gate is not None:
        joined = joined * attention.gate(x).sigmoid()
    out: Tensor = attention.proj(joined)
    return out
