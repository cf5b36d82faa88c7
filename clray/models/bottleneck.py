"""A discrete key-value bottleneck in place of a classifier's head: features, codes, values, logits.

Träuble et al. 2023 (arXiv 2207.11240). Features are projected, each projection is replaced by the
number of the nearest key of its codebook, and the logits are decoded from the values that belong to
these keys.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from clray.models.codebooks import Codebooks
from clray.models.value_table import ValueTable

Vote = Literal["counts", "shares", "log-odds"]
PRIOR = 0.1
"""Added to every class count by the vote of log-odds."""


class Bottleneck(nn.Module):
    """Features float [B, D], or codes int16 [B, C], to logits [B, num_classes].

    Args:
        codebooks: makes codes of features; None: examples are codes.
        table: the values of each key.
        decoder: float [num_classes, width of a value], applied to the mean of the values; None: the
            values are logits themselves.
        mask_unused: whether, in evaluation, keys that no training example has selected are passed
            over; never of codes.
        top: how many nearest keys of each codebook are selected, once keys are learned.
        vote: where values are class counts, what they say; None: they are learned.

    Attributes:
        used: bool [C, K], the keys that training examples have selected.
    """

    used: Tensor
    decoder: Tensor | None

    def __init__(
        self,
        codebooks: Codebooks | None,
        table: ValueTable,
        *,
        decoder: Tensor | nn.Parameter | None = None,
        mask_unused: bool = True,
        top: int = 1,
        vote: Vote | None = None,
    ) -> None:
        super().__init__()
        self.codebooks, self.table, self.top, self.vote = codebooks, table, top, vote
        self.mask_unused = mask_unused and codebooks is not None
        shape = (table.num_codebooks, table.num_pairs)
        self.register_buffer("used", torch.zeros(shape, dtype=torch.bool))
        if isinstance(decoder, nn.Parameter):
            self.decoder = decoder
        else:
            self.register_buffer("decoder", decoder)
        self._said: Tensor | None = None

    def codes(self, x: Tensor) -> Tensor:
        """The keys that examples select: int64 [B, C, top], of features [B, D] or codes [B, C]."""
        if self.codebooks is None:
            return x.flatten(1).long()[:, :, None]
        masked = self.mask_unused and not self.training
        return self.codebooks.assign(x, self.used if masked else None, self.top)

    def note(self, codes: Tensor) -> None:
        """Note that training examples have selected these keys, int64 [B, C, top]."""
        books = torch.arange(codes.shape[1], device=codes.device)[None, :, None]
        self.used[books, codes] = True

    def decode(self, codes: Tensor) -> Tensor:
        """Logits [B, num_classes] of int64 [B, C, top]."""
        said = self._votes() if self.vote in ("shares", "log-odds") else None
        values: Tensor = self.table(codes, said)
        return values if self.decoder is None else values @ self.decoder.T

    def forward(self, x: Tensor) -> Tensor:
        """Logits [B, num_classes] of features [B, D] or codes int16 [B, C]."""
        return self.decode(self.codes(x))

    def count(self, codes: Tensor, y: Tensor) -> None:
        """Count the classes int64 [B] of examples that have selected int64 [B, C, top]."""
        self.table.count(codes, y)
        self._said = None

    @torch.no_grad()
    def _votes(self) -> Tensor:
        """What the counts say, float [C * K, num_classes]; kept until more is counted."""
        if self._said is None:
            counts = self.table.values.view(-1, self.table.num_pairs, self.table.values.shape[1])
            if self.vote == "shares":
                said = counts / counts[0].sum(0).clamp(min=1)
            else:
                total = counts.sum(2, keepdim=True) + PRIOR * counts.shape[2]
                said = ((counts + PRIOR) / total).log_()
            self._said = said.flatten(0, 1)
        return self._said

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_said": None}


def largest_gradient(num_codebooks: int) -> float:
    """Above the norm of the whole gradient of the mean cross-entropy of voting values, whatever
    they are: the root of 2 over the number of codebooks."""
    return math.sqrt(2 / num_codebooks)
