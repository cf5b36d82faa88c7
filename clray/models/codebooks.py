"""Codebooks: features in, the number of the nearest key in each of several codebooks out.

The quantiser of the discrete key-value bottleneck (Träuble et al. 2023, arXiv 2207.11240). Features
[B, D] are cut into one head of d_k numbers for each codebook, by a fixed projection (theirs) or by
slicing (the paper's first version and its toy); a head's code is the key at the least squared
distance, the first one of equal ones. Nothing here is learned by gradients: once its keys are
placed, an example is C small integers.

The search is exact, in float32, whatever precision runs around it. Per codebook it is the argmin of
||k||^2 - 2 h.k, in pieces that stay in the cache; the distances of all are never held at once. What
an example's codes are does not depend on the batch that it comes in, nor on the pieces: on CPUs,
where products of very few rows are rounded differently, rows are filled up to a few. Between CPU
and GPU, keys at nearly the same distance may change places: compare codes, not encoded data.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clray.errors import BadSpec

CPU_BYTES = 4 << 20
"""Of distances at once: measured, 1 to 8 MiB are equally fast, from 16 MiB on it is half again as
slow, and fewer than 128 rows are slower too."""
GPU_BYTES = 256 << 20
ROWS = 16
"""Products have a multiple of so many rows: with fewer than four, a CPU rounds differently."""
SMALL = 400
"""Multiplications below which torch does not use the library's product, which rounds differently
from its own."""
GROUP = 64
"""Keys, at most, whose least distance is found first: argmin is ten times as slow as amin."""


class Codebooks(nn.Module):
    """C codebooks of K keys each.

    Args:
        projection: float32 [D, C * d_k], or None: heads are slices of the features.
        keys: float32 [C, K, d_k].

    Attributes:
        projection, keys: buffers; keys are moved in place by ``clray.models.key_fit``.
    """

    projection: Tensor | None
    keys: Tensor

    def __init__(self, projection: Tensor | None, keys: Tensor) -> None:
        super().__init__()
        self.register_buffer("projection", projection)
        self.register_buffer("keys", keys)

    @property
    def num_codebooks(self) -> int:
        """C."""
        return self.keys.shape[0]

    @property
    def num_pairs(self) -> int:
        """K, of each codebook."""
        return self.keys.shape[1]

    @property
    def key_dim(self) -> int:
        """Numbers in a key."""
        return self.keys.shape[2]

    @torch.no_grad()
    def heads(self, features: Tensor) -> Tensor:
        """What each codebook sees of features [B, D]: float32 [B, C, d_k]."""
        heads, width = features.float(), self.num_codebooks * self.key_dim
        if self.projection is None:
            heads = heads[:, :width]
        else:
            with _exact(features.device):
                heads = (_filled(heads, ROWS) @ self.projection)[: len(features)]
        return heads.view(-1, self.num_codebooks, self.key_dim)

    def forward(self, features: Tensor) -> Tensor:
        """The nearest key in each codebook, for features [B, D]: int64 [B, C]."""
        return self.assign(features).squeeze(2)

    def assign(self, features: Tensor, usable: Tensor | None = None, top: int = 1) -> Tensor:
        """The nearest keys in each codebook, the nearest first, for features [B, D].

        Args:
            features: any float.
            usable: bool [C, K], the only candidates; where a codebook has fewer than ``top``, those
                that are not usable follow from the lowest index on. None: all keys.
            top: how many, of each codebook.

        Returns:
            int64 [B, C, top].

        Raises:
            BadSpec: more keys than a codebook has.
        """
        return nearest(self.heads(features), self.keys, usable, top)

    def first(self, count: int) -> Codebooks:
        """The first ``count`` codebooks, with projection and keys of their own.

        Raises:
            BadSpec: there are fewer.
        """
        if not 1 <= count <= self.num_codebooks:
            raise BadSpec("codebooks", count, f"1 to {self.num_codebooks}")
        projection = self.projection
        if projection is not None:
            projection = projection[:, : count * self.key_dim].clone()
        return Codebooks(projection, self.keys[:count].clone())


@torch.no_grad()
def nearest(
    heads: Tensor,
    keys: Tensor,
    usable: Tensor | None = None,
    top: int = 1,
    most_bytes: int | None = None,
) -> Tensor:
    """The nearest keys of each codebook, int64 [B, C, top]; see ``Codebooks.assign``.

    Args:
        heads: float32 [B, C, d_k].
        keys: float32 [C, K, d_k].
        usable: bool [C, K], or None: all.
        top: how many.
        most_bytes: of distances at once, about; none: what is fast on the device.

    Raises:
        BadSpec: more keys than a codebook has.
    """
    (num_codebooks, num_pairs, key_dim), batch = keys.shape, len(heads)
    if not 1 <= top <= num_pairs:
        raise BadSpec("top", top, f"1 to the {num_pairs} pairs of a codebook")
    if most_bytes is None:
        most_bytes = GPU_BYTES if heads.is_cuda else CPU_BYTES
    fill = max(ROWS, -(-SMALL // (num_pairs * key_dim)))
    heads = _filled(heads, fill).transpose(0, 1)
    rows = max(fill, min(most_bytes // (4 * num_pairs) // fill * fill, heads.shape[1]))
    books = max(1, min(most_bytes // (4 * num_pairs * rows), num_codebooks))
    found = heads.new_empty(top, num_codebooks, heads.shape[1], dtype=torch.int64)
    buffer = heads.new_empty(books * rows * num_pairs)
    with _exact(heads.device):
        norms = torch.einsum("ckd,ckd->ck", keys, keys)
        if usable is not None:
            # Far enough to swallow any product, and still nearer than a key that is already taken.
            norms = norms.masked_fill(~usable, torch.finfo(norms.dtype).max)
        for book in range(0, num_codebooks, books):
            span = slice(book, book + books)
            products, offsets = keys[span].transpose(1, 2), norms[span].unsqueeze(1)
            for row in range(0, heads.shape[1], rows):
                part = heads[span, row : row + rows]
                shape = (*part.shape[:2], num_pairs)
                distances = buffer[: part.shape[0] * part.shape[1] * num_pairs].view(shape)
                torch.baddbmm(offsets, part, products, alpha=-2, out=distances)
                for place in found[:, span, row : row + rows]:
                    place.copy_(_argmin(distances))
                    if top > 1:
                        distances.scatter_(2, place.unsqueeze(2), torch.inf)
    return found.permute(2, 1, 0)[:batch].contiguous()


def _argmin(distances: Tensor) -> Tensor:
    """The first least entry of each row of a contiguous [..., K]; int64 [...].

    The group that has it is found by the groups' least entries.
    """
    size = distances.shape[-1]
    group = max(divisor for divisor in range(1, GROUP + 1) if size % divisor == 0)
    if group < 8 or size == group:
        return distances.argmin(-1)
    groups = distances.view(*distances.shape[:-1], -1, group)
    number = groups.amin(-1).argmin(-1, keepdim=True)
    chosen = groups.gather(-2, number.unsqueeze(-1).expand(*number.shape, group)).squeeze(-2)
    first: Tensor = number.squeeze(-1) * group
    return first + chosen.argmin(-1)


def _filled(x: Tensor, multiple: int) -> Tensor:
    """With rows of zeros, up to a multiple of so many; the same where it is one."""
    missing = -len(x) % multiple
    return F.pad(x, (0, 0) * (x.dim() - 1) + (0, missing)) if missing else x


@contextmanager
def _exact(device: torch.device) -> Iterator[None]:
    """Products in float32, whatever precision has been asked for elsewhere."""
    mkldnn = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    backends = torch.backends.cuda.matmul, mkldnn
    before = [backend.fp32_precision for backend in backends]
    try:
        for backend in backends:
            backend.fp32_precision = "ieee"
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        for backend, precision in zip(backends, before, strict=True):
            backend.fp32_precision = precision
