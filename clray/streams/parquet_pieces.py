"""Row ranges of Parquet files, read by streaming, so that a piece costs no more than its rows."""

from __future__ import annotations

import bisect
import itertools
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from clray.errors import BadData
from clray.streams.dataset import Source
from clray.streams.decoding import Shape, bad_rows, empty_shape
from clray.streams.locations import Entry, reaching
from clray.streams.parquet_columns import check_schema, read_images, read_labels
from clray.streams.pieces import BadRow

WHOLE = "a Parquet file, whole and readable"
BATCH_ROWS = 512
READ_BYTES = 8 << 20
"""Bytes that a stream fetches at a time."""
OPEN = 4
"""Streams that a thread keeps open: the next piece of a file goes on where the last one ended."""


@dataclass(frozen=True)
class ParquetRows:
    """Neighbouring rows of a file (``clray.streams.pieces.Piece``).

    Attributes:
        file: where it lies, and its size and time when it was listed.
        start, stop: its rows.
        num_rows: of the whole file.
        num_classes: labels are 0 .. num_classes - 1; None: not known.
        source: columns, channels and size that are asked for.
    """

    file: Entry
    start: int
    stop: int
    num_rows: int
    num_classes: int | None
    source: Source

    @property
    def where(self) -> str:
        """See ``Piece.where``."""
        if len(self) == self.num_rows:
            return str(self.file.place)
        return f"{self.file.place}, rows {self.start} to {self.stop - 1}"

    def __len__(self) -> int:
        return self.stop - self.start

    def labels(self) -> tuple[Tensor, list[BadRow]]:
        """See ``Piece.labels``."""
        column, _ = self.column(self.source.label_column)
        labels, faults = read_labels(column, self.num_classes)
        return labels, bad_rows(faults, range(len(self)), self._namer(self.source.label_column))

    def images(self, rows: Sequence[int], shape: Shape | None) -> tuple[Tensor, list[BadRow]]:
        """See ``Piece.images``."""
        if not rows:
            return torch.zeros((0, *(shape or empty_shape(self.source))), dtype=torch.uint8), []
        name = self.source.image_column
        column, schema = self.column(name)
        if len(rows) < len(self):
            column = column.take(pa.array(rows, pa.int64()))
        where = f"{self.file.place}: column {name}"
        images, faults = read_images(column, schema, where, self.source, shape)
        return images, bad_rows(faults, rows, self._namer(name))

    def _namer(self, column: str) -> Any:
        return lambda row: f"{self.file.place}, row {self.start + row}: {column}"

    def column(self, name: str) -> tuple[Any, Any]:
        """The rows' cells in one array, and the file's schema."""
        where, streams = str(self.file.place), _streams()
        with reaching(where, WHOLE):
            stream = streams.pop((self.file, name), None) or _Stream(self.file, name)
            if stream.num_rows != self.num_rows:
                raise BadData(where, f"{stream.num_rows} rows", f"{self.num_rows}, as when listed")
            check_schema(stream.schema, where, self.source)
            column = stream.read(self.start, self.stop)
        streams[self.file, name] = stream  # not after an error, which may leave it anywhere
        while len(streams) > OPEN:
            streams.popitem(last=False)
        return column, stream.schema


class _Stream:
    """One column of a file, read forwards; row groups that are not asked for are left out."""

    def __init__(self, file: Entry, column: str) -> None:
        self._file = pq.ParquetFile(file.place.open(), pre_buffer=False, buffer_size=READ_BYTES)
        metadata = self._file.metadata
        self.schema, self.num_rows = self._file.schema_arrow, metadata.num_rows
        self._column = column
        groups = range(metadata.num_row_groups)
        self._ends = list(accumulate(metadata.row_group(i).num_rows for i in groups))
        self._position = self.num_rows
        self._batches: Iterator[Any] = iter(())

    def read(self, start: int, stop: int) -> Any:
        """Rows start .. stop - 1 in one array."""
        group = bisect.bisect_right(self._ends, start)
        first = self._ends[group - 1] if group else 0
        if not first <= self._position <= start:
            groups = list(range(group, len(self._ends)))
            self._batches = self._file.iter_batches(BATCH_ROWS, groups, [self._column])
            self._position = first
        found = []
        while self._position < stop:
            batch = next(self._batches)
            column = batch if isinstance(batch, pa.Array) else batch.column(0)
            low = min(max(start - self._position, 0), len(column))
            high = min(stop - self._position, len(column))
            if high > low:
                found.append(column.slice(low, high - low))
            if high < len(column):
                self._batches = itertools.chain([column.slice(high)], self._batches)
            self._position += high
        return pa.concat_arrays(found)


def _streams() -> OrderedDict[tuple[Entry, str], _Stream]:
    """Those of this thread, used longest ago first."""
    if not hasattr(_open, "streams"):
        _open.streams = OrderedDict()
    streams: OrderedDict[tuple[Entry, str], _Stream] = _open.streams
    return streams


_open = threading.local()
