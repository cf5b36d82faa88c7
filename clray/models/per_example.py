"""Sums of squared or absolute per-example gradients of a loss, for any network.

What diagonal importances (EWC, MAS and their like) are made of. The sum is over examples, each with
its own gradient, so that it does not depend on how they are cut into batches.

Linear, convolution and affine normalisation layers, which hold nearly all parameters of the usual
networks, need one forward and one backward pass: their gradients are rebuilt from their inputs
and output gradients (Goodfellow 2015, arXiv 1510.01799; Rochette et al. 2019, arXiv 1912.06015).
All other parameters go through ``torch.func``, which is exact too, and slower.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn.modules.batchnorm import _BatchNorm

from clray.errors import BadSpec
from clray.models.captured import capture
from clray.models.matrix_layers import inputs_of, is_matrix, outputs_of
from clray.models.task_sample import Share, Shares

Losses = Callable[[Tensor], Tensor]
"""From a model's output [B, D] to each example's loss [B], or to several [K, B] of each. It must
treat examples independently."""
Measure = Callable[..., Tensor]
"""torch.square or torch.abs: of a product, it is the product of both factors' measures."""

NORMALISATIONS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.LayerNorm, nn.GroupNorm)
CHUNK = 1 << 21
"""Numbers held at once for per-example weight gradients: 8 MiB, which stay in the cache."""
TOGETHER = 32
"""Examples at once on the slow way, where all that the network makes of each is held."""


def check_independent(model: nn.Module) -> None:
    """Refuse a network that mixes the examples of a batch even in evaluation mode.

    Raises:
        BadSpec: it normalises every batch by its own statistics.
    """
    for name, module in model.named_modules():
        if isinstance(module, _BatchNorm) and not module.track_running_stats:
            accepted = "running statistics, for a method that takes each example's own gradient"
            raise BadSpec(f"model: {name}", "normalisation by each batch alone", accepted)


def mean_squared_gradients(
    model: nn.Module,
    shares: Shares,
    losses: Callable[[Share], Losses],
    names: Collection[str] | None = None,
) -> dict[str, Tensor]:
    """Mean over a task's examples, of all workers, of the squared gradient of each one's loss.

    Args:
        model: see ``squared_gradients``.
        shares: this worker's examples.
        losses: those of a share.
        names: see ``squared_gradients``.
    """
    return _means(torch.square, model, shares, losses, names)


def mean_absolute_gradients(
    model: nn.Module, shares: Shares, losses: Callable[[Share], Losses]
) -> dict[str, Tensor]:
    """Like ``mean_squared_gradients``, of the absolute gradient of each example's loss."""
    return _means(torch.abs, model, shares, losses, None)


def squared_gradients(
    model: nn.Module, x: Tensor, losses: Losses, names: Collection[str] | None = None
) -> dict[str, Tensor]:
    """Sum over examples of the squared gradient of each example's loss.

    Args:
        model: in evaluation mode, so that no example's output depends on another; a parameter
            of a Linear, convolution or normalisation layer must be used through that layer alone.
        x: [B, ...], what the model takes.
        losses: of several, the squared gradients are added up.
        names: of the parameters, or None: all that require a gradient.

    Returns:
        For each of these parameters that requires a gradient, by name, a tensor of its shape.

    Raises:
        ValueError: the model is in training mode.
    """
    return _sums(torch.square, model, x, losses, names)


def absolute_gradients(model: nn.Module, x: Tensor, losses: Losses) -> dict[str, Tensor]:
    """Like ``squared_gradients``, of the absolute gradient of each example's loss."""
    return _sums(torch.abs, model, x, losses, None)


def _means(
    measure: Measure,
    model: nn.Module,
    shares: Shares,
    losses: Callable[[Share], Losses],
    names: Collection[str] | None,
) -> dict[str, Tensor]:
    sums = {name: torch.zeros_like(p) for name, p in _wanted(model, names).items()}
    for share in shares:
        x = shares.setup.prepare(share.x)
        for name, value in _sums(measure, model, x, losses(share), names).items():
            sums[name] += value
    group = shares.setup.distributed
    return {name: group.sum(value) / shares.count for name, value in sums.items()}


def _sums(
    measure: Measure,
    model: nn.Module,
    x: Tensor,
    losses: Losses,
    names: Collection[str] | None,
) -> dict[str, Tensor]:
    if model.training:
        raise ValueError("per-example gradients need a model in evaluation mode")
    wanted = _wanted(model, names)
    sums = {name: torch.zeros_like(p) for name, p in wanted.items()}
    if len(x) == 0:
        return sums
    layers = _layers(model, wanted)
    ends = {name: _end(name, module) for name, module in layers.items()}
    paths = dict.fromkeys([*ends, *ends.values()])
    captured = capture(model, x, {path: model.get_submodule(path) for path in paths})
    usable = {
        name: module
        for name, module in layers.items()
        if {name, ends[name]} <= captured.inputs.keys()
        and _batched(module, captured.inputs[name], len(x))
    }
    cotangents = cotangents_of(losses)(captured.output)
    outer: dict[str, Tensor] = {}
    for i, cotangent in enumerate(cotangents):
        gradients = captured.gradients(cotangent, more=i + 1 < len(cotangents))
        for name, module in usable.items():
            gradient = gradients[ends[name]]
            if type(module) is nn.Linear and gradient.dim() == 2:
                part = measure(gradient)
                outer[name] = outer[name] + part if name in outer else part
            else:
                _add(sums, name, _layer_sums(measure, module, captured.inputs[name], gradient))
    for name, total in outer.items():
        # That of an outer product is the outer product of both.
        weight = total.T @ measure(captured.inputs[name])
        _add(sums, name, {"weight": weight, "bias": total.sum(0)})
    fast = {path for name, module in usable.items() for path in _paths(name, module)}
    others = {name: p for name, p in wanted.items() if name not in fast}
    if others:
        _add_any(sums, measure, model, x, cotangents, others)
    return sums


def cotangents_of(losses: Losses) -> Callable[[Tensor], list[Tensor]]:
    """From the output [B, D] to the gradients there, [B, D], of each of the K losses."""

    def cotangents(out: Tensor) -> list[Tensor]:
        leaf = out.detach().requires_grad_()
        with torch.enable_grad():
            values = losses(leaf)
        rows = values.unsqueeze(0) if values.dim() == 1 else values
        return [torch.autograd.grad(row.sum(), leaf, retain_graph=True)[0] for row in rows]

    return cotangents


def _wanted(model: nn.Module, names: Collection[str] | None) -> dict[str, nn.Parameter]:
    return {
        name: p
        for name, p in model.named_parameters()
        if p.requires_grad and (names is None or name in names)
    }


def _layers(model: nn.Module, wanted: dict[str, nn.Parameter]) -> dict[str, nn.Module]:
    """The layers with a fast way, by name; none that shares a parameter with another."""
    owners = Counter(id(p) for m in model.modules() for p in m.parameters(recurse=False))
    found = {}
    for name, module in model.named_modules():
        own = list(module.parameters(recurse=False))
        if any(owners[id(p)] > 1 for p in own) or wanted.keys().isdisjoint(_paths(name, module)):
            continue
        if is_matrix(module) or type(module) in NORMALISATIONS or _is_timm_norm(module):
            found[name] = module
    return found


def _is_timm_norm(module: nn.Module) -> bool:
    """Whether it is timm's batch normalisation with an activation in it."""
    return type(module).__module__.startswith("timm.") and type(module).__name__ == "BatchNormAct2d"


def _end(name: str, module: nn.Module) -> str:
    """The module that gives what the layer's parameters made, before anything else in it."""
    return f"{name}.drop" if _is_timm_norm(module) else name


def _paths(name: str, module: nn.Module) -> list[str]:
    """The names of a layer's own parameters in the model."""
    return [f"{name}.{key}".lstrip(".") for key, _ in module.named_parameters(recurse=False)]


def _batched(module: nn.Module, x: Tensor, batch: int) -> bool:
    """Whether the layer saw the examples in its first dimension, and in a shape known here."""
    if isinstance(module, nn.Conv1d | nn.Conv2d):
        return x.dim() == 2 + len(module.kernel_size) and len(x) == batch
    return x.dim() >= 2 and len(x) == batch


def _add(sums: dict[str, Tensor], name: str, found: dict[str, Tensor]) -> None:
    """Add what is wanted of a layer's sums."""
    for key, value in found.items():
        path = f"{name}.{key}".lstrip(".")
        if path in sums:
            sums[path] += value


def _layer_sums(
    measure: Measure, module: nn.Module, x: Tensor, gradient: Tensor
) -> dict[str, Tensor]:
    """Sums for one layer, from its input and its output's gradient."""
    if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d):
        return _matrix_sums(measure, module, x, gradient)
    product = gradient * _normalised(module, x)
    if isinstance(module, nn.LayerNorm):
        between = list(range(1, x.dim() - len(module.normalized_shape)))
    else:
        between = list(range(2, x.dim()))
    if between:
        product, gradient = product.sum(between), gradient.sum(between)
    return {"weight": measure(product).sum(0), "bias": measure(gradient).sum(0)}


def _normalised(module: nn.Module, x: Tensor) -> Tensor:
    """What a normalisation layer gives before its weight and bias."""
    if isinstance(module, nn.LayerNorm):
        return F.layer_norm(x, module.normalized_shape, eps=module.eps)
    if isinstance(module, nn.GroupNorm):
        return F.group_norm(x, module.num_groups, eps=module.eps)
    assert isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d)
    return F.batch_norm(x, module.running_mean, module.running_var, eps=module.eps)


def _matrix_sums(
    measure: Measure, module: nn.Linear | nn.Conv1d | nn.Conv2d, x: Tensor, gradient: Tensor
) -> dict[str, Tensor]:
    """For a weight that is used at P places of each example, such as pixels or tokens."""
    conv = None if isinstance(module, nn.Linear) else module
    overlap = math.prod(conv.kernel_size) if conv else 1  # numbers unfolded from one, at most
    size = max(1, CHUNK // max(module.weight.numel(), x[0].numel() * overlap))
    weight = torch.zeros_like(module.weight).flatten(1)
    for part, rows in zip(torch.split(x, size), torch.split(gradient, size), strict=True):
        # [b, G, O, P] @ [b, G, P, I]: each example's gradient, of grouped layers too.
        found = outputs_of(module, rows) @ inputs_of(module, part).mT
        weight += measure(found, out=found).sum(0).flatten(0, 1)
    bias = gradient.flatten(2).sum(2) if conv else gradient.flatten(1, -2).sum(1)
    return {"weight": weight.view_as(module.weight), "bias": measure(bias).sum(0)}


def _add_any(
    sums: dict[str, Tensor],
    measure: Measure,
    model: nn.Module,
    x: Tensor,
    cotangents: list[Tensor],
    parameters: dict[str, nn.Parameter],
) -> None:
    """Add the sums for parameters of any kind, one gradient for each example."""
    values = {name: p.detach() for name, p in parameters.items()}
    size = max(1, CHUNK // max(1, sum(p.numel() for p in values.values())))
    size = min(size, TOGETHER)

    def output(values: dict[str, Tensor], row: Tensor, cotangent: Tensor) -> Tensor:
        out: Tensor = functional_call(model, values, (row.unsqueeze(0),))
        return (out[0] * cotangent).sum()

    gradients_of = vmap(grad(output), in_dims=(None, 0, 0))
    for cotangent in cotangents:
        for rows, weights in zip(torch.split(x, size), torch.split(cotangent, size), strict=True):
            for name, gradient in gradients_of(values, rows, weights).items():
                sums[name] += measure(gradient).sum(0)
