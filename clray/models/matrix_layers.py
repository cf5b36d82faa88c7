"""Linear and convolution layers as matrices that multiply the inputs of each place.

A convolution is a linear layer that is used at every pixel of its output, on the patch there; one
on tokens is used at every token; a grouped convolution is G such layers side by side. So a layer's
weights are G matrices [O, I], the bias their last column; an example's inputs are [G, I, P] and the
gradient at its outputs [G, O, P], of P places; and an example's gradient by the weights is their
product. Curvature in Kronecker factors (Martens & Grosse 2015, arXiv 1503.05671; Grosse & Martens
2016, arXiv 1602.01407) is made of these two.
"""

from __future__ import annotations

import math
from collections import Counter

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def is_matrix(module: nn.Module) -> bool:
    """Whether a layer's inputs can be laid out here: Linear, or a convolution that pads zeros."""
    if type(module) in (nn.Conv1d, nn.Conv2d) or _is_timm_same(module):
        return module.padding_mode == "zeros"
    return type(module) is nn.Linear


def own_matrices(network: nn.Module) -> dict[str, nn.Module]:
    """The layers of a network whose inputs can be laid out here, that learn and share no parameter
    with another, by name."""
    owners = Counter(id(p) for m in network.modules() for p in m.parameters(recurse=False))
    found = {}
    for name, module in network.named_modules():
        own = list(module.parameters(recurse=False))
        if is_matrix(module) and all(owners[id(p)] == 1 and p.requires_grad for p in own):
            found[name] = module
    return found


def num_groups(module: nn.Module) -> int:
    """G: 1, but for grouped convolutions."""
    return module.groups if isinstance(module, nn.Conv1d | nn.Conv2d) else 1


def inputs_of(module: nn.Module, x: Tensor) -> Tensor:
    """What each place of a layer's output is made of: [B, G, I, P], without the bias's ones."""
    if not isinstance(module, nn.Conv1d | nn.Conv2d):
        return x.flatten(1, -2).transpose(1, 2).unsqueeze(1) if x.dim() > 2 else x[:, None, :, None]
    columns = _unfolded(module, x)
    return columns.view(len(x), module.groups, -1, columns.shape[2])


def outputs_of(module: nn.Module, x: Tensor) -> Tensor:
    """A layer's output, or the gradient there, by places: [B, G, O, P]."""
    if isinstance(module, nn.Conv1d | nn.Conv2d):
        return x.reshape(len(x), module.groups, -1, x.shape[2:].numel())
    return inputs_of(module, x)


def with_ones(inputs: Tensor) -> Tensor:
    """Inputs [B, G, I, P] and a one for the bias: [B, G, I + 1, P]."""
    return F.pad(inputs, (0, 0, 0, 1), value=1.0)


def as_matrix(weight: Tensor, bias: Tensor | None, groups: int) -> Tensor:
    """A layer's weights as matrices [G, O, I], or [G, O, I + 1] with a bias."""
    matrix = weight.reshape(groups, weight.shape[0] // groups, -1)
    if bias is None:
        return matrix
    return torch.cat([matrix, bias.view(groups, -1, 1)], 2)


def from_matrix(
    matrix: Tensor, weight: Tensor, bias: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """The reverse: tensors of the shapes of weight and bias."""
    if bias is None:
        return matrix.reshape(weight.shape), None
    return matrix[:, :, :-1].reshape(weight.shape), matrix[:, :, -1].reshape(bias.shape)


def _unfolded(conv: nn.Conv1d | nn.Conv2d, x: Tensor) -> Tensor:
    """What each place of a convolution's output is made of, [B, I * G, P]."""
    size, gap, step = conv.kernel_size, conv.dilation, conv.stride
    pad = conv.padding
    if _pads_to_same(conv):
        missing = [
            max((math.ceil(n / s) - 1) * s + (k - 1) * d + 1 - n, 0)
            for n, k, d, s in zip(x.shape[2:], size, gap, step, strict=True)
        ]
        x = F.pad(x, [side for m in reversed(missing) for side in (m // 2, m - m // 2)])
        pad = (0,) * len(size)
    elif isinstance(pad, str):  # "valid"
        pad = (0,) * len(size)
    if isinstance(conv, nn.Conv2d):
        if size == (1, 1) and not any(pad):  # patches are pixels
            return x[:, :, :: step[0], :: step[1]].flatten(2)
        return F.unfold(x, size, gap, pad, step)
    # One row of pixels.
    return F.unfold(x.unsqueeze(2), (1, *size), (1, *gap), (0, *pad), (1, *step))


def _pads_to_same(conv: nn.Conv1d | nn.Conv2d) -> bool:
    """Whether a convolution pads, after its end first, to an output of input over stride."""
    return conv.padding == "same" or _is_timm_same(conv)


def _is_timm_same(module: nn.Module) -> bool:
    """By name, since timm takes long to import."""
    return type(module).__module__.startswith("timm.") and type(module).__name__ == "Conv2dSame"
