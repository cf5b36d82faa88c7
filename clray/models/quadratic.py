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
        importance, centre: F and centre of each parameter, by name.
        constant: 0-d; how far apart the centres that were added are.
    """

    def __init__(self) -> None:
        self.importance: dict[str, Tensor] = {}
        self.centre: dict[str, Tensor] = {}
        self.constant: Tensor | None = None

    @property
    def empty(self) -> bool:
        """Whether nothing was added yet."""
        return self.constant is None

    def add(self, model: nn.Module, importance: dict[str, Tensor]) -> None:
        """Add a quadratic around the model's weights, with ``importance`` of 0 or more by name."""
        if self.constant is None:
            self.move(model, importance)
            return
        for name, theta in learned_weights(model).items():
            old, new = self.importance[name], importance[name]
            both = old + new
            share = torch.where(both > 0, new / both, torch.ones_like(both))
            gap = theta.detach() - self.centre[name]
            self.constant = self.constant + (old * share * gap.square()).sum()
            self.centre[name] = self.centre[name] + share * gap
            self.importance[name] = both

    def move(self, model: nn.Module, importance: dict[str, Tensor], decay: float = 1.0) -> None:
        """Add to ``decay`` times the old importance, and put the centre at the model's weights."""
        for name, theta in learned_weights(model).items():
            old = self.importance.get(name)
            new = importance[name]
            self.importance[name] = new.clone() if old is None else decay * old + new
            self.centre[name] = theta.detach().clone()
        self.constant = next(iter(self.centre.values())).new_zeros(())

    def __call__(self, model: nn.Module) -> Tensor:
        """The value at the model's weights, 0-d and differentiable.

        Raises:
            ValueError: nothing was added yet.
        """
        if self.constant is None:
            raise ValueError("the value of an empty quadratic")
        parameters = learned_weights(model)
        importance = [self.importance[name] for name in parameters]
        centre = [self.centre[name] for name in parameters]
        value: Tensor = _Sum.apply(importance, centre, *parameters.values())
        return value + self.constant

    @property
    def num_bytes(self) -> int:
        """What the importances and centres take."""
        kept = [*self.importance.values(), *self.centre.values()]
        return sum(t.numel() * t.element_size() for t in kept)


class _Sum(torch.autograd.Function):
    """The gradient is at hand when the value is, so nothing is recorded in between."""

    @staticmethod
    def forward(
        ctx: Any, importance: list[Tensor], centre: list[Tensor], *parameters: Tensor
    ) -> Tensor:
        gaps = torch._foreach_sub(parameters, centre)
        pulls = torch._foreach_mul(importance, gaps)
        ctx.save_for_backward(*pulls)
        parts = [torch.dot(p.flatten(), g.flatten()) for p, g in zip(pulls, gaps, strict=True)]
        return torch.stack(parts).sum()

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> Any:
        return None, None, *torch._foreach_mul(ctx.saved_tensors, 2 * outputs[0])


def learned_weights(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that require a gradient, by name."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}
