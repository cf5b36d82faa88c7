"""Shards: what is written is what is read, and what is damaged is named."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clray.errors import BadData
from clray.store import Folder
from clray.streams import shards
from clray.streams.shards import read_blocks, read_labels, rows_per_block, write_shard

X = np.random.default_rng(0).integers(0, 256, (70, 12), dtype=np.uint8)
Y, IDS = np.arange(70) % 3, np.arange(70)[::-1].copy()
SIZES = {"a.parquet": [16, 16, 8], "b.parquet": [16, 14]}


@pytest.fixture
def stream(tmp_path: Path) -> str:
    """70 rows in two shards of blocks of 16."""
    shards._opened.cache_clear()
    for name, rows in (("a.parquet", slice(40)), ("b.parquet", slice(40, 70))):
        shard = write_shard(Folder(str(tmp_path)), name, (X[rows], Y[rows], IDS[rows]), 16, "3,2,2")
        content = (tmp_path / name).read_bytes()
        assert (shard.rows, shard.bytes) == (len(X[rows]), len(content))
        assert shard.sha256 == hashlib.sha256(content).hexdigest()
        assert shard.classes == {k: int((Y[rows] == k).sum()) for k in range(3)}
    return str(tmp_path)


def read(stream: str, *wanted: tuple[str, int]) -> tuple[list[list[int]], list[int]]:
    sizes = [SIZES[path][block] for path, block in wanted]
    x, y = read_blocks(stream, wanted, sizes, 12)
    return x.tolist(), y.tolist()


def test_blocks_are_read_in_the_order_asked_for(stream: str) -> None:
    x, y = read(stream, ("b.parquet", 1), ("a.parquet", 2), ("b.parquet", 0))
    rows = [*range(56, 70), *range(32, 40), *range(40, 56)]
    assert x == X[rows].tolist()
    assert y == Y[rows].tolist()
    assert read(stream) == ([], [])


def test_rows_go_to_their_places(stream: str) -> None:
    places = np.full(24, -1)
    places[[1, 5, 20]] = [2, 0, 1]
    wanted = [("a.parquet", 1), ("a.parquet", 2)]
    x, y = read_blocks(stream, wanted, [16, 8], 12, places)
    assert x.tolist() == X[[21, 36, 17]].tolist()
    assert y.tolist() == Y[[21, 36, 17]].tolist()


def test_labels_are_read_alone(stream: str) -> None:
    y, ids = read_labels(stream, ["b.parquet", "a.parquet"])
    assert y.tolist() == [*Y[40:], *Y[:40]]
    assert ids.tolist() == [*IDS[40:], *IDS[:40]]


def test_pixels_are_not_widened(tmp_path: Path) -> None:
    rows = np.zeros((2048, 3072), np.uint8), np.zeros(2048, np.int64), np.arange(2048)
    shard = write_shard(Folder(str(tmp_path)), "a.parquet", rows, rows_per_block(3072), "3,32,32")
    assert shard.bytes < 1.02 * 2048 * (3072 + 16)


DAMAGES = ["missing", "empty", "truncated", "other", "shorter", "narrower"]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_named(stream: str, damage: str) -> None:
    path = Path(stream, "b.parquet")
    if damage == "missing":
        path.unlink()
    elif damage in ("empty", "truncated"):
        os.truncate(path, 0 if damage == "empty" else path.stat().st_size // 2)
    elif damage == "other":
        pq.write_table(pa.table({"text": ["a"]}), path)
    else:
        rows, width = (20, 12) if damage == "shorter" else (30, 11)
        left = (X[:rows, :width], Y[:rows], IDS[:rows])
        write_shard(Folder(stream), "b.parquet", left, 16, "")
    with pytest.raises(BadData, match=r"/b\.parquet: got .*accepted: a whole file"):
        read(stream, ("a.parquet", 0), ("b.parquet", 0), ("b.parquet", 1))
    if damage not in ("shorter", "narrower"):
        with pytest.raises(BadData, match=r"/b\.parquet: got .*accepted: a whole file"):
            read_labels(stream, ["a.parquet", "b.parquet"])
