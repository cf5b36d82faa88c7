"""Small datasets on disk, and streams made without a spec."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

import clray
from clray import registry
from clray.spec import Component
from clray.store import Folder
from clray.streams import sources
from clray.streams.layout import Draw
from clray.streams.manifest import SPLITS, Manifest, StoredTask, shard_path, write_manifest
from clray.streams.shards import write_shard
from clray.task import Stream

StoreBenchmark = Callable[..., Manifest]
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
def store_benchmark(tmp_path: Path) -> StoreBenchmark:
    """Store a benchmark as a stream of small shards and blocks, with no help of the build."""
    return partial(_store, uri=tmp_path / "stream")


@pytest.fixture(scope="session")
def stored_digits(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The address of split-digits, which is not to be changed."""
    uri = tmp_path_factory.mktemp("stored") / "digits"
    _store("split-digits", uri, fraction=0.2)
    return str(uri)


def _store(
    name: str = "split-digits",
    uri: Path = Path(),
    block_rows: int = 16,
    shard_rows: int = 80,
    fraction: float = 0.1,
    seed: int = 0,
    **knobs: Any,
) -> Manifest:
    config = registry.configure("benchmark", Component(name=name, **knobs))
    data, folder = sources.load(config._source), Folder(str(uri))
    labels = (data.train_y, data.test_y, data.num_classes)
    layout = config.layout(Draw(*labels, config.train_fraction, fraction, seed))
    units = torch.arange(data.num_classes) if layout.units is None else layout.units
    shape = data.image_shape
    tasks = []
    for index, task in enumerate(layout.tasks):
        shards = {}
        for split in SPLITS:
            rows = getattr(task, split)
            x, y = (data.test_x, data.test_y) if split == "test" else (data.train_x, data.train_y)
            shards[split] = tuple(
                write_shard(
                    folder,
                    shard_path(index, split, number),
                    (x[own].flatten(1).numpy(), units[y[own]].numpy(), own.numpy()),
                    block_rows,
                    ",".join(map(str, shape)),
                )
                for number, own in enumerate(rows.split(shard_rows))
            )
        tasks.append(StoredTask(name=task.name, classes=task.classes, **shards))
    manifest = Manifest(
        version=clray.__version__,
        source=config.model_dump(mode="json"),
        source_hash="0" * 20,
        scenario=config.scenario,
        num_classes=layout.num_classes,
        shape=shape,
        mean=config.mean,
        std=config.std,
        augment=config.augment,
        validation_fraction=fraction,
        seed=seed,
        block_rows=block_rows,
        graded_together=layout.graded_together,
        tasks=tuple(tasks),
    )
    write_manifest(folder, manifest)
    return manifest


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
