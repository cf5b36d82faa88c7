"""Batch normalisation put into the convolutions before it, and activations that leak.

In evaluation mode batch normalisation is an affine map of each channel: folded into the layer that
it follows, it is gone, and its scale and shift are part of weights and biases that can be learned.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_weights

from clray.models.matrix_layers import is_matrix

TOLERANCE = 1e-3
"""How far, relative to the largest output, a folded network may be from the given one."""


class Leak(nn.Module):
    """``slope`` times x below zero; above it x, up to ``limit``."""

    def __init__(self, slope: float, limit: float | None) -> None:
        super().__init__()
        self.slope, self.limit = slope, limit

    def forward(self, x: Tensor) -> Tensor:
        """Of any shape."""
        found = F.leaky_relu(x, self.slope)
        return found if self.limit is None else found.clamp(max=self.limit)


def fold_norms(network: nn.Module, x: Any) -> int:
    """Fold each batch normalisation that directly follows a convolution or linear layer into it.

    What timm's layers do after normalising (activation, dropout) stays.

    Args:
        network: changed in place; in evaluation mode.
        x: an input, by which is seen what follows what.

    Returns:
        How many stay, since they follow something else; they are as good in evaluation mode.

    Raises:
        ValueError: what the network does is not what its modules say, so that folding changed it.
    """
    given = _output(network, x)
    names = {module: name for name, module in network.named_modules()}
    for norm, layer in _pairs(network, x).items():
        running = (norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias)
        # A linear layer's is the same, with a kernel of no size.
        weight, bias = fuse_conv_bn_weights(layer.weight, layer.bias, *running)  # type: ignore[arg-type]
        learns = bool(layer.weight.requires_grad)
        layer.weight = nn.Parameter(weight.detach(), learns)
        layer.bias = nn.Parameter(bias.detach(), learns)
        after = [getattr(norm, name) for name in ("drop", "act") if hasattr(norm, name)]
        network.set_submodule(names[norm], nn.Sequential(*after) if after else nn.Identity())
    change = (_output(network, x) - given).abs().max()
    if change > TOLERANCE * given.abs().max():
        raise ValueError(f"folding moved the network's outputs by {float(change):.3g}")
    return sum(isinstance(module, _BatchNorm) for module in network.modules())


def leak(network: nn.Module, slope: float) -> int:
    """Replace each ReLU and ReLU6 by one that leaks, and say how many there were; in place."""
    found = 0
    for name, module in list(network.named_modules(remove_duplicate=False)):
        if type(module) is nn.ReLU:
            network.set_submodule(name, Leak(slope, None))
        elif type(module) is nn.ReLU6:
            network.set_submodule(name, Leak(slope, 6.0))
        else:
            continue
        found += 1
    return found


def _output(network: nn.Module, x: Any) -> Tensor:
    with torch.no_grad():
        found: Tensor = network(x)
        return found


def _pairs(network: nn.Module, x: Any) -> dict[_BatchNorm, nn.Module]:
    """The layer whose output each normalisation takes as it is, both of them used just once."""
    made: dict[int, tuple[nn.Module, int]] = {}
    kept: list[Tensor] = []
    found: dict[_BatchNorm, nn.Module] = {}
    calls: Counter[nn.Module] = Counter()

    def look(module: nn.Module, arguments: tuple[Any, ...], output: Tensor) -> None:
        calls[module] += 1
        if isinstance(module, _BatchNorm):
            layer, version = made.get(id(arguments[0]), (module, -1))
            if arguments[0]._version == version:  # nothing in place came between
                found[module] = layer
        elif type(module) is not nn.Linear or output.dim() == 2:  # of tokens, those are normalised
            made[id(output)] = module, output._version
            kept.append(output)  # so that no other tensor gets its number

    hooks = [
        module.register_forward_hook(look)
        for module in network.modules()
        if is_matrix(module) or (isinstance(module, _BatchNorm) and module.running_mean is not None)
    ]
    try:
        _output(network, x)
    finally:
        for hook in hooks:
            hook.remove()
    return {norm: layer for norm, layer in found.items() if calls[norm] == calls[layer] == 1}
