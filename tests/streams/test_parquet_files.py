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
from clray.streams.pieces import Piece

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


class TestBadRows:
    """A row that cannot be used is told by its piece, with the file and its number there."""

    def pieces(self, folder: Path, **knobs: Any) -> tuple[Piece, ...]:
        pieces = sources.listing(Source(f"parquet:{folder}", **knobs)).train
        assert sum(map(len, pieces)) == 6
        return pieces

    @pytest.fixture
    def test_half(self, write_parquet: WriteParquet, grey: NDArray[np.uint8]) -> None:
        write_parquet(grey, LABELS, "test-0")

    def test_labels(
        self, write_parquet: WriteParquet, grey: NDArray[np.uint8], tmp_path: Path, test_half: None
    ) -> None:
        labels = [1, None, -3, 0, 7, 1]
        file = write_parquet(
            grey[:6], labels, label_type=pa.int32(), metadata={"classes": "a,b"}, row_group_size=4
        )
        found, bad = self.pieces(tmp_path)[0].labels()
        assert found.tolist() == [1, -1, -1, 0, -1, 1]
        assert [(row.index, row.where, row.given) for row in bad] == [
            (1, f"{file}, row 1: label", "an empty cell"),
            (2, f"{file}, row 2: label", "-3"),
            (4, f"{file}, row 4: label", "7"),
        ]
        assert bad[2].accepted == "whole numbers from 0 to 1, one per class"

    def test_images(
        self,
        write_parquet: WriteParquet,
        grey: NDArray[np.uint8],
        tmp_path: Path,
        test_half: None,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr("clray.streams.decoding.PIECE_ROWS", 3)
        whole = encoded(grey[4])
        images = [grey[0], b"no image", grey[2], grey[3][:4], whole, whole[:-30]]
        file = write_parquet(images, LABELS[:6])
        first, second = self.pieces(tmp_path)
        assert second.where == f"{file}, rows 3 to 5"
        found, bad = first.images([1, 2], None)
        assert [(row.index, row.where) for row in bad] == [(1, f"{file}, row 1: image")]
        assert np.array_equal(found[1, 0].numpy(), grey[2])
        found, bad = second.images([0, 1, 2], (1, 6, 6))
        assert [row.index for row in bad] == [0, 2]
        assert [row.where for row in bad] == [f"{file}, row 3: image", f"{file}, row 5: image"]
        assert bad[0].given == "an image of 1 x 4 x 6"
        assert np.array_equal(found[1, 0].numpy(), grey[4])
        assert not found[[0, 2]].any()

    @pytest.mark.parametrize("kind", ["encoded", "lists", "fixed-binary"])
    def test_empty_cells(self, kind: str, tmp_path: Path, grey: NDArray[np.uint8]) -> None:
        if kind == "encoded":
            cells: list[Any] = [{"bytes": encoded(own), "path": "a"} for own in grey[:6]]
            cells[2] = {"bytes": None, "path": "b"}
            column = pa.array(cells, pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
        elif kind == "lists":
            cells = grey[:6].tolist()
            cells[2] = [[1] * 6] * 5
            column = pa.array(cells)
        else:
            cells = [own.tobytes() for own in grey[:6]]
            cells[2] = None
            column = pa.array(cells, pa.binary(36))
        cells[4] = None
        column = pa.array(cells, column.type)
        for split in ("train-0", "test-0"):
            table = pa.table({"image": column, "label": LABELS[:6]})
            pq.write_table(table, tmp_path / f"{split}.parquet")
        found, bad = self.pieces(tmp_path)[0].images(range(1, 6), None)
        assert [row.index for row in bad] == [2, 4]
        assert bad[1].given == "an empty cell"
        assert np.array_equal(found[[0, 2, 4], 0].numpy(), grey[[1, 3, 5]])


class TestBadFiles:
    """A file that cannot be used at all is named, when listed or when read."""

    @pytest.fixture(autouse=True)
    def _files(self, write_parquet: WriteParquet, grey: NDArray[np.uint8], tmp_path: Path) -> None:
        self.source = Source(f"parquet:{tmp_path}")
        self.files = [write_parquet(grey, LABELS, f"train-{i}") for i in range(3)]
        write_parquet(grey, LABELS, "test-0")

    @pytest.mark.parametrize(
        ("damage", "match"),
        [
            ("truncate", "train-2.parquet: got .*; accepted: a Parquet file, whole"),
            ("empty", "train-2.parquet: got .*; accepted: a Parquet file, whole"),
            ("remove", "train-2.parquet: got .FileNotFoundError.*; accepted: a Parquet file"),
            ("rename", "train-2.parquet: benchmark.label_column: got 'label'; .*image, labels"),
            ("words", "train-2.parquet: column label: got 'string'; accepted: whole numbers"),
            ("no rows", "train-2.parquet: got .*rows'"),
        ],
    )
    def test_damage(
        self, damage: str, match: str, write_parquet: WriteParquet, grey: NDArray[np.uint8]
    ) -> None:
        piece, last = sources.listing(self.source).train[2], self.files[2]
        if damage in ("truncate", "empty"):
            content = last.read_bytes()
            last.write_bytes(content[: len(content) // 2 if damage == "truncate" else 0])
        elif damage == "remove":
            last.unlink()
        elif damage == "rename":
            write_parquet(grey, LABELS, "train-2", label="labels")
        elif damage == "words":
            write_parquet(grey, ["cat"] * 12, "train-2")
        else:
            write_parquet([], [], "train-2", label_type=pa.int64())
        with pytest.raises(BadData, match=match):
            piece.labels()
        if damage != "remove":
            with pytest.raises(BadData, match=match):
                sources.listing(self.source)

    def test_no_permission(self) -> None:
        if os.geteuid() == 0:
            pytest.skip("root may read everything")
        self.files[1].chmod(0)
        with pytest.raises(BadData, match=r"train-1.parquet: got .PermissionError"):
            sources.listing(self.source)


@pytest.mark.parametrize("groups", [7, 30, 1000])
def test_rows_are_found_wherever_they_stand(
    groups: int, write_parquet: WriteParquet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clray.streams.decoding.PIECE_ROWS", 20)
    monkeypatch.setattr("clray.streams.parquet_pieces.BATCH_ROWS", 6)
    pixels = np.arange(100, dtype=np.uint8).reshape(100, 1, 1).repeat(3, 1).repeat(3, 2)
    for split in ("train-0", "test-0"):
        write_parquet(pixels, range(100), split, row_group_size=groups)
    pieces = sources.listing(Source(f"parquet:{tmp_path}")).train
    assert max(map(len, pieces)) <= 20
    starts = dict(zip(pieces, np.cumsum([0, *map(len, pieces)]).tolist(), strict=False))
    for piece in (pieces[3], pieces[0], pieces[-1], pieces[1], pieces[2]):
        rows = list(range(0, len(piece), 2))
        images, _ = piece.images(rows, None)
        assert images[:, 0, 0, 0].tolist() == [starts[piece] + row for row in rows]
        assert piece.labels()[0].tolist() == list(range(starts[piece], starts[piece] + len(piece)))


def test_validation_files_will_do_for_a_test_half(
    write_parquet: WriteParquet, grey: NDArray[np.uint8], tmp_path: Path
) -> None:
    write_parquet(grey, LABELS, "train-0")
    write_parquet(grey[:5], LABELS[:5], "valid-0")
    assert len(load(tmp_path).test_y) == 5
    write_parquet(grey[:4], LABELS[:4], "test-0")
    assert len(load(tmp_path).test_y) == 4


def test_finding_reads_no_file(tmp_path: Path) -> None:
    for split in ("train", "test"):
        (tmp_path / f"{split}-0.parquet").write_bytes(b"")
    files = parquet_files.find(str(tmp_path))
    assert [f.place.name for f in files["train"]] == ["train-0.parquet"]
