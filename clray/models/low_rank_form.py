"""What a task computes with, on a network whose layers are shared by low rank.

A form is a set of references to tensors: to put it in place copies nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clray.models.low_rank import Dense, Factored

AFFINE = ("weight", "bias")
STATISTICS = ("running_mean", "running_var")
COUNTER = "num_batches_tracked"

Tensors = dict[str, Tensor]


class Head(nn.Module):
    """A linear layer whose rows are those of the task that answers: [B, features] to [B, classes].

    Attributes:
        rows: of that task.
    """

    rows: Dense

    def __init__(self, features: int) -> None:
        super().__init__()
        self.in_features = features

    def forward(self, x: Tensor) -> Tensor:
        """See above."""
        return F.linear(x, self.rows.weight, self.rows.bias)


@dataclass
class Form:
    """All that a task computes with beside the shared weights.

    Attributes:
        layers: what each takes the form of; None: the first task's.
        norms: parameters and statistics of each.
        head: of the task's classes.
    """

    layers: dict[str, Dense | Factored | None]
    norms: dict[str, Tensors]
    head: Dense

    def factors(self) -> list[Tensor]:
        """U and V of every factored layer."""
        return [factor for f in self.factored() for factor in (f.left, f.right)]

    def scales(self) -> list[Tensor]:
        """R and S of every factored layer."""
        return [scale for f in self.factored() for scale in (f.rows, f.columns)]

    def factored(self) -> list[Factored]:
        """The factored layers' forms, in the order of the layers."""
        return [f for f in self.layers.values() if isinstance(f, Factored)]

    def parameters(self) -> list[nn.Parameter]:
        """What of it learns."""
        forms = [*self.layers.values(), self.head]
        tensors = [value for one in forms if one is not None for value in vars(one).values()]
        tensors += [value for norm in self.norms.values() for value in norm.values()]
        return [t for t in tensors if isinstance(t, nn.Parameter) and t.requires_grad]


def learning(form: Dense) -> Dense:
    """A copy that learns."""
    bias = None if form.bias is None else parameter(form.bias)
    return Dense(parameter(form.weight), bias)


def parameter(value: Tensor) -> nn.Parameter:
    """A copy that learns."""
    return nn.Parameter(value.detach().clone())


def norm_tensors(norm: nn.Module) -> Tensors:
    """The parameters and statistics of a normalisation, themselves."""
    found = {name: getattr(norm, name, None) for name in (*AFFINE, *STATISTICS, COUNTER)}
    return {name: value for name, value in found.items() if value is not None}


def copied_norm(tensors: Mapping[str, Tensor]) -> Tensors:
    """Copies of a normalisation's tensors: scale and shift learn, statistics follow the data."""
    return {n: parameter(v) if n in AFFINE else v.clone() for n, v in tensors.items()}


def still_norm(tensors: Mapping[str, Tensor]) -> Tensors:
    """A normalisation's tensors as its module takes them, to answer with."""
    return {
        n: nn.Parameter(v, requires_grad=False) if n in AFFINE else v for n, v in tensors.items()
    }


def under(path: str, tensors: Mapping[str, Tensor]) -> Tensors:
    """Those of one layer or normalisation."""
    return {
        place.rpartition(".")[2]: value
        for place, value in tensors.items()
        if place.rpartition(".")[0] == path
    }


def drawn_head(classes: int, like: Tensor, features: int, seed: int) -> Dense:
    """Rows of a head as ``torch.nn.Linear`` draws them, from a seed.

    Args:
        classes: how many rows.
        like: whose device and type they get.
        features: inputs.
        seed: of a generator on the CPU.
    """
    generator = torch.Generator().manual_seed(seed)
    bound = features**-0.5
    drawn = torch.rand(classes, features + 1, generator=generator) * (2 * bound) - bound
    drawn = drawn.to(like)
    return Dense(drawn[:, :-1].contiguous(), drawn[:, -1].contiguous())
