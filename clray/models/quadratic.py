"""A diagonal quadratic around old weights: the penalty of importance-based regularisers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class Quadratic:
    """sum of F * (theta - centre)^2 + constant, over all parameters that require a gradient.

    A sum of such quadratics is one again, around the mean of the centres weighted by F: what is
    kept does not grow with the number of tasks, and a call costs a few passes over the weights.

    Attributes:
        importance, centre: float [P], the parameters laid end to end in the model's order.
        constant: 0-d; how far apart the centres that were added are.
        empty: whether nothing was added yet.
    """

    def __init__(self, model: nn.Module) -> None:
        flat = _flat(_parameters(model))
        self.importance = torch.zeros_like(flat)
        self.centre = flat
        self.constant = flat.new_zeros(())
        self.empty = True

    def add(self, model: nn.Module, importance: dict[str, Tensor]) -> None:
        """Add a quadratic around the model's weights."""
        theta, new = self._here(model, importance)
        both = self.importance + new
        share = torch.where(both > 0, new / both, torch.ones_like(both))
        gap = theta - self.centre
        self.constant = self.constant + (self.importance * share * gap.square()).sum()
        self.centre = self.centre + share * gap
        self.importance = both

    def move(self, model: nn.Module, importance: dict[str, Tensor], decay: float = 1.0) -> None:
        """Add to ``decay`` times the old importance, and put the centre at the model's weights."""
        theta, new = self._here(model, importance)
        self.importance = decay * self.importance + new
        self.centre = theta

    def _here(self, model: nn.Module, importance: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        self.empty = False
        names = [name for name, p in model.named_parameters() if p.requires_grad]
        return _flat(_parameters(model)), _flat([importance[name] for name in names])

    def __call__(self, model: nn.Module) -> Tensor:
        """The value at the model's weights, 0-d and differentiable."""
        value: Tensor = _Value.apply(
            self.importance, self.centre, self.constant, *_parameters(model)
        )
        return value

    @property
    def num_bytes(self) -> int:
        """What is kept, once there is anything to keep."""
        kept = (self.importance, self.centre, self.constant)
        return 0 if self.empty else sum(t.numel() * t.element_size() for t in kept)


class _Value(torch.autograd.Function):
    """The gradient is at hand when the value is, so nothing is recorded in between."""

    @staticmethod
    def forward(
        ctx: Any, importance: Tensor, centre: Tensor, constant: Tensor, *parameters: Tensor
    ) -> Tensor:
        gap = _flat(parameters).sub_(centre)
        pull = importance * gap
        ctx.save_for_backward(pull)
        ctx.shapes = [p.shape for p in parameters]
        return torch.dot(pull, gap) + constant

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> Any:
        (pull,) = ctx.saved_tensors
        parts = (pull * (2 * outputs[0])).split([shape.numel() for shape in ctx.shapes])
        gradients = [part.view(shape) for part, shape in zip(parts, ctx.shapes, strict=True)]
        return None, None, None, *gradients


def _parameters(model: nn.Module) -> list[nn.Parameter]:
    return [p for p in model.parameters() if p.requires_grad]


def _flat(tensors: Any) -> Tensor:
    return torch.cat([t.detach().reshape(-1) for t in tensors])
