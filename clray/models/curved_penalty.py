"""A quadratic pull of weights towards where old tasks left them, along the curvature there.

    1/2 (w - w*)' (strength * examples * H + ridge * I) (w - w*)

H being the mean curvature of the examples so far. With H exact, w* the minimum, and tasks whose
losses are quadratic, this is the loss of all old tasks together, but for a constant.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from clray.models.curvature import Block, Summed
from clray.models.matrix_layers import as_matrix, from_matrix

Accumulate = Literal["factors", "sum"]


@dataclass(frozen=True)
class Part:
    """Parameters whose curvature is one block.

    Attributes:
        parameters: of a layer, its weight and, if it has one, its bias; else any.
        groups: G of a layer; None: they are laid out as one column [1, P, 1].
    """

    parameters: tuple[nn.Parameter, ...]
    groups: int | None

    def pack(self, values: Sequence[Tensor]) -> Tensor:
        """Tensors of the parameters' shapes as [G, O, I]."""
        if self.groups is None:
            return torch.cat([value.reshape(-1) for value in values]).view(1, -1, 1)
        return as_matrix(values[0], values[1] if len(values) > 1 else None, self.groups)

    def unpack(self, matrix: Tensor) -> list[Tensor]:
        """The reverse."""
        if self.groups is None:
            sizes = [p.numel() for p in self.parameters]
            pieces = torch.split(matrix.view(-1), sizes)
            return [piece.view_as(p) for piece, p in zip(pieces, self.parameters, strict=True)]
        weight, bias = from_matrix(
            matrix, self.parameters[0], self.parameters[1] if len(self.parameters) > 1 else None
        )
        return [weight] if bias is None else [weight, bias]


class CurvedPenalty:
    """The pull of all old tasks.

    Args:
        parts: what is pulled, by name.
        accumulate: whether the factors of tasks are averaged, or their blocks kept side by side.

    Attributes:
        centres: w* of each parameter of each part.
        blocks: H; none before the first task.
        examples: how many H is the mean of.
    """

    def __init__(self, parts: dict[str, Part], accumulate: Accumulate) -> None:
        self.parts, self.accumulate = parts, accumulate
        self.blocks: dict[str, Block] = {}
        self.examples = 0
        self.centres: dict[str, list[Tensor]] = {}
        self.recentre()

    def recentre(self) -> None:
        """Put the centre where the weights are."""
        self.centres = {
            name: [p.detach().clone() for p in part.parameters] for name, part in self.parts.items()
        }

    def add(self, blocks: dict[str, Block], examples: int) -> None:
        """Mix the mean curvature of new examples in, and put the centre where the weights are.

        Args:
            blocks: by part; of the same parts each time.
        """
        if self.accumulate == "sum":
            blocks = {name: Summed((block,), (1.0,)) for name, block in blocks.items()}
        self.examples += examples
        share = examples / self.examples
        for name, block in blocks.items():
            old = self.blocks.get(name)
            self.blocks[name] = block if old is None else old.mix(block, share)
        self.recentre()

    def __call__(self, strength: float, ridge: float) -> Tensor:
        """The value, 0-d and differentiable once, at the weights as they are.

        Args:
            strength: of the curvature; 1: the loss of all old examples, summed.
            ridge: of each weight, in that sum.
        """
        value: Tensor | None = None
        parameters: list[nn.Parameter] = []
        pulls: list[Tensor] = []
        with torch.no_grad():
            for name, part in self.parts.items():
                gaps = torch._foreach_sub(list(part.parameters), self.centres[name])
                step = part.pack(gaps)
                pull = ridge * step
                if name in self.blocks:
                    pull = pull + (strength * self.examples) * self.blocks[name].times(step)
                half = torch.dot(step.flatten(), pull.flatten()) / 2
                value = half if value is None else value + half
                parameters += part.parameters
                pulls += part.unpack(pull)
        found: Tensor = _Pull.apply(value, pulls, *parameters)
        return found

    @property
    def num_bytes(self) -> int:
        """What is kept."""
        kept = [t for block in self.blocks.values() for t in block.tensors]
        kept += [t for centre in self.centres.values() for t in centre]
        return sum(t.numel() * t.element_size() for t in kept)


class _Pull(torch.autograd.Function):
    """The gradient is at hand when the value is, so nothing is recorded in between."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, pulls: list[Tensor], *parameters: Tensor) -> Tensor:
        ctx.save_for_backward(*pulls)
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> Any:
        return None, None, *torch._foreach_mul(ctx.saved_tensors, outputs[0])
