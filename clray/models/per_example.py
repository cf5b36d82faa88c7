"""Sums of squared per-example gradients of a loss, for any network.

What diagonal importances (EWC and its like) are made of. The sum is over examples, each with its
own gradient, so that it does not depend on how they are cut into batches.

Linear, convolution and affine normalisation layers, which hold nearly all parameters of the usual
networks, need one forward and one backward pass: their gradients are rebuilt from their inputs
and output gradients (Goodfellow 2015, arXiv 1510.01799; Rochette et al. 2019, arXiv 1912.06015).
All other parameters go through ``torch.func``, which is exact too, and slower.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn.modules.batchnorm import _BatchNorm

from clray.errors import BadSpec

Losses = Callable[[Tensor], Tensor]

NORMALISATIONS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.LayerNorm, nn.GroupNorm)
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d)
CHUNK = 1 << 24
"""Numbers held at once for per-example weight gradients: 64 MiB of float32."""


def check_independent(model: nn.Module) -> None:
    """Refuse a network that mixes the examples of a batch even in evaluation mode.

    Raises:
        BadSpec: it normalises every batch by its own statistics.
    """
    for name, module in model.named_modules():
        if isinstance(module, _BatchNorm) and not module.track_running_stats:
            accepted = "running statistics, for a method that takes each example's own gradient"
            raise BadSpec(f"model: {name}", "normalisation by each batch alone", accepted)


def squared_gradients(model: nn.Module, x: Tensor, losses: Losses) -> dict[str, Tensor]:
    """Sum over examples of the squared gradient of each example's loss.

    Args:
        model: in evaluation mode, so that no example's output depends on another; a parameter
            of a Linear, convolution or normalisation layer must be used through that layer alone.
        x: [B, ...], what the model takes.
        losses: from the model's output [B, D] to each example's loss [B], or to several [K, B]
            whose squared gradients are added up. It must treat examples independently.

    Returns:
        For each parameter that requires a gradient, by name, a tensor of its shape.

    Raises:
        ValueError: the model is in training mode.
    """
    if model.training:
        raise ValueError("per-example gradients need a model in evaluation mode")
    wanted = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if len(x) == 0:
        return {name: torch.zeros_like(p) for name, p in wanted.items()}
    inputs: dict[nn.Module, Tensor] = {}
    outputs: dict[nn.Module, Tensor] = {}
    calls: Counter[nn.Module] = Counter()

    def capture(module: nn.Module, arguments: tuple[Any, ...], output: Tensor) -> Tensor:
        calls[module] += 1
        inputs[module], outputs[module] = arguments[0].detach(), output
        return output.clone()  # an in-place layer may follow

    layers = _layers(model)
    hooks = [module.register_forward_hook(capture) for module in layers.values()]
    try:
        with torch.enable_grad():
            out = model(x)
    finally:
        for hook in hooks:
            hook.remove()
    cotangents = _cotangents(out, losses)

    usable = {
        name: module
        for name, module in layers.items()
        if calls[module] == 1 and _batched(module, inputs[module], len(x))
    }
    sums = {name: torch.zeros_like(p) for name, p in wanted.items()}
    fast = {f"{name}.{key}".lstrip(".") for name, m in usable.items() for key in _own(m)}
    cotangents = _cotangents(out, losses)
    at = [outputs[module] for module in usable.values()]
    squares: dict[str, Tensor] = {}
    for cotangent in cotangents if at else []:
        gradients = torch.autograd.grad(
            out, at, cotangent, retain_graph=True, materialize_grads=True
        )
        for (name, module), gradient in zip(usable.items(), gradients, strict=True):
            if type(module) is nn.Linear and gradient.dim() == 2:
                square = gradient.square()
                squares[name] = squares[name] + square if name in squares else square
            else:
                _add(sums, name, module, _layer_sums(module, inputs[module], gradient))
    for name, square in squares.items():
        # The square of an outer product is the outer product of the squares.
        weight = square.T @ inputs[usable[name]].square()
        _add(sums, name, usable[name], {"weight": weight, "bias": square.sum(0)})
    others = {name: p for name, p in wanted.items() if name not in fast}
    if others:
        _add_any(sums, model, x, cotangents, others)
    return sums


def _layers(model: nn.Module) -> dict[str, nn.Module]:
    """The layers with a fast way, by name; none that shares a parameter with another."""
    owners = Counter(id(p) for m in model.modules() for p in m.parameters(recurse=False))
    found = {}
    for name, module in model.named_modules():
        own = list(module.parameters(recurse=False))
        if any(owners[id(p)] > 1 for p in own) or not any(p.requires_grad for p in own):
            continue
        plain_conv = type(module) in CONVOLUTIONS and module.padding_mode == "zeros"
        plain_conv = plain_conv and not isinstance(module.padding, str)
        if plain_conv or type(module) is nn.Linear or type(module) in NORMALISATIONS:
            found[name] = module
    return found


def _batched(module: nn.Module, x: Tensor, batch: int) -> bool:
    """Whether the layer saw the examples in its first dimension, and in a shape known here."""
    if isinstance(module, nn.Conv1d | nn.Conv2d):
        return x.dim() == 2 + len(module.kernel_size) and len(x) == batch
    return x.dim() >= 2 and len(x) == batch


def _cotangents(out: Tensor, losses: Losses) -> list[Tensor]:
    """The gradient [B, D] of each of the K losses with respect to the output."""
    leaf = out.detach().requires_grad_()
    with torch.enable_grad():
        values = losses(leaf)
    rows = values.unsqueeze(0) if values.dim() == 1 else values
    return [torch.autograd.grad(row.sum(), leaf, retain_graph=True)[0] for row in rows]


def _own(module: nn.Module) -> list[str]:
    return [key for key, p in module.named_parameters(recurse=False) if p.requires_grad]


def _add(sums: dict[str, Tensor], name: str, module: nn.Module, found: dict[str, Tensor]) -> None:
    for key in _own(module):
        sums[f"{name}.{key}".lstrip(".")] += found[key]


def _layer_sums(module: nn.Module, x: Tensor, gradient: Tensor) -> dict[str, Tensor]:
    """Sums of squares for one layer, from its input and its output's gradient."""
    if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d):
        return _matrix_sums(module, x, gradient)
    product = gradient * _normalised(module, x)
    if isinstance(module, nn.LayerNorm):
        between = list(range(1, x.dim() - len(module.normalized_shape)))
    else:
        between = list(range(2, x.dim()))
    if between:
        product, gradient = product.sum(between), gradient.sum(between)
    return {"weight": product.square().sum(0), "bias": gradient.square().sum(0)}


def _normalised(module: nn.Module, x: Tensor) -> Tensor:
    """What a normalisation layer gives before its weight and bias."""
    if isinstance(module, nn.LayerNorm):
        return F.layer_norm(x, module.normalized_shape, eps=module.eps)
    if isinstance(module, nn.GroupNorm):
        return F.group_norm(x, module.num_groups, eps=module.eps)
    assert isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d)
    return F.batch_norm(x, module.running_mean, module.running_var, eps=module.eps)


def _matrix_sums(
    module: nn.Linear | nn.Conv1d | nn.Conv2d, x: Tensor, gradient: Tensor
) -> dict[str, Tensor]:
    """For a weight that is used at L places of each example, such as pixels or tokens."""
    conv = None if isinstance(module, nn.Linear) else module
    overlap = math.prod(conv.kernel_size) if conv else 1  # numbers unfolded from one, at most
    size = max(1, CHUNK // max(module.weight.numel(), x[0].numel() * overlap))
    weight = torch.zeros_like(module.weight).flatten(1)
    for part, rows in zip(torch.split(x, size), torch.split(gradient, size), strict=True):
        if conv:
            groups = conv.groups
            columns = _unfolded(conv, part)
            columns = columns.view(len(part), groups, -1, columns.shape[2])
            rows = rows.reshape(len(part), groups, -1, columns.shape[3])
        else:
            columns = part.flatten(1, -2).transpose(1, 2).unsqueeze(1)
            rows = rows.flatten(1, -2).transpose(1, 2).unsqueeze(1)
        # [b, G, O / G, L] @ [b, G, L, I]: each example's gradient, of grouped layers too.
        weight += (rows @ columns.transpose(2, 3)).square_().sum(0).flatten(0, 1)
    bias = gradient.flatten(2).sum(2) if conv else gradient.flatten(1, -2).sum(1)
    return {"weight": weight.view_as(module.weight), "bias": bias.square().sum(0)}


def _unfolded(conv: nn.Conv1d | nn.Conv2d, x: Tensor) -> Tensor:
    """What each place of a convolution's output is made of, [b, I, L]."""
    pad = conv.padding
    assert not isinstance(pad, str)
    if isinstance(conv, nn.Conv2d):
        return F.unfold(x, conv.kernel_size, conv.dilation, pad, conv.stride)
    # One row of pixels.
    size, gap, step = (1, *conv.kernel_size), (1, *conv.dilation), (1, *conv.stride)
    return F.unfold(x.unsqueeze(2), size, gap, (0, *pad), step)


def _add_any(
    sums: dict[str, Tensor],
    model: nn.Module,
    x: Tensor,
    cotangents: list[Tensor],
    parameters: dict[str, nn.Parameter],
) -> None:
    """Add the sums of squares for parameters of any kind, one gradient for each example."""
    values = {name: p.detach() for name, p in parameters.items()}
    size = max(1, CHUNK // max(1, sum(p.numel() for p in values.values())))

    def output(values: dict[str, Tensor], row: Tensor, cotangent: Tensor) -> Tensor:
        out: Tensor = functional_call(model, values, (row.unsqueeze(0),))
        return (out[0] * cotangent).sum()

    gradients_of = vmap(grad(output), in_dims=(None, 0, 0))
    for cotangent in cotangents:
        for rows, weights in zip(torch.split(x, size), torch.split(cotangent, size), strict=True):
            for name, gradient in gradients_of(values, rows, weights).items():
                sums[name] += gradient.square().sum(0)
