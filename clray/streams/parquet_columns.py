"""What stands in the columns of a Parquet file: encoded images, raw pixels, labels."""

from __future__ import annotations

import json
import math
import re
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray
from torch import Tensor

from clray.errors import BadData
from clray.streams.dataset import Source
from clray.streams.decoding import EMPTY, Fault, Read, Shape, bad_labels, decode, fit_all

LABELS = "whole numbers from 0 up"
IMAGES = "encoded images (struct<bytes, path> or binary) or uint8 pixels"
PIXELS = "whole numbers from 0 to 255"


def check_schema(schema: Any, where: str, source: Source) -> None:
    """Refuse a file without the source's columns, or with columns of another kind.

    Raises:
        BadData: naming the file.
    """
    for knob in ("image_column", "label_column"):
        column = getattr(source, knob)
        if column not in schema.names:
            raise BadData(f"{where}: benchmark.{knob}", column, schema.names)
    kind = schema.field(source.label_column).type
    if not pa.types.is_integer(kind):
        raise BadData(f"{where}: column {source.label_column}", str(kind), LABELS)
    kind = schema.field(source.image_column).type
    if not (_is_encoded(kind) or _is_binary(kind) or _is_pixels(kind)):
        raise BadData(f"{where}: column {source.image_column}", str(kind), IMAGES)


def class_names(schema: Any, label_column: str) -> tuple[str, ...]:
    """From ``classes`` in the schema's metadata, or from the hub's description of the features."""
    metadata = schema.metadata or {}
    if b"classes" in metadata:
        return tuple(n.strip() for n in metadata[b"classes"].decode().split(","))
    try:
        features = json.loads(metadata[b"huggingface"])["info"]["features"]
        return tuple(str(n) for n in features[label_column]["names"])
    except (KeyError, TypeError, ValueError):
        return ()


def read_labels(column: Any, num_classes: int | None) -> tuple[Tensor, dict[int, Fault]]:
    """int64 [n], -1 where there is no label, and why.

    Args:
        column: whole numbers.
        num_classes: None: not known.
    """
    empty = pc.is_null(column).to_numpy(zero_copy_only=False)
    values = pc.fill_null(pc.cast(column, pa.int64(), safe=False), -1)
    labels = torch.from_numpy(values.to_numpy(zero_copy_only=False).copy())
    faults = bad_labels(labels, num_classes)
    for i in empty.nonzero()[0].tolist():
        faults[i] = Fault("an empty cell", "a label in each row")
    labels[list(faults)] = -1
    return labels, faults


def read_images(column: Any, schema: Any, where: str, source: Source, shape: Shape | None) -> Read:
    """The images of a column, as ``clray.streams.decoding.decode`` gives them.

    Raises:
        BadData: pixels whose height, width and channels cannot be told, naming ``where``.
    """
    if _is_encoded(column.type):
        column = pc.struct_field(column, "bytes")
    if _is_binary(column.type):
        return decode(column.to_pylist(), source, shape)
    if pa.types.is_fixed_size_binary(column.type):
        pixels, good, sizes = _fixed(column)
    else:
        sizes = list(column.type.shape) if isinstance(column.type, pa.FixedShapeTensorType) else []
        pixels, good, found = _nested(column.storage if sizes else column)
        sizes = sizes or found
    if not len(pixels):
        images, faults = fit_all(torch.zeros((0, 1, 1, 1)).byte(), good, source, shape)
    else:
        shaped = _shaped(torch.from_numpy(pixels), sizes, schema, where)
        images, faults = fit_all(shaped, good, source, shape)
    empty = pc.is_null(column).to_numpy(zero_copy_only=False)
    for i in (good < 0).nonzero().squeeze(1).tolist():
        accepted = f"as many pixels as in the others, {PIXELS}"
        faults[i] = EMPTY if empty[i] else Fault("other pixels", accepted)
    return images, faults


def stored_size(cell: Any, schema: Any, where: str) -> tuple[int, int] | None:
    """Height and width of the one image in ``cell`` if it is stored as pixels."""
    if _is_encoded(cell.type) or _is_binary(cell.type):
        return None
    images, _ = read_images(cell, schema, where, Source(""), None)
    return images.shape[2], images.shape[3]


def encoded(cell: Any) -> bytes | None:
    """The content of the one image in ``cell``."""
    column = pc.struct_field(cell, "bytes") if _is_encoded(cell.type) else cell
    content: bytes | None = column[0].as_py()
    return content


def _is_encoded(kind: Any) -> bool:
    fields = (
        [kind.field(i).name for i in range(kind.num_fields)] if pa.types.is_struct(kind) else []
    )
    return "bytes" in fields and _is_binary(kind.field("bytes").type)


def _is_binary(kind: Any) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _is_pixels(kind: Any) -> bool:
    if isinstance(kind, pa.FixedShapeTensorType):
        kind = kind.storage_type
    elif not pa.types.is_nested(kind) or pa.types.is_struct(kind):
        return bool(pa.types.is_fixed_size_binary(kind))
    while hasattr(kind, "value_type"):
        kind = kind.value_type
    return bool(pa.types.is_integer(kind))


def _fixed(column: Any) -> tuple[NDArray[np.uint8], Tensor, list[int]]:
    """Pixels [g, P] of the good rows, where each row's stand (-1: nowhere), and [P]."""
    valid = pc.is_valid(column).to_numpy(zero_copy_only=False)
    kept, width = column.drop_null(), column.type.byte_width
    pixels = np.frombuffer(kept.buffers()[1] or b"", np.uint8)
    pixels = pixels[kept.offset * width : (kept.offset + len(kept)) * width]
    return pixels.reshape(-1, width).copy(), _positions(valid), [width]


def _nested(column: Any) -> tuple[NDArray[np.uint8], Tensor, list[int]]:
    """As ``_fixed``, of nested lists; the first row that is whole sets the lists' lengths."""
    count = len(column)
    good, owner, sizes = np.ones(count, bool), np.arange(count), list[int]()
    while pa.types.is_nested(column.type):
        valid = pc.is_valid(column).to_numpy(zero_copy_only=False)
        good[owner[~valid]] = False
        column, owner = column.drop_null(), owner[valid]
        lengths = pc.list_value_length(column).to_numpy(zero_copy_only=False).astype(np.int64)
        whole = lengths[good[owner]]
        sizes.append(int(whole[0]) if len(whole) else 0)
        good[owner[lengths != sizes[-1]]] = False
        column, owner = column.flatten(), np.repeat(owner, lengths)
    valid = pc.is_valid(column).to_numpy(zero_copy_only=False)
    values = pc.fill_null(column, 0).to_numpy(zero_copy_only=False)
    good[owner[~valid | (values < 0) | (values > 255)]] = False
    pixels = values[good[owner]].astype(np.uint8)
    return pixels.reshape(-1, max(1, math.prod(sizes))), _positions(good), sizes


def _positions(good: NDArray[np.bool_]) -> Tensor:
    return torch.from_numpy(np.where(good, np.cumsum(good) - 1, -1))


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
