"""Shards: Parquet files of a stored stream, written once and read block by block.

An example is fixed-size binary, uncompressed and without dictionary or statistics: a block (a row
group) is then read at the speed of memory, where a tensor column would widen uint8 to four bytes.
"""

from __future__ import annotations

import functools
import hashlib
import io
from collections.abc import Iterable, Sequence
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


def read_blocks(uri: str, wanted: Sequence[tuple[str, int]], row_bytes: int) -> Rows:
    """Some blocks of a stream, one after the other.

    Args:
        uri: the stream's address.
        wanted: (shard's path, number of the block in it), in any order.
        row_bytes: of one example.

    Raises:
        BadData: a file is missing, truncated or damaged.
    """
    by_file: dict[str, list[int]] = {}
    for place, (path, _) in enumerate(wanted):
        by_file.setdefault(path, []).append(place)

    def read(path: str) -> list[tuple[int, Any]]:
        places = by_file[path]
        groups = [wanted[place][1] for place in places]
        try:
            table = _opened(uri, path).read_row_groups(groups, use_threads=False)
        except (pa.ArrowException, OSError) as error:
            raise _damaged(uri, path, error) from None
        sizes = [_opened(uri, path).metadata.row_group(group).num_rows for group in groups]
        starts = np.cumsum([0, *sizes[:-1]])
        parts = zip(places, starts.tolist(), sizes, strict=True)
        return [(place, table.slice(start, size)) for place, start, size in parts]

    found = [part for parts in _on_threads(read, by_file) for part in parts]
    found.sort(key=lambda part: part[0])
    table = pa.concat_tables([table for _, table in found])
    return images_of(table, row_bytes), table["label"].to_numpy(), table["id"].to_numpy()


def read_labels(uri: str, paths: Sequence[str]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Labels and row numbers of whole shards, one after the other; no example is read.

    Raises:
        BadData: a file is missing, truncated or damaged.
    """

    def read(path: str) -> Any:
        try:
            return _opened(uri, path).read(columns=["id", "label"], use_threads=False)
        except (pa.ArrowException, OSError) as error:
            raise _damaged(uri, path, error) from None

    table = pa.concat_tables(_on_threads(read, paths))
    return table["label"].to_numpy(), table["id"].to_numpy()


def images_of(table: Any, row_bytes: int) -> NDArray[np.uint8]:
    """The image column of a table as bytes [n, row_bytes]; a view where it is one chunk."""
    parts = [_bytes_of(chunk, row_bytes) for chunk in table["image"].chunks if len(chunk)]
    if len(parts) == 1:
        return parts[0]
    return np.concatenate(parts) if parts else np.empty((0, row_bytes), np.uint8)


def _bytes_of(chunk: Any, row_bytes: int) -> NDArray[np.uint8]:
    low, high = chunk.offset * row_bytes, (chunk.offset + len(chunk)) * row_bytes
    return np.frombuffer(chunk.buffers()[1], np.uint8)[low:high].reshape(len(chunk), row_bytes)


def _on_threads(read: Any, paths: Iterable[str]) -> list[Any]:
    """Several files at once: most of the time goes into waiting for an object store."""
    paths = list(paths)
    if len(paths) == 1:
        return [read(paths[0])]
    with ThreadPoolExecutor(min(16, len(paths))) as pool:
        return list(pool.map(read, paths))


@functools.lru_cache(OPEN_FILES)
def _opened(uri: str, path: str) -> Any:
    return pq.ParquetFile(_folder(uri).open(path), pre_buffer=not _folder(uri).is_local)


@functools.lru_cache(8)
def _folder(uri: str) -> Folder:
    return Folder(uri, "stream")


def _damaged(uri: str, path: str, error: Exception) -> BadData:
    reason = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"[:200]
    accepted = f"a whole file, as clray wrote it; clray data check {uri} looks at all of them"
    return BadData(f"{uri}/{path}", reason, accepted)
