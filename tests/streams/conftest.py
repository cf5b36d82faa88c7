"""Small datasets on disk, and streams made without a spec."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from clray import registry
from clray.spec import Component
from clray.task import Stream

WriteParquet = Callable[..., Path]
MakeStream = Callable[..., Stream]


@pytest.fixture
def cpu() -> torch.device:
    return torch.device("cpu")


@pytest.fixture
def make_stream(cpu: torch.device) -> MakeStream:
    """Build a benchmark's stream from its name and knobs."""

    def make(
        name: str,
        split: Literal["validation", "test"] = "validation",
        seed: int = 0,
        fraction: float = 0.1,
        **knobs: Any,
    ) -> Stream:
        config = registry.configure("benchmark", Component(name=name, **knobs))
        stream: Stream = config.build(split, fraction, seed, cpu)
        return stream

    return make


@pytest.fixture
def write_parquet(tmp_path: Path) -> WriteParquet:
    """Write a file in the hub's layout; images are arrays, or bytes that are taken as they are."""

    def write(
        images: Sequence[NDArray[np.uint8] | bytes],
        labels: Sequence[object],
        name: str = "train-00000-of-00001",
        folder: Path = tmp_path,
        label: str = "label",
        label_type: Any = None,
        metadata: dict[str, str] | None = None,
        **writing: Any,
    ) -> Path:
        encoded = [i if isinstance(i, bytes) else _png(i) for i in images]
        column = pa.array(
            [{"bytes": e, "path": f"{i}.png"} for i, e in enumerate(encoded)],
            pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
        )
        table = pa.table({"image": column, label: pa.array(labels, label_type)})
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / f"{name}.parquet"
        pq.write_table(table.replace_schema_metadata(metadata), file, **writing)
        return file

    return write


@pytest.fixture
def grey() -> NDArray[np.uint8]:
    """12 grey images of 6 x 6 pixels."""
    return np.random.default_rng(0).integers(0, 256, (12, 6, 6), dtype=np.uint8)


def _png(pixels: NDArray[np.uint8]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()
