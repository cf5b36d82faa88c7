"""The values of codebooks: a table of logits that examples look up by their codes.

The values and the voting decoder of the discrete key-value bottleneck (Träuble et al. 2023, arXiv
2207.11240): an example's logits are the mean over codebooks of the rows that its codes name. This
is multinomial logistic regression without a bias on a sparse binary feature, and its gradient has a
closed form: a row gets the sum of (p - t) over the examples that name it, over B * C, and all other
rows get exactly nothing. ``descend`` takes that step without autograd, which would build a gradient
of the whole table.

``descend`` is exactly local: it changes no bit of a row that is not named. Optimizers with
momentum, Adam, and weight decay change such rows too.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NARROW = 16
"""Columns below which adding number by number is faster on CPUs than row by row."""
AT_ONCE = 1 << 13
"""Rows added to at once, about: what is laid out for them stays in the cache."""


class ValueTable(nn.Module):
    """One row of values for each pair of each codebook.

    Args:
        num_codebooks, num_pairs: C and K.
        num_values: V, the classes where codebooks vote.
        spread: standard deviation of the first values; 0: all are zero.
        generator: that draws them, on the CPU.

    Attributes:
        values: float32 [C * K, V]; the row of pair j of codebook c is c * K + j.
    """

    def __init__(
        self,
        num_codebooks: int,
        num_pairs: int,
        num_values: int,
        spread: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.num_codebooks, self.num_pairs = num_codebooks, num_pairs
        values = torch.zeros(num_codebooks * num_pairs, num_values)
        if spread:
            values.normal_(0, spread, generator=generator)
        self.values = nn.Parameter(values)

    def forward(self, codes: Tensor, values: Tensor | None = None) -> Tensor:
        """Logits [B, V] of int64 codes [B, C] or [B, C, top]: summed over the pairs of a codebook,
        mean over codebooks; with other values [C * K, V] than the table's, if given."""
        values = self.values if values is None else values
        summed = F.embedding_bag(self._rows(codes).flatten(1), values, mode="sum")
        return summed / self.num_codebooks

    @torch.no_grad()
    def descend(self, codes: Tensor, residual: Tensor, rate: float) -> None:
        """One step of plain gradient descent on a mean loss over the batch, in place.

        Args:
            codes: int64 [B, C] or [B, C, top].
            residual: the loss's gradient by each example's logits, [B, V]; of cross-entropy p - t.
            rate: of learning. Each named row moves by -rate / (B * C) * its examples' residuals.
        """
        if not len(codes):
            return
        moves = residual.to(self.values.dtype) * (-rate / (len(codes) * self.num_codebooks))
        rows = self._rows(codes).flatten(1).t()  # codebook by codebook: its rows stay in the cache
        add_rows(self.values, rows, moves.expand(len(rows), *moves.shape))

    @torch.no_grad()
    def count(self, codes: Tensor, y: Tensor) -> None:
        """Add 1 to the class of each example in the rows that it names; exact up to 2^24.

        Args:
            codes: int64 [B, C] or [B, C, top].
            y: int64 [B], below V.
        """
        num_values = self.values.shape[1]
        cells = (self._rows(codes).flatten(1) * num_values + y.unsqueeze(1)).flatten()
        self.values.view(-1).scatter_add_(0, cells, self.values.new_ones(()).expand(len(cells)))

    def _rows(self, codes: Tensor) -> Tensor:
        """The rows that codes name; int64, of their shape."""
        first = torch.arange(self.num_codebooks, device=codes.device) * self.num_pairs
        return codes + first.view(-1, *[1] * (codes.dim() - 2))


@torch.no_grad()
def add_rows(table: Tensor, rows: Tensor, updates: Tensor) -> None:
    """Add updates to the rows of a contiguous table, in place, each row's in their order.

    What comes out is the same bit for bit at each run, with any number of threads.

    Args:
        table: [N, V].
        rows: int64 [...], any of which may be named several times.
        updates: [..., V].
    """
    width = table.shape[1]
    if table.is_cuda:  # sorted by row first; scattering would add in any order
        table.index_put_((rows,), updates, accumulate=True)
        return
    columns = torch.arange(width, device=rows.device)
    parts = max(1, rows.numel() // AT_ONCE)
    for some, moves in zip(rows.chunk(parts), updates.chunk(parts), strict=True):
        if width < NARROW:
            cells = some.reshape(-1, 1) * width + columns
            table.view(-1).scatter_add_(0, cells.view(-1), moves.reshape(-1))
        else:
            table.index_add_(0, some.reshape(-1), moves.reshape(-1, width))
