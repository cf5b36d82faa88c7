"""Datasets from Parquet files, in the layout that the Hugging Face hub exports.

The image column holds encoded images (``struct<bytes, path>`` or binary), or raw uint8 pixels
(fixed-size binary, fixed-shape tensors or nested lists); the label column holds whole numbers.
Where there is no ``test`` split, ``validation``, ``valid`` or ``val`` is graded on, since many
datasets keep the labels of their test images to themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pyarrow.parquet as pq

from clray.errors import BadData
from clray.streams.dataset import Source
from clray.streams.decoding import encoded_size, rows_per_piece
from clray.streams.locations import READERS, Entry, Place, digest, locate, reaching
from clray.streams.parquet_columns import check_schema, class_names, encoded, stored_size
from clray.streams.parquet_pieces import WHOLE, ParquetRows
from clray.streams.pieces import Listing

Files = dict[str, list[Entry]]
GRADED_ON = ("test", "validation", "valid", "val")


@dataclass(frozen=True)
class _Footer:
    """What the end of a file says."""

    entry: Entry
    num_rows: int
    groups: tuple[int, ...]
    schema: Any


def find(name: str, splits: Sequence[str] = ("train", "test")) -> Files:
    """The files of each split: ``train-*.parquet`` or ``train.parquet``, in the order of names.

    Args:
        name: a folder, or what the files' names begin with; local, ``s3://…`` or ``gs://…``;
            ``$VARIABLES`` and ``~`` are expanded.

    Raises:
        BadData: an environment variable that is not set, no such files, or no way to look.
    """
    files, looked = _find(locate(name), splits)
    if files is not None:
        return files
    wanted = " and ".join(f"{split}-*.parquet" for split in splits)
    if "test" in splits:
        wanted += f" (or {', '.join(f'{name}-' for name in GRADED_ON[1:])})"
    places = " or ".join(f"{place}{splits[0]}-*.parquet" for place in looked)
    accepted = f"a folder or prefix with {wanted}; looked for {places}"
    raise BadData("benchmark.dataset", f"parquet:{name}", accepted)


def lies_in(folder: Place) -> bool:
    """Whether there is a dataset in this layout in a folder."""
    return _find(folder, ("train", "test"))[0] is not None


def identity(name: str) -> object:
    """What changes when the files do."""
    return tuple(entry for entries in find(name).values() for entry in entries)


def check(name: str, source: Source) -> int | None:
    """Read the files' footers alone; the number of classes where they name them.

    Raises:
        BadData: a file that is no Parquet file, lacks a column or is empty.
    """
    files = find(name)
    footers = read_footers([file for entries in files.values() for file in entries], source)
    return len(class_names(footers[0].schema, source.label_column)) or None


def listing(name: str, source: Source) -> Listing:
    """Both halves as row ranges of files.

    Raises:
        BadData: as ``check``.
    """
    files = find(name)
    train, test = (read_footers(files[split], source) for split in ("train", "test"))
    names = class_names(train[0].schema, source.label_column) or None
    size = _rows_per_piece(train[0], source)
    count = len(names) if names else None
    halves = [
        tuple(piece for footer in footers for piece in pieces(footer, size, count, source))
        for footers in (train, test)
    ]
    entries = [*files["train"], *files["test"]]
    return Listing(halves[0], halves[1], names, {"dataset": source.dataset, **digest(entries)})


def list_one(
    name: str, split: str, cuts: Sequence[int], classes: Sequence[str], source: Source
) -> Listing:
    """One split's only file, its first rows for training and the rest for testing.

    Args:
        cuts: where training begins, where testing does, and how many rows there must be.
        classes: their names where the file has none.

    Raises:
        BadData: no such file, or one of another length.
    """
    files = find(name, (split,))[split]
    footer = read_footers(files[:1], source)[0]
    if len(files) > 1 or footer.num_rows != cuts[-1]:
        given = f"{footer.num_rows} rows in {files[0].place}, {len(files)} files"
        raise BadData(f"benchmark.dataset: {source.dataset}", given, f"one file of {cuts[-1]} rows")
    names = class_names(footer.schema, source.label_column) or tuple(classes)
    size = _rows_per_piece(footer, source)
    halves = [
        tuple(pieces(footer, size, len(names), source, low, high)) for low, high in pairwise(cuts)
    ]
    return Listing(halves[0], halves[1], names, {"dataset": source.dataset, **digest(files)})


def read_footers(files: Sequence[Entry], source: Source) -> list[_Footer]:
    """The files' footers, many at a time.

    Raises:
        BadData: the first file that is no Parquet file, lacks a column or is empty.
    """

    def read(entry: Entry) -> _Footer:
        where = str(entry.place)
        with reaching(where, WHOLE), entry.place.open() as file:
            metadata = pq.ParquetFile(file).metadata
        schema = metadata.schema.to_arrow_schema()
        check_schema(schema, where, source)
        if not metadata.num_rows:
            raise BadData(where, "no rows", "one image or more in each file")
        groups = (metadata.row_group(i).num_rows for i in range(metadata.num_row_groups))
        return _Footer(entry, metadata.num_rows, tuple(groups), schema)

    if len(files) == 1:
        return [read(files[0])]
    with ThreadPoolExecutor(READERS) as pool:
        return list(pool.map(read, files))


def pieces(
    footer: _Footer,
    size: int,
    num_classes: int | None,
    source: Source,
    start: int = 0,
    stop: int | None = None,
) -> list[ParquetRows]:
    """A file's rows start .. stop - 1 as pieces of at most ``size`` rows, ending with row groups
    where that leaves them large enough."""
    ends = {0}
    for group in footer.groups:
        ends.add(max(ends) + group)
    stop = footer.num_rows if stop is None else stop
    found, low = [], start
    while low < stop:
        high = min(low + size, stop)
        whole = [end for end in ends if low + size // 2 < end < high]
        high = max(whole) if whole and high < stop else high
        found.append(ParquetRows(footer.entry, low, high, footer.num_rows, num_classes, source))
        low = high
    return found


def _find(place: Place, splits: Sequence[str]) -> tuple[Files | None, list[str]]:
    """The files, or None; and where they were looked for."""
    here = place.entries()
    if here is not None:
        folders = [(f"{place}/", "", here), (f"{place}/data/", "", (place / "data").entries())]
    else:
        folders = [(str(place), place.name, place.parent.entries())]
    for _, stem, entries in folders:
        found = {}
        for split in splits:
            names = GRADED_ON if split == "test" else (split,)
            choices = (_matching(entries or [], stem + name) for name in names)
            found[split] = next((files for files in choices if files), [])
        if all(found.values()):
            return found, []
    looked = [where for where, _, _ in folders]
    return None, looked if here is not None else [f"{place}/", *looked]


def _matching(entries: Sequence[Entry], stem: str) -> list[Entry]:
    files = [entry for entry in entries if entry.is_file and entry.place.name.endswith(".parquet")]
    many = [entry for entry in files if entry.place.name.startswith(f"{stem}-")]
    return many or [entry for entry in files if entry.place.name == f"{stem}.parquet"]


def _rows_per_piece(footer: _Footer, source: Source) -> int:
    def size() -> tuple[int, int]:
        piece = ParquetRows(footer.entry, 0, 1, footer.num_rows, None, source)
        cell, schema = piece.column(source.image_column)
        where = f"{footer.entry.place}: column {source.image_column}"
        return stored_size(cell, schema, where) or encoded_size(encoded(cell))

    return rows_per_piece(source, size)
