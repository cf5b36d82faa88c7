"""One shard through a frozen encoder: the same rows, labels and order, as features.

Features [n, D] become examples (D, 1, 1), and the states of L tokens [n, D, L, 1] become (D, L, 1).
Where these take far more room than what they are made of, a shard becomes several.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from clray.errors import BadData, BadResources, BadSpec
from clray.store import Folder
from clray.streams.claim import writing_to
from clray.streams.feature_folder import record_of
from clray.streams.layout import ImageShape
from clray.streams.manifest import Manifest, Shard
from clray.streams.shards import (
    SHARD_BYTES,
    read_shard,
    rows_per_block,
    rows_per_shard,
    write_shard,
)
from clray.streams.transforms import Prepare

CPU_BATCH = 64
"""Images at once on CPUs, always: how many there are changes the last bits of what comes out."""
LARGE = 4
"""Features of a shard that would take so many times the room of one are cut into several."""
GPU_BATCH = 1024
"""Images at once on GPUs to begin with; halved whenever memory runs out."""

Dtype = Literal["float32", "float16", "int16"]


class ShardEncoder:
    """Encodes shards of one stream, one after the other.

    Args:
        encoder: float [B, C, H, W] to features [B, D] or [B, D, L, 1], or to codes int16 [B, C].
        uri: of the stream.
        images: its manifest.
        to: address of the features.
        dtype: of the numbers that are written.
        device: where the encoder runs.
    """

    def __init__(
        self,
        encoder: nn.Module,
        uri: str,
        images: Manifest,
        to: str,
        dtype: Dtype,
        device: torch.device,
    ) -> None:
        self.encoder = encoder.to(device).eval()
        self.uri, self.images, self.folder = uri, images, Folder(to, "to")
        self.dtype: torch.dtype = getattr(torch, dtype)
        self.device = device
        self.prepare = Prepare(images.mean, images.std)
        self.batch = CPU_BATCH if device.type == "cpu" else GPU_BATCH

    def __call__(self, shard: Shard) -> list[Shard]:
        """Write the features of a shard, and then the record that says so; each file at once.

        Raises:
            BadData: the shard is missing or damaged, features that are not finite numbers, or a
                folder that cannot be written to.
            BadResources: not even one image fits on the GPU.
        """
        where = f"{self.uri}/{shard.path}"
        x, y, ids = read_shard(self.uri, shard.path, self.images.row_bytes)
        if len(x) != shard.rows:
            raise BadData(where, f"{len(x)} rows", f"{shard.rows} rows, as the manifest says")
        written: list[Shard] = []
        done = 0
        examples = x.view(self.images.dtype).reshape(len(x), *self.images.shape)
        for features in self._parts(examples, where):
            own = slice(done, done + len(features))
            done += len(features)
            flat = features.reshape(len(features), -1).view(np.uint8)
            text = ",".join(map(str, shape_of(features)))
            whole = len(features) == len(x)
            path = shard.path if whole else _part(shard.path, len(written))
            with writing_to(self.folder):
                rows = (flat, y[own], ids[own])
                block_rows = rows_per_block(flat.shape[1])
                written.append(write_shard(self.folder, path, rows, block_rows, text))
        with writing_to(self.folder):
            records = [part.model_dump(mode="json") for part in written]
            self.folder.write_json(record_of(shard.path), records)
        return written

    def _parts(self, x: NDArray[Any], where: str) -> Iterator[NDArray[Any]]:
        """Features [n, …] of examples [N, C, H, W], so many at a time as make a shard.

        Raises:
            BadData: features that are not finite numbers, naming the shard.
        """
        waiting: list[NDArray[Any]] = []
        count = 0
        for features in self._batches(x):
            _check_finite(features, where)
            row_bytes = features[0].nbytes
            size = rows_per_shard(row_bytes)
            if len(x) * row_bytes <= LARGE * SHARD_BYTES:
                size = len(x)
            waiting.append(features)
            count += len(features)
            while count >= size:
                joined = np.concatenate(waiting)
                yield joined[:size]
                waiting, count = [joined[size:]], count - size
        if count:
            yield np.concatenate(waiting)

    def _batches(self, x: NDArray[Any]) -> Iterator[NDArray[Any]]:
        """Features [n, …] of examples [N, C, H, W], batch by batch."""
        start = 0
        while start < len(x):
            batch = torch.from_numpy(x[start : start + self.batch].copy())
            try:
                features = self._features(batch)
            except torch.cuda.OutOfMemoryError:
                if self.batch == 1:
                    accepted = "an encoder and an image size that fit in its memory"
                    raise BadResources("encoder: GPU", "one image", accepted) from None
                self.batch //= 2
                torch.cuda.empty_cache()
                continue
            yield features
            start += len(batch)

    @torch.inference_mode()
    def _features(self, x: Tensor) -> NDArray[Any]:
        features: Tensor = self.encoder(self.prepare(x.to(self.device)))
        found: NDArray[Any] = features.to(self.dtype).cpu().numpy()
        return found


def shape_of(features: Tensor | NDArray[Any]) -> ImageShape:
    """The shape of an example that features [n, D], or states of L tokens [n, D, L, 1], make.

    Raises:
        BadSpec: they are anything else.
    """
    found = tuple(map(int, features.shape[1:]))
    if len(found) == 1:
        return found[0], 1, 1
    if len(found) != 3 or found[2] != 1:
        accepted = "[B, D], or the states [B, D, L, 1] of L tokens"
        raise BadSpec("encoder: features", list(found), accepted)
    return found


def _check_finite(features: NDArray[Any], where: str) -> None:
    if np.isfinite(features).all():
        return
    accepted = "examples that the encoder maps to numbers"
    if features.dtype == np.float16:
        accepted += "; float32 holds larger ones"
    raise BadData(where, f"features that are not finite in {features.dtype}", accepted)


def _part(path: str, number: int) -> str:
    return f"{path.removesuffix('.parquet')}-{number:05d}.parquet"
