"""The rescaled squared loss of classes as targets, and what its curvature is estimated with."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Noise = Literal["rademacher", "gaussian", "exact"]


def squared_losses(logits: Tensor, y: Tensor, competing: Tensor, scale: float) -> Tensor:
    """Half the squared distance of each example to ``scale`` times its one-hot class, [B].

    With the half and the sum over classes, its second derivative by the logits is the identity.
    Hui & Belkin 2021 (arXiv 2006.07322) and LQF (Achille et al. 2021, arXiv 2012.11140) rescale.

    Args:
        logits: [B, C].
        y: int64 [B].
        competing: bool [B, C]; the others are left out.
        scale: of the targets.
    """
    target = F.one_hot(y, logits.shape[1]).to(logits.dtype) * scale
    return ((logits - target) * competing).square().sum(1) / 2


def output_noise(
    noise: Noise, size: int, part: slice, competing: Tensor, generator: torch.Generator
) -> list[Tensor]:
    """Gradients at the logits whose outer products have the identity as their mean or sum.

    Args:
        noise: random signs, standard normal numbers, or one vector for each class.
        size: examples in all workers' batches; drawn for all, on the CPU.
        part: this worker's.
        competing: bool [B, C], for this worker's examples; the others get nothing.
        generator: on the CPU, in step on all workers.

    Returns:
        One [B, C], or with ``exact`` one for each output that competes for an example.
    """
    num_classes = competing.shape[1]
    like = competing.to(torch.get_default_dtype())
    if noise == "exact":
        every = torch.eye(num_classes, device=like.device)
        return [like * one for one in every[competing.any(0)]]
    if noise == "gaussian":
        drawn = torch.randn(size, num_classes, generator=generator)
    else:
        drawn = torch.randint(2, (size, num_classes), generator=generator) * 2.0 - 1
    return [drawn[part].to(like) * like]
