from __future__ import annotations

import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from clray.errors import BadData
from clray.streams import parquet_files, sources
from clray.streams.dataset import Dataset, Source

WriteParquet = Callable[..., Path]
LABELS = [0, 1, 2] * 4


def encoded(pixels: NDArray[Any], kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def load(folder: Path | str, **knobs: Any) -> Dataset:
    source = Source(f"parquet:{folder}", **knobs)
    sources.check(source)
    return sources.load(source)


def test_images_come_back_as_they_were_written(
    write_parquet: WriteParquet, grey: NDArray[np.uint8], tmp_path: Path
) -> None:
    write_parquet(grey[:6], LABELS[:6], "train-00000-of-00002")
    write_parquet(grey[6:], LABELS[6:], "train-00001-of-00002", row_group_size=2)
    write_parquet(grey[:3], LABELS[:3], "test-00000-of-00001")
    dataset = load(tmp_path)
    assert dataset.train_x.dtype == torch.uint8
    assert np.array_equal(dataset.train_x.numpy()[:, 0], grey)
    assert dataset.train_y.tolist() == LABELS
    assert dataset.test_x.shape == (3, 1, 6, 6)
    assert dataset.class_names == ("0", "1", "2")
    assert dataset.image_shape == (1, 6, 6)


@pytest.mark.parametrize("layout", ["data", "prefix", "single", "variable", "home"])
def test_where_files_may_lie(
    layout: str,
    write_parquet: WriteParquet,
    grey: NDArray[np.uint8],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = tmp_path / "data" if layout == "data" else tmp_path
    start = "tiny-" if layout == "prefix" else ""
    end = "" if layout == "single" else "-0"
    for split in ("train", "test"):
        write_parquet(grey, LABELS, f"{start}{split}{end}", folder)
    monkeypatch.setenv("SOME_FOLDER", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    name = {"prefix": f"{tmp_path}/tiny-", "variable": "${SOME_FOLDER}", "home": "~"}
    assert len(load(name.get(layout, str(tmp_path))).train_y) == 12


def test_class_names_from_either_kind_of_metadata(
    write_parquet: WriteParquet, grey: NDArray[np.uint8], tmp_path: Path
) -> None:
    features = {"info": {"features": {"label": {"names": ["a", "b", "c", "d"]}}}}
    write_parquet(grey, LABELS, "test-0", metadata={"classes": "x, y,z"})
    for metadata, names in (
        ({"classes": "ant, bee,cat"}, ("ant", "bee", "cat")),
        ({"huggingface": json.dumps(features)}, ("a", "b", "c", "d")),
        ({"huggingface": "[1"}, ("0", "1", "2")),
    ):
        write_parquet(grey, LABELS, metadata=metadata)
        assert load(tmp_path).class_names == names
    source = Source(f"parquet:{tmp_path}")
    assert sources.check(source) is None


def test_channels_and_size_as_asked_for(
    write_parquet: WriteParquet, grey: NDArray[np.uint8], tmp_path: Path
) -> None:
    for split in ("train-0", "test-0"):
        write_parquet(grey, LABELS, split)
    coloured = load(tmp_path, channels=3)
    assert coloured.image_shape == (3, 6, 6)
    assert np.array_equal(coloured.train_x.numpy()[:, 2], grey)
    assert load(tmp_path, image_size=4).image_shape == (1, 4, 4)


def test_jpeg_and_colour(
    write_parquet: WriteParquet, grey: NDArray[np.uint8], tmp_path: Path
) -> None:
    colour = np.stack([grey[0]] * 3, 2)
    for split in ("train-0", "test-0"):
        write_parquet([encoded(colour, "JPEG"), colour], [0, 1], split)
    dataset = load(tmp_path)
    assert dataset.image_shape == (3, 6, 6)
    assert np.array_equal(dataset.train_x[1, 0].numpy(), grey[0])
    assert load(tmp_path, channels=1).image_shape == (1, 6, 6)


def test_large_images_are_decoded_by_threads_in_order(
    write_parquet: WriteParquet, tmp_path: Path
) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (9, 130, 130), dtype=np.uint8)
    for split in ("train-0", "test-0"):
        write_parquet(pixels, [0] * 9, split)
    assert np.array_equal(load(tmp_path).train_x.numpy()[:, 0], pixels)


def raw(kind: str, pixels: NDArray[np.uint8]) -> tuple[pa.Array, dict[str, str]]:
    """[N, 3, H, W] in one of the ways that raw pixels are stored."""
    count, *shape = pixels.shape
    flat = pixels.reshape(count, -1)
    if kind == "fixed-binary":
        rows = [row.tobytes() for row in flat]
        return pa.array(rows, pa.binary(flat.shape[1])), {"shape": ",".join(map(str, shape))}
    if kind == "tensor":
        storage = pa.array(flat.tolist(), pa.list_(pa.uint8(), flat.shape[1]))
        return pa.ExtensionArray.from_storage(pa.fixed_shape_tensor(pa.uint8(), shape), storage), {}
    if kind == "lists":
        return pa.array(pixels.tolist()), {}
    return pa.array(pixels.transpose(0, 2, 3, 1).tolist()), {}


@pytest.mark.parametrize("kind", ["fixed-binary", "tensor", "lists", "lists-channels-last"])
def test_raw_pixels(kind: str, tmp_path: Path) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (8, 3, 4, 5), dtype=np.uint8)
    column, metadata = raw(kind, pixels)
    table = pa.table({"pixels": column, "fine": pa.array([0, 1] * 4, pa.int32())})
    metadata = {**{k.decode(): v for k, v in (table.schema.metadata or {}).items()}, **metadata}
    for split in ("train-0", "test-0"):
        pq.write_table(table.replace_schema_metadata(metadata), tmp_path / f"{split}.parquet")
    dataset = load(tmp_path, image_column="pixels", label_column="fine")
    assert np.array_equal(dataset.train_x.numpy(), pixels)


def test_a_changed_file_is_read_again(
    write_parquet: WriteParquet, grey: NDArray[np.uint8], tmp_path: Path
) -> None:
    file = write_parquet(grey, LABELS)
    write_parquet(grey, LABELS, "test-0")
    first = load(tmp_path)
    assert load(tmp_path) is first
    write_parquet(grey[:6], LABELS[:6])
    os.utime(file, ns=(1, 1))
    assert len(load(tmp_path).train_y) == 6


class TestBadInput:
    @pytest.fixture(autouse=True)
    def _files(self, write_parquet: WriteParquet, grey: NDArray[np.uint8], tmp_path: Path) -> None:
        self.folder, self.grey, self.write = tmp_path, grey, write_parquet
        self.train = write_parquet(grey, LABELS)
        write_parquet(grey, LABELS, "test-0")

    def refused(self, match: str, error: type[Exception] = BadData, **knobs: Any) -> None:
        with pytest.raises(error, match=match):
            load(self.folder, **knobs)

    def test_no_files(self) -> None:
        with pytest.raises(BadData, match=r"looked for .*/none/train-\*\.parquet"):
            load(self.folder / "none")

    def test_no_test_file(self) -> None:
        (self.folder / "test-0.parquet").unlink()
        self.refused(r"train-\*.parquet and test-\*.parquet")

    def test_a_variable_that_is_not_set(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("CLRAY_DATA", raising=False)
        with pytest.raises(BadData, match="environment variable CLRAY_DATA is not set"):
            load("$CLRAY_DATA/mnist")

    def test_a_truncated_file(self) -> None:
        content = self.train.read_bytes()
        self.train.write_bytes(content[: len(content) // 2])
        self.refused("train-00000-of-00001.parquet: got 'Arrow.*a Parquet file, whole")

    def test_damaged_pages(self) -> None:
        content = bytearray(self.train.read_bytes())
        content[4:600] = b"\xff" * 596
        self.train.write_bytes(content)
        self.refused("train-00000-of-00001.parquet")

    def test_a_label_column_that_is_not_there(self) -> None:
        self.refused("label_column: got 'lable'; accepted: image, label. Did", label_column="lable")

    def test_an_image_column_that_is_not_there(self) -> None:
        self.refused("image_column: got 'img'; accepted: image, label", image_column="img")

    def test_an_image_that_cannot_be_decoded(self) -> None:
        self.write([*self.grey[:5], b"no image"], LABELS[:6])
        self.refused(
            "train-00000-of-00001.parquet, row 5: image: got 'bytes of no known.*can be decoded"
        )

    def test_a_truncated_image(self) -> None:
        self.write([*self.grey[:2], encoded(self.grey[2])[:-30]], LABELS[:3])
        self.refused("row 2: image: got .*truncated")

    def test_a_negative_label(self) -> None:
        self.write(self.grey, [0, -1] * 6)
        self.refused("row 1: label: got '-1'; accepted: whole numbers from 0 up")

    def test_labels_that_are_not_whole(self) -> None:
        self.write(self.grey, [0.0, 1.5] * 6)
        self.refused("column label: got 'double'; accepted: whole numbers")

    def test_labels_that_are_words(self) -> None:
        self.write(self.grey, ["cat", "dog"] * 6)
        self.refused("column label: got 'string'")

    def test_an_empty_label(self) -> None:
        self.write(self.grey, [0, None] * 6, label_type=pa.int64())
        self.refused("row 1: label: got 'an empty cell'; accepted: a label in each row")

    def test_a_label_beyond_the_class_names(self) -> None:
        self.write(self.grey, LABELS, metadata={"classes": "a,b"})
        self.refused("row 2: label: got '2'; accepted: whole numbers from 0 to 1")

    def test_no_rows(self) -> None:
        self.write([], [], label_type=pa.int64())
        self.refused("got 'no rows'; accepted: one image or more")

    def test_images_of_several_sizes(self) -> None:
        self.write([self.grey[0], self.grey[1][:4], self.grey[2]], [0, 1, 2])
        self.refused(
            "row 1: image: got 'an image of 1 x 4 x 6'; accepted: 1 x 6 x 6 .*benchmark.image_size"
        )
        assert load(self.folder, image_size=5).image_shape == (1, 5, 5)

    def test_images_of_several_kinds(self) -> None:
        self.write([self.grey[0], np.stack([self.grey[1]] * 3, 2), self.grey[2]], [0, 1, 2])
        self.refused("row 1: image: got 'an image of 3 x 6 x 6'; accepted: 1 x 6 x 6")
        assert load(self.folder, channels=3).image_shape == (3, 6, 6)

    def test_halves_of_different_sizes(self) -> None:
        self.write(self.grey[:, :4, :4], LABELS)
        self.refused(
            "test-0.parquet, row 0: image: got 'an image of 1 x 6 x 6'; accepted: 1 x 4 x 4"
        )

    def test_sixteen_bit_images(self) -> None:
        self.write([encoded(self.grey[0].astype(np.uint16))], [2])
        self.refused("row 0: image: got .*pixels of mode I.*; accepted: an 8-bit image")

    def test_a_column_of_something_else(self) -> None:
        self.refused("column label: got 'int64'; accepted: encoded images", image_column="label")

    def test_raw_pixels_out_of_range(self) -> None:
        table = pa.table({"image": [[[0, 200]], [[0, 300]]], "label": [0, 2]})
        pq.write_table(table, self.train)
        self.refused("row 1: image: got .other pixels.; accepted: .*whole numbers from 0 to 255")

    def test_raw_pixels_of_unknown_shape(self) -> None:
        table = pa.table({"image": pa.array([b"12345"] * 2, pa.binary(5)), "label": [0, 1]})
        pq.write_table(table, self.train)
        self.refused("shape: got .5.; accepted: C,H,W")

    def test_lists_of_several_lengths(self) -> None:
        pq.write_table(pa.table({"image": [[[1, 2]], [[3]]], "label": [0, 2]}), self.train)
        self.refused("row 1: image: got .other pixels.; accepted: as many pixels as in the others")


def test_finding_reads_no_file(tmp_path: Path) -> None:
    for split in ("train", "test"):
        (tmp_path / f"{split}-0.parquet").write_bytes(b"")
    files = parquet_files.find(str(tmp_path))
    assert [f.place.name for f in files["train"]] == ["train-0.parquet"]
