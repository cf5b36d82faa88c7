"""Heads whose rows of old classes do not learn for the duration of a task.

Harun & Kanan 2024 (arXiv 2306.01904) freeze the outputs of old classes while new ones are learned.
The released code sets their gradients to zero, but weight decay and momentum still move them;
``FrozenRows`` leaves them out of what is trained, so that no optimizer can.

Both stand in for an ``nn.Linear`` and keep its dtype and device; ``plain`` gives it back.
``open_rows`` does so with the head of a classifier whose tasks have rows of their own.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class FrozenRows(nn.Module):
    """A linear layer of which only some rows are parameters.

    Args:
        head: features [B, D] to logits [B, C].
        frozen: bool [C], the rows that stay to the bit.
    """

    rows: Tensor
    kept_weight: Tensor
    kept_bias: Tensor | None

    def __init__(self, head: nn.Linear, frozen: Tensor) -> None:
        super().__init__()
        self.head = (head,)  # in a tuple: its parameters are not this module's
        self.register_buffer("rows", (~frozen).nonzero().squeeze(1))
        self.register_buffer("kept_weight", head.weight.detach())
        self.weight = nn.Parameter(head.weight.detach()[self.rows])
        self.bias: nn.Parameter | None = None
        self.register_buffer("kept_bias", None)
        if head.bias is not None:
            self.kept_bias = head.bias.detach()
            self.bias = nn.Parameter(head.bias.detach()[self.rows])

    def forward(self, x: Tensor) -> Tensor:
        """Logits [B, C] of features [B, D]."""
        weight = self.kept_weight.index_copy(0, self.rows, self.weight)
        bias = None
        if self.kept_bias is not None and self.bias is not None:
            bias = self.kept_bias.index_copy(0, self.rows, self.bias)
        return F.linear(x, weight, bias)

    @torch.no_grad()
    def plain(self) -> nn.Linear:
        """The layer that was given, with the rows that were learned."""
        (head,) = self.head
        head.weight[self.rows] = self.weight
        if self.bias is not None:
            head.bias[self.rows] = self.bias
        return head


class RowsWithoutGradient(nn.Module):
    """A linear layer of which some rows have a gradient of zero, as in the released code: decay and
    momentum still move them.

    Args:
        head: features [B, D] to logits [B, C].
        frozen: bool [C], the rows without a gradient.
    """

    frozen: Tensor

    def __init__(self, head: nn.Linear, frozen: Tensor) -> None:
        super().__init__()
        self.head = (head,)
        self.register_buffer("frozen", frozen)
        self.weight, self.bias = head.weight, head.bias

    def forward(self, x: Tensor) -> Tensor:
        """Logits [B, C] of features [B, D]."""
        weight = torch.where(self.frozen[:, None], self.weight.detach(), self.weight)
        bias = self.bias
        if bias is not None:
            bias = torch.where(self.frozen, bias.detach(), bias)  # type: ignore[assignment]
        return F.linear(x, weight, bias)

    def plain(self) -> nn.Linear:
        """The layer that was given."""
        return self.head[0]


def open_rows(model: nn.Module, classes: Sequence[int]) -> None:
    """Let no rows of a classifier's head learn but those of some classes, until ``close_rows``."""
    head = model.get_submodule("head")
    assert isinstance(head, nn.Linear)
    frozen = torch.ones(head.out_features, dtype=torch.bool, device=head.weight.device)
    frozen[list(classes)] = False
    model.add_module("head", FrozenRows(head, frozen))


def close_rows(model: nn.Module) -> None:
    """Give a classifier its own head back, with the rows that were learned."""
    head = model.get_submodule("head")
    assert isinstance(head, FrozenRows)
    model.add_module("head", head.plain())
