"""Datasets from Parquet files, in the layout that the Hugging Face hub exports.

The image column holds encoded images (``struct<bytes, path>`` or binary), or raw uint8 pixels
(fixed-size binary, fixed-shape tensors or nested lists); the label column holds whole numbers.
"""

from __future__ import annotations

import glob
import io
import json
import math
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from clray.errors import BadData, BadSpec
from clray.streams.dataset import Dataset, Source, check_labels, fit_images, stack_images

Files = dict[str, list[Path]]


def find(name: str, splits: Sequence[str] = ("train", "test")) -> Files:
    """The files of each split: ``train-*.parquet`` or ``train.parquet``, in the order of names.

    Args:
        name: a folder, or what the files' names begin with; ``$VARIABLES`` and ``~`` are expanded.

    Raises:
        BadData: an environment variable that is not set, or no such files.
    """
    path = _expand(name)
    places = [f"{path}/", f"{path}/data/" if path.is_dir() else str(path)]
    for place in places:
        found = {split: _matching(Path(f"{place}{split}")) for split in splits}
        if all(found.values()):
            return found
    wanted = " and ".join(f"{split}-*.parquet" for split in splits)
    looked = " or ".join(f"{place}{splits[0]}-*.parquet" for place in places)
    accepted = f"a folder or prefix with {wanted} (looked for {looked})"
    raise BadData("benchmark.dataset", f"parquet:{name}", accepted)


def identity(name: str) -> object:
    """What changes when the files do."""
    path = _expand(name)
    folder = path if path.is_dir() else path.parent
    files = sorted([*folder.glob("*.parquet"), *folder.glob("data/*.parquet")])
    return tuple((str(f), f.stat().st_mtime_ns, f.stat().st_size) for f in files)


def check(files: Files, source: Source) -> int | None:
    """Read the files' footers alone; the number of classes where they name them.

    Raises:
        BadData: a file that is no Parquet file or lacks a column.
    """
    schemas = [_schema(file, source) for split in files.values() for file in split]
    names = _class_names(schemas[0], source.label_column)
    return len(names) if names else None


def load(name: str, source: Source) -> Dataset:
    """All images and labels of both splits.

    Raises:
        BadData: files that are missing or damaged, or labels that are not classes.
        BadSpec: images of several sizes without ``image_size``, or of several kinds of channels.
    """
    files = find(name)
    train_x, train_y, names = read(files["train"], source)
    test_x, test_y, _ = read(files["test"], source)
    if train_x.shape[1:] != test_x.shape[1:]:
        given = f"training images {list(train_x.shape[1:])}, test images {list(test_x.shape[1:])}"
        accepted = "image_size and channels, where they differ"
        raise BadSpec(f"benchmark.image_size: {name}", given, accepted)
    names = names or tuple(str(n) for n in range(int(train_y.max()) + 1))
    check_labels(train_y, len(names), f"{name}: train")
    check_labels(test_y, len(names), f"{name}: test")
    return Dataset(train_x, train_y, test_x, test_y, names)


def read(files: Sequence[Path], source: Source) -> tuple[Tensor, Tensor, tuple[str, ...]]:
    """Images uint8 [N, C, H, W], labels int64 [N] and the class names in the files, or ()."""
    images, labels = [], []
    names: tuple[str, ...] = ()
    for file in files:
        schema = _schema(file, source)
        names = names or _class_names(schema, source.label_column)
        row = 0
        for batch in _read_batches(file, [source.image_column, source.label_column]):
            labels.append(_labels(batch[source.label_column], file, source))
            images.append(_images(batch[source.image_column], schema, file, row, source))
            row += len(batch)
            if images[-1].shape[1:] != images[0].shape[1:]:
                given = f"images {list(images[-1].shape[1:])} and {list(images[0].shape[1:])}"
                where = f"benchmark.image_size: {file}"
                raise BadSpec(where, given, "image_size and channels, where they differ")
    if not images:
        raise BadData(str(files[0]), "no rows", "one image or more")
    return torch.cat(images), torch.cat(labels), names


def _expand(name: str) -> Path:
    text = os.path.expanduser(os.path.expandvars(name))
    unset = re.search(r"\$\{?(\w+)\}?", text)
    if unset:
        accepted = f"a path; the environment variable {unset[1]} is not set"
        raise BadData("benchmark.dataset", f"parquet:{name}", accepted)
    return Path(text)


def _matching(prefix: Path) -> list[Path]:
    single = prefix.with_name(f"{prefix.name}.parquet")
    many = sorted(prefix.parent.glob(f"{glob.escape(prefix.name)}-*.parquet"))
    return many or ([single] if single.is_file() else [])


def _schema(file: Path, source: Source) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        schema = pq.read_schema(file)
    except (pa.ArrowException, OSError) as error:
        raise BadData(str(file), _reason(error), "a Parquet file, whole and readable") from None
    for knob in ("image_column", "label_column"):
        column = getattr(source, knob)
        if column not in schema.names:
            raise BadData(f"{file}: benchmark.{knob}", column, schema.names)
    return schema


def _read_batches(file: Path, columns: list[str]) -> list[Any]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        batches = pq.ParquetFile(file).read(columns=columns).to_batches()
    except (pa.ArrowException, OSError) as error:
        raise BadData(str(file), _reason(error), "a Parquet file, whole and readable") from None
    return [batch for batch in batches if len(batch)]


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"[:200]


def _class_names(schema: Any, label_column: str) -> tuple[str, ...]:
    """From ``classes`` in the schema's metadata, or from the hub's description of the features."""
    metadata = schema.metadata or {}
    if b"classes" in metadata:
        return tuple(n.strip() for n in metadata[b"classes"].decode().split(","))
    try:
        features = json.loads(metadata[b"huggingface"])["info"]["features"]
        return tuple(str(n) for n in features[label_column]["names"])
    except (KeyError, TypeError, ValueError):
        return ()


def _labels(column: Any, file: Path, source: Source) -> Tensor:
    import pyarrow as pa

    where = f"{file}: column {source.label_column}"
    if not pa.types.is_integer(column.type):
        raise BadData(where, str(column.type), "whole numbers from 0 up")
    if column.null_count:
        raise BadData(where, f"{column.null_count} empty cells", "a label in each row")
    labels = torch.from_numpy(column.cast(pa.int64()).to_numpy().copy())
    if int(labels.min()) < 0:
        raise BadData(where, int(labels.min()), "whole numbers from 0 up")
    return labels


def _images(column: Any, schema: Any, file: Path, first_row: int, source: Source) -> Tensor:
    import pyarrow as pa

    where = f"{file}: column {source.image_column}"
    kind = column.type
    if pa.types.is_struct(kind) and "bytes" in [kind.field(i).name for i in range(len(kind))]:
        column = column.field("bytes")
        kind = column.type
    if column.null_count:
        raise BadData(where, f"{column.null_count} empty cells", "an image in each row")
    if pa.types.is_fixed_size_binary(kind):
        return fit_images(_raw(column, schema, where), source)
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        encoded = column.to_pylist()
        return stack_images(
            len(encoded),
            lambda i: Image.open(io.BytesIO(encoded[i])),
            lambda i: f"{where}, row {first_row + i}",
            source,
        )
    if isinstance(kind, pa.FixedShapeTensorType):
        return fit_images(_pixels(column.storage, kind.shape, schema, where), source)
    if pa.types.is_nested(kind) and not pa.types.is_struct(kind):
        return fit_images(_pixels(column, None, schema, where), source)
    accepted = "encoded images (struct<bytes, path> or binary) or uint8 pixels"
    raise BadData(where, str(kind), accepted)


def _raw(column: Any, schema: Any, where: str) -> Tensor:
    width = column.type.byte_width
    pixels = np.frombuffer(column.buffers()[1], np.uint8)
    pixels = pixels[column.offset * width : (column.offset + len(column)) * width]
    flat = torch.from_numpy(pixels.reshape(len(column), width).copy())
    return _shaped(flat, [width], schema, where)


def _pixels(column: Any, shape: Sequence[int] | None, schema: Any, where: str) -> Tensor:
    import pyarrow as pa

    count, sizes = len(column), []
    while pa.types.is_nested(column.type):
        inner = column.flatten()
        size, rest = divmod(len(inner), len(column))
        lengths = set(column.value_lengths().to_pylist())
        if rest or lengths != {size}:
            raise BadData(where, "lists of several lengths", "images of one size")
        sizes.append(size)
        column = inner
    if not pa.types.is_integer(column.type) or column.null_count:
        raise BadData(where, f"pixels of type {column.type}", "whole numbers from 0 to 255")
    values = column.to_numpy()
    if len(values) and (values.min() < 0 or values.max() > 255):
        given = f"pixels from {values.min()} to {values.max()}"
        raise BadData(where, given, "whole numbers from 0 to 255")
    flat = torch.from_numpy(values.astype(np.uint8).reshape(count, -1))
    return _shaped(flat, list(shape or sizes), schema, where)


def _shaped(flat: Tensor, sizes: list[int], schema: Any, where: str) -> Tensor:
    """Pixels uint8 [N, P] as [N, C, H, W], by ``shape`` in the metadata or by the column's type."""
    text = (schema.metadata or {}).get(b"shape", b"").decode()
    if text:
        sizes = [int(n) for n in re.findall(r"\d+", text)]
    side = math.isqrt(flat.shape[1])
    if len(sizes) == 1 and side * side == flat.shape[1]:
        sizes = [side, side]
    if len(sizes) == 2:
        sizes = [1, *sizes]
    if len(sizes) != 3 or math.prod(sizes) != flat.shape[1] or not {1, 3} & {sizes[0], sizes[2]}:
        accepted = "C,H,W or H,W,C with C = 1 or 3, as shape in the schema's metadata"
        raise BadData(f"{where}: shape", text or sizes, accepted)
    images = flat.view(len(flat), *sizes)
    return images if sizes[0] in (1, 3) else images.permute(0, 3, 1, 2)
