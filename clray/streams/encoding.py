"""One shard of images through a frozen encoder: the same rows, labels and order, as features."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from clray.errors import BadData, BadResources
from clray.store import Folder
from clray.streams.claim import writing_to
from clray.streams.feature_folder import record_of
from clray.streams.manifest import Manifest, Shard
from clray.streams.shards import read_shard, rows_per_block, write_shard
from clray.streams.transforms import Prepare

CPU_BATCH = 64
"""Images at once on CPUs, always: how many there are changes the last bits of what comes out."""
GPU_BATCH = 1024
"""Images at once on GPUs to begin with; halved whenever memory runs out."""

Dtype = Literal["float32", "float16"]


class ShardEncoder:
    """Encodes shards of one stream, one after the other.

    Args:
        encoder: float [B, C, H, W] to features [B, D].
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

    def __call__(self, shard: Shard) -> Shard:
        """Write the features of a shard, and then the record that says so; each at once.

        Raises:
            BadData: the shard is missing or damaged, features that are not finite numbers, or a
                folder that cannot be written to.
            BadResources: not even one image fits on the GPU.
        """
        where = f"{self.uri}/{shard.path}"
        x, y, ids = read_shard(self.uri, shard.path, self.images.row_bytes)
        if len(x) != shard.rows:
            raise BadData(where, f"{len(x)} rows", f"{shard.rows} rows, as the manifest says")
        features = self._encode(x.reshape(len(x), *self.images.shape))
        if not np.isfinite(features).all():
            given = f"features that are not finite in {features.dtype}"
            accepted = "images that the encoder maps to numbers"
            if features.dtype == np.float16:
                accepted += "; float32 holds larger ones"
            raise BadData(where, given, accepted)
        flat = features.view(np.uint8)
        shape = f"{features.shape[1]},1,1"
        with writing_to(self.folder):
            block_rows = rows_per_block(flat.shape[1])
            written = write_shard(self.folder, shard.path, (flat, y, ids), block_rows, shape)
            self.folder.write(record_of(shard.path), written.model_dump_json().encode())
        return written

    @torch.inference_mode()
    def _encode(self, x: NDArray[np.uint8]) -> NDArray[Any]:
        """Features [n, D] of images [n, C, H, W]."""
        parts: list[NDArray[Any]] = []
        start = 0
        while start < len(x):
            batch = torch.from_numpy(x[start : start + self.batch].copy())
            try:
                parts.append(self._features(batch).to(self.dtype).cpu().numpy())
            except torch.cuda.OutOfMemoryError:
                if self.batch == 1:
                    accepted = "an encoder and an image size that fit in its memory"
                    raise BadResources("encoder: GPU", "one image", accepted) from None
                self.batch //= 2
                torch.cuda.empty_cache()
                continue
            start += len(batch)
        return np.concatenate(parts)

    def _features(self, x: Tensor) -> Tensor:
        features: Tensor = self.encoder(self.prepare(x.to(self.device)))
        return features
