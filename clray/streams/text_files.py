"""Texts and their labels in CSV and Parquet files.

One column holds labels, one or more hold texts, which a space joins. Where nothing else is said,
labels stand in the column ``label``, or in the first one of CSV files without a header, whose
columns are called 0, 1, …; all other columns are texts. Labels are whole numbers or strings.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pyarrow import csv

from clray.errors import BadData
from clray.streams.locations import Entry, Place, locate, reaching
from clray.streams.parquet_columns import class_names

SUFFIXES = (".csv", ".parquet")
READABLE = "a CSV file (UTF-8, fields in double quotes) or a Parquet file, whole and readable"
BLOCK_BYTES = 8 << 20
BATCH_ROWS = 8192


def find(name: str, half: str) -> list[Entry]:
    """The files of a half (train or test), in the order of their names.

    Args:
        name: a folder; local, ``s3://…`` or ``gs://…``.
        half: what their names begin with.

    Raises:
        BadData: there are none, or CSV and Parquet files side by side.
    """
    place = locate(name)
    for folder in (place, place / "data"):
        found = [entry for entry in folder.entries() or () if _is_text(entry, half)]
        kinds = {_kind(entry.place) for entry in found}
        if len(kinds) > 1:
            given = ", ".join(entry.place.name for entry in found)
            raise BadData(f"{folder}: {half}", given, "CSV files or Parquet files, not both")
        if found:
            return found
    accepted = f"a folder with {half}*.csv or {half}*.parquet; looked in {place} and {place}/data"
    raise BadData("benchmark.dataset", f"text:{name}", accepted)


def columns(file: Entry, header: bool, chosen: Sequence[str]) -> tuple[str, tuple[str, ...]]:
    """The names of the label column and of the text columns.

    Args:
        file: one of the half.
        header: whether a CSV file begins with names.
        chosen: the label column, and maybe text columns after it; empty: as the file has them.

    Raises:
        BadData: a file that cannot be read, or lacks a column.
    """
    where = str(file.place)
    names = _schema(file, header).names
    for column in chosen:
        if column not in names:
            raise BadData(f"{where}: benchmark.columns", column, names)
    numbered = _kind(file.place) == ".csv" and not header
    first = names[0] if numbered else "label"
    label = chosen[0] if chosen else first
    if label not in names:
        accepted = "a column named label, or benchmark.columns that say which one it is"
        raise BadData(f"{where}: columns", ", ".join(names), accepted)
    if _kind(file.place) == ".csv" and header and _is_number(label):
        raise BadData(f"{where}: header", label, "names of columns, or benchmark.header: false")
    texts = tuple(chosen[1:]) or tuple(column for column in names if column != label)
    if not texts:
        raise BadData(f"{where}: columns", ", ".join(names), "a column of texts beside the labels")
    if _kind(file.place) == ".parquet":
        schema = _schema(file, header)
        for column in texts:
            if not _is_string(schema.field(column).type):
                kind = str(schema.field(column).type)
                accepted = "strings (benchmark.columns says which columns are texts)"
                raise BadData(f"{where}: column {column}", kind, accepted)
    return label, texts


def names_of_classes(file: Entry, header: bool, label: str) -> tuple[str, ...]:
    """What the classes 0, 1, … are called where a Parquet file says it; else nothing."""
    return class_names(_schema(file, header), label) if _kind(file.place) == ".parquet" else ()


@functools.lru_cache(64)  # every trial of a sweep asks for the same
def labels(file: Entry, header: bool, label: str) -> Any:
    """The labels of a file as an array of strings, "" where there is none.

    Raises:
        BadData: a file that cannot be read, labels of another type, or a header that is no label.
    """
    where = f"{file.place}: column {label}"
    kind = _schema(file, header).field(label).type
    if _kind(file.place) == ".parquet" and not (pa.types.is_integer(kind) or _is_string(kind)):
        raise BadData(where, str(kind), "whole numbers or strings")
    parts = [pa.array([], pa.string())]
    for _, batch in _batches(file, header, [label]):
        cells = pc.fill_null(pc.cast(batch.column(0), pa.string()), "")
        parts.append(pc.utf8_trim_whitespace(cells))
    found = pa.concat_arrays(parts)
    numbered = _kind(file.place) == ".csv" and not header
    if numbered and len(found) > 1 and not _is_number(found[0].as_py()) and _are_numbers(found[1:]):
        accepted = "a whole number as in the other rows, or benchmark.header: true"
        raise BadData(f"{file.place}, row 0: label", found[0].as_py(), accepted)
    return found


def classes_of(found: Iterable[Any]) -> tuple[str, ...]:
    """The different labels of some files, without ""; by size if all are whole numbers."""
    own = {name for part in found for name in pc.unique(part).to_pylist()} - {""}
    return tuple(sorted(own, key=int) if all(map(_is_number, own)) else sorted(own))


def numbers(found: Any, classes: Sequence[str]) -> NDArray[np.int64]:
    """The position of each label among the classes, -1 where it is none of them."""
    places = pc.index_in(found, value_set=pa.array(list(classes), pa.string()))
    codes: NDArray[np.int64] = pc.fill_null(places, -1).to_numpy().astype(np.int64)
    return codes


def texts(file: Entry, header: bool, names: Sequence[str], rows: Sequence[int]) -> list[str]:
    """The texts of some rows (ascending), the columns joined by a space; "" where all are empty.

    Raises:
        BadData: a file that cannot be read, or has fewer rows than when it was listed.
    """
    wanted, last = np.asarray(rows, np.int64), int(rows[-1])
    found: list[str] = []
    stop = 0
    for start, batch in _batches(file, header, list(names), int(rows[0]), last):
        stop = start + len(batch)
        low, high = np.searchsorted(wanted, (start, stop))
        if high > low:
            found += _joined(batch.take(pa.array(wanted[low:high] - start)).columns)
        if high == len(wanted):
            return found
    raise BadData(str(file.place), f"{stop} rows", f"{last + 1} or more, as when listed")


def _batches(
    file: Entry, header: bool, names: list[str], first: int = 0, last: int | None = None
) -> Iterator[tuple[int, Any]]:
    """Some columns of a file, batch by batch, each after the number of its first row; row groups of
    Parquet files that hold none of the rows first .. last are left out.

    Raises:
        BadData: a file that cannot be read.
    """
    with reaching(str(file.place), READABLE), file.place.open() as opened:
        start = 0
        if _kind(file.place) == ".csv":
            kinds = dict.fromkeys(names, pa.string())
            for batch in csv.open_csv(opened, **_options(file, header, kinds)):
                yield start, batch
                start += len(batch)
            return
        parquet = pq.ParquetFile(opened)
        for group in range(parquet.metadata.num_row_groups):
            stop = start + parquet.metadata.row_group(group).num_rows
            if stop > first and (last is None or start <= last):
                for batch in parquet.iter_batches(BATCH_ROWS, [group], names, use_threads=False):
                    yield start, batch.select(names)
                    start += len(batch)
            start = stop


@functools.lru_cache(256)
def _schema(file: Entry, header: bool) -> Any:
    """The schema of a file; columns of CSV files without a header are called 0, 1, …

    Raises:
        BadData: a file that cannot be read.
    """
    with reaching(str(file.place), READABLE), file.place.open() as opened:
        if _kind(file.place) == ".parquet":
            return pq.ParquetFile(opened).schema_arrow
        options = _options(file, header, {})
        schema = csv.open_csv(opened, **options).schema
    if header:
        return schema
    return pa.schema([field.with_name(str(i)) for i, field in enumerate(schema)])


def _options(file: Entry, header: bool, kinds: dict[str, Any]) -> dict[str, Any]:
    """How pyarrow reads a CSV file; ``kinds`` holds the columns that are read, or is empty."""
    names = None if header or not kinds else _schema(file, header).names
    return {
        "read_options": csv.ReadOptions(
            use_threads=False,
            block_size=BLOCK_BYTES,
            column_names=names,
            autogenerate_column_names=not header and names is None,
        ),
        "parse_options": csv.ParseOptions(newlines_in_values=True),
        "convert_options": csv.ConvertOptions(
            column_types=kinds, include_columns=list(kinds), strings_can_be_null=False
        ),
    }


def _joined(columns: Sequence[Any]) -> list[str]:
    """The cells of each row, without the space around them, with one between them."""
    parts = []
    for column in columns:
        cells = pc.utf8_trim_whitespace(pc.fill_null(pc.cast(column, pa.string()), ""))
        spaced = pc.binary_join_element_wise("", cells, " ")
        parts.append(pc.if_else(pc.equal(cells, ""), "", spaced))
    # Told to skip nulls, pyarrow 26 loses the rows that hold nothing else.
    joined = pc.utf8_ltrim_whitespace(pc.binary_join_element_wise(*parts, ""))
    found: list[str] = joined.to_pylist()
    return found


def _is_text(entry: Entry, half: str) -> bool:
    name = entry.place.name
    return entry.is_file and name.startswith(half) and name.endswith(SUFFIXES)


def _kind(place: Place) -> str:
    return place.name[place.name.rindex(".") :]


def _is_string(kind: Any) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _is_number(text: str) -> bool:
    return text.lstrip("-").isdecimal()


def _are_numbers(found: Any) -> bool:
    return all(map(_is_number, pc.unique(found).to_pylist()))
