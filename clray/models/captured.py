"""One pass through a network of which each layer's input and output is kept."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Captured:
    """What a network made of a batch.

    Attributes:
        output: [B, D], with its graph.
        inputs: of each layer that was used just once, by name; detached.
        outputs: theirs, in the graph.
    """

    output: Tensor
    inputs: dict[str, Tensor]
    outputs: dict[str, Tensor]

    def gradients(self, cotangent: Tensor, more: bool = True) -> dict[str, Tensor]:
        """At each layer's output, of the sum of output [B, D] times ``cotangent``.

        Args:
            more: whether other cotangents will follow.
        """
        if not self.outputs:
            return {}
        found = torch.autograd.grad(
            self.output,
            list(self.outputs.values()),
            cotangent,
            retain_graph=more,
            materialize_grads=True,
        )
        return dict(zip(self.outputs, found, strict=True))


def capture(model: nn.Module, x: Tensor, layers: dict[str, nn.Module]) -> Captured:
    """Run the model on x [B, ...] and keep what its layers, named as given, met and gave."""
    inputs: dict[nn.Module, Tensor] = {}
    outputs: dict[nn.Module, Tensor] = {}
    calls: Counter[nn.Module] = Counter()

    def note(module: nn.Module, arguments: tuple[Any, ...], output: Tensor) -> Tensor:
        calls[module] += 1
        inputs[module] = arguments[0].detach()
        # Where nothing before it learns, the graph begins here.
        outputs[module] = output if output.requires_grad else output.detach().requires_grad_()
        return outputs[module].clone()  # an in-place layer may follow

    hooks = [module.register_forward_hook(note) for module in layers.values()]
    try:
        with torch.enable_grad():
            output = model(x)
    finally:
        for hook in hooks:
            hook.remove()
    once = {name: module for name, module in layers.items() if calls[module] == 1}
    return Captured(
        output,
        {name: inputs[module] for name, module in once.items()},
        {name: outputs[module] for name, module in once.items()},
    )
