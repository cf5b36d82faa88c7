"""Shards: Parquet files of a stored stream, written once and read block by block.

An example is fixed-size binary, uncompressed and without dictionary or statistics: a block (a row
group) is then read at the speed of memory, where a tensor column would widen uint8 to four bytes.
"""

from __future__ import annotations

import functools
import hashlib
import io
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from clray.errors import BadData
from clray.store import Folder
from clray.streams.manifest import Shard

BLOCK_BYTES = 1 << 20
"""About what a block takes: enough for an object store's round trip, and small beside a window."""
SHARD_BYTES = 128 << 20
"""About what a shard takes."""
_DAMAGES = (pa.ArrowException, OSError, ValueError, KeyError, IndexError)
OPEN_FILES = 256
"""Shards that a process keeps open; opening one costs an object store two round trips."""

Rows = tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.int64]]
"""Examples as bytes [n, row_bytes], labels [n], and rows of the dataset that they come from [n]."""


def rows_per_block(row_bytes: int) -> int:
    """The power of two that makes blocks of about BLOCK_BYTES; 4096 at most."""
    return 1 << max(0, min(12, (BLOCK_BYTES // row_bytes).bit_length() - 1))


def rows_per_shard(row_bytes: int) -> int:
    """Whole blocks of about SHARD_BYTES."""
    block = rows_per_block(row_bytes)
    return max(1, SHARD_BYTES // (row_bytes * block)) * block


def write_shard(folder: Folder, path: str, rows: Rows, block_rows: int, shape: str) -> Shard:
    """Write examples as one file, at once.

    Args:
        folder: of the stream.
        path: below it.
        rows: what to write, 1 or more.
        block_rows: rows of a block.
        shape: said in the file's metadata, for other readers.
    """
    x, y, ids = rows
    image = pa.FixedSizeBinaryArray.from_buffers(
        pa.binary(x.shape[1]), len(x), [None, pa.py_buffer(np.ascontiguousarray(x))]
    )
    table = pa.table({"id": ids, "label": y, "image": image})
    file = io.BytesIO()
    pq.write_table(
        table.replace_schema_metadata({"shape": shape}),
        file,
        row_group_size=block_rows,
        compression="none",
        use_dictionary=False,
        write_statistics=False,
    )
    content = file.getbuffer()
    folder.write(path, content)
    labels, counts = np.unique(y, return_counts=True)
    return Shard(
        path=path,
        rows=len(x),
        bytes=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
        classes=dict(zip(labels.tolist(), counts.tolist(), strict=True)),
    )


def read_blocks(
    uri: str,
    wanted: Sequence[tuple[str, int]],
    sizes: Sequence[int],
    row_bytes: int,
    places: NDArray[np.int64] | None = None,
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Some blocks of a stream, or some of their rows, with no second copy of them in memory.

    Args:
        uri: the stream's address.
        wanted: (shard's path, number of the block in it), in any order.
        sizes: rows of each.
        row_bytes: of one example.
        places: where each of these rows goes in the result, -1: nowhere; None: one after the other.

    Returns:
        Examples as bytes [n, row_bytes] and labels int64 [n].

    Raises:
        BadData: a file is missing, truncated or damaged.
    """
    ends = np.cumsum(sizes, dtype=np.int64)
    if places is None:
        places = np.arange(ends[-1] if len(ends) else 0)
    count = int((places >= 0).sum())
    x, y = np.empty((count, row_bytes), np.uint8), np.empty(count, np.int64)
    if not len(wanted):
        return x, y
    by_file: dict[str, list[int]] = {}
    for index, (path, _) in enumerate(wanted):
        by_file.setdefault(path, []).append(index)

    def read(path: str) -> None:
        mine = by_file[path]
        own = np.concatenate([places[ends[i] - sizes[i] : ends[i]] for i in mine])
        blocks = [wanted[i][1] for i in mine]
        done = 0
        for part in _parts(uri, path, blocks, row_bytes, len(own)):
            where = own[done : done + len(part)]
            done += len(part)
            kept = where >= 0
            every = bool(kept.all())
            images, labels = _bytes_of(part["image"], row_bytes), part["label"].to_numpy()
            x[where[kept]] = images if every else images[kept]
            y[where[kept]] = labels if every else labels[kept]

    _on_threads(read, by_file)
    return x, y


def read_shard(uri: str, path: str, row_bytes: int) -> Rows:
    """A whole shard.

    Raises:
        BadData: the file is missing, truncated or damaged, or another than that of the manifest.
    """
    try:
        table = _reader(uri, path).read(use_threads=False)
        kind = table.schema.field("image").type
        if kind != pa.binary(row_bytes):
            raise ValueError(f"rows of {kind}, not of {row_bytes} bytes")
    except _DAMAGES as error:
        raise _damaged(uri, path, error) from None
    return images_of(table, row_bytes), table["label"].to_numpy(), table["id"].to_numpy()


def read_labels(uri: str, paths: Sequence[str]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Labels and row numbers of whole shards, one after the other; no example is read.

    Raises:
        BadData: a file is missing, truncated or damaged.
    """

    def read(path: str) -> Any:
        try:
            table = _reader(uri, path).read(columns=["id", "label"], use_threads=False)
            return table["label"].to_numpy(), table["id"].to_numpy()
        except _DAMAGES as error:
            raise _damaged(uri, path, error) from None

    labels, ids = zip(*_on_threads(read, paths), strict=True)
    return np.concatenate(labels), np.concatenate(ids)


def images_of(table: Any, row_bytes: int) -> NDArray[np.uint8]:
    """The image column of a table as bytes [n, row_bytes]; a view where it is one chunk."""
    parts = [_bytes_of(chunk, row_bytes) for chunk in table["image"].chunks if len(chunk)]
    if len(parts) == 1:
        return parts[0]
    return np.concatenate(parts) if parts else np.empty((0, row_bytes), np.uint8)


def _bytes_of(chunk: Any, row_bytes: int) -> NDArray[np.uint8]:
    low, high = chunk.offset * row_bytes, (chunk.offset + len(chunk)) * row_bytes
    return np.frombuffer(chunk.buffers()[1], np.uint8)[low:high].reshape(len(chunk), row_bytes)


def _parts(uri: str, path: str, blocks: Sequence[int], row_bytes: int, rows: int) -> Iterator[Any]:
    """The rows of some blocks of a shard, part by part.

    Raises:
        BadData: the file is missing, truncated or damaged, or another than that of the manifest.
    """
    try:
        file = _reader(uri, path)
        groups = [file.metadata.row_group(block).num_rows for block in blocks]
        kind = file.schema_arrow.field("image").type
        if sum(groups) != rows or kind != pa.binary(row_bytes):
            raise ValueError(f"{sum(groups)} rows of {kind}, not {rows} of {row_bytes} bytes")
        columns = ["label", "image"]
        yield from file.iter_batches(
            max(groups), row_groups=blocks, columns=columns, use_threads=False
        )
    except _DAMAGES as error:
        raise _damaged(uri, path, error) from None


def _on_threads(read: Any, paths: Iterable[str]) -> list[Any]:
    """Several files at once: most of the time goes into waiting for an object store."""
    paths = list(paths)
    if len(paths) == 1:
        return [read(paths[0])]
    with ThreadPoolExecutor(min(16, len(paths))) as pool:
        return list(pool.map(read, paths))


def _reader(uri: str, path: str) -> Any:
    """A reader of its own: one that is shared keeps what it has read, and is for one thread."""
    stamp = 0  # an object that has been replaced is another stream's: not while a job runs
    if _folder(uri).is_local:
        stamp = os.stat(f"{uri}/{path}").st_mtime_ns
    file, metadata = _opened(uri, path, stamp)
    return pq.ParquetFile(file, metadata=metadata, pre_buffer=not _folder(uri).is_local)


@functools.lru_cache(OPEN_FILES)
def _opened(uri: str, path: str, stamp: int) -> tuple[Any, Any]:
    file = _folder(uri).open(path)
    return file, pq.read_metadata(file)


@functools.lru_cache(8)
def _folder(uri: str) -> Folder:
    return Folder(uri, "stream")


def _damaged(uri: str, path: str, error: Exception) -> BadData:
    reason = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"[:200]
    accepted = f"a whole file, as clray wrote it; clray data check {uri} looks at all of them"
    return BadData(f"{uri}/{path}", reason, accepted)
