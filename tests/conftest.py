"""What all tests share."""

from __future__ import annotations

import contextlib
import os

# Tests never talk to a Ray that somebody else has started.
os.environ.pop("RAY_ADDRESS", None)
os.environ["RAY_AUTH_MODE"] = "disabled"

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch

from clray.store import Folder
from clray.streams.manifest import (
    SPLITS,
    Manifest,
    StoredTask,
    shard_path,
    write_manifest,
)
from clray.streams.shards import Rows, write_shard

Titles = Callable[[], dict[int, str]]

StoreStream = Callable[..., "StoredStream"]


@dataclass(frozen=True)
class StoredStream:
    """A small stored stream: its folder, and its manifest as it was written."""

    path: Path
    manifest: Manifest

    @property
    def uri(self) -> str:
        """Its address."""
        return str(self.path)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def titles() -> Titles:
    """Gives the processes below this one that are alive, by number: Ray names them by their job."""

    def alive() -> dict[int, str]:
        found = {}
        for process in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error):
                found[process.pid] = " ".join(process.cmdline())
        return found

    return alive


@pytest.fixture
def store_stream(tmp_path: Path) -> StoreStream:
    """Write a stream of class-incremental tasks of two classes, without building one.

    An example is noise around its label, so that it can be learned; its first 8 bytes (the first
    number of features) are its row's, different over the whole stream.
    """

    def store(
        folder: Path = tmp_path / "stream",
        num_tasks: int = 2,
        rows: int = 40,
        shape: tuple[int, int, int] = (3, 8, 8),
        dtype: str = "uint8",
        block_rows: int = 8,
        shard_rows: int = 16,
        seed: int = 0,
        validation_fraction: float = 0.2,
        **others: Any,
    ) -> StoredStream:
        generator = np.random.default_rng(seed)
        held_out = round(rows * validation_fraction)
        tasks = []
        for task in range(num_tasks):
            order = generator.permutation(rows)
            ids = {"train": order[held_out:], "validation": order[:held_out]}
            ids["test"] = np.arange(rows, rows + rows // 4)
            shards = {}
            for split in SPLITS:
                numbers = task * 2 * rows + np.sort(ids[split])
                pieces = [numbers[i : i + shard_rows] for i in range(0, len(numbers), shard_rows)]
                shards[split] = tuple(
                    write_shard(
                        Folder(str(folder)),
                        shard_path(task, split, number),
                        _examples(piece, 2 * task, shape, dtype, generator),
                        block_rows,
                        ",".join(map(str, shape)),
                    )
                    for number, piece in enumerate(pieces)
                )
            name, classes = f"{2 * task}-{2 * task + 1}", (2 * task, 2 * task + 1)
            tasks.append(StoredTask(name=name, classes=classes, **shards))
        content = {
            "version": "0.0.0",
            "source": {"benchmark": {"name": "split", "num_tasks": num_tasks}, "seed": seed},
            "source_hash": "0" * 20,
            "scenario": "class-incremental",
            "num_classes": 2 * num_tasks,
            "class_names": tuple(f"class {label}" for label in range(2 * num_tasks)),
            **others,
        }
        manifest = Manifest(
            shape=shape,
            dtype=dtype,
            block_rows=block_rows,
            seed=seed,
            validation_fraction=validation_fraction,
            tasks=tuple(tasks),
            **content,
        )
        write_manifest(Folder(str(folder)), manifest)
        return StoredStream(folder, manifest)

    return store


def _examples(
    ids: Any, first_label: int, shape: tuple[int, ...], dtype: str, generator: np.random.Generator
) -> Rows:
    labels = (first_label + ids % 2).astype(np.int64)
    size = int(np.prod(shape))
    noise = generator.integers(0, 32, (len(ids), size)) + 32 * (labels[:, None] % 7)
    x = np.ascontiguousarray(noise.astype(dtype))
    if dtype == "uint8":
        x[:, :8] = ids.astype("<i8").view(np.uint8).reshape(-1, 8)
    else:
        x[:, 0] = ids
    return x.view(np.uint8).reshape(len(ids), -1), labels, ids.astype(np.int64)
