"""What the pieces of every kind of source promise (``clray.streams.pieces.Piece``)."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from clray.errors import BadData, UnknownName
from clray.streams import decoding, omniglot, sources, synthetic, tiny_imagenet
from clray.streams.dataset import Source
from clray.streams.pieces import Piece

WriteParquet = Callable[..., Path]
KINDS = (
    *("digits", "mnist10k", "parquet", "folder", "torchvision", "synthetic", "omniglot"),
    *("notmnist", "tiny", "tiny-annotated", "joined"),
)
LIMITS = {"mnist10k": 3000}
"""Rows of a piece, where not 60."""


def images(folder: Path, count: int, seed: int = 0, side: int = 6) -> None:
    folder.mkdir(parents=True)
    pixels = np.random.default_rng([seed, count]).integers(0, 256, (count, side, side), np.uint8)
    for i, own in enumerate(pixels):
        Image.fromarray(own).save(folder / f"{i:02}.png")


def write_omniglot(cache: Path) -> None:
    for part, characters in zip(omniglot.SETS, (2, 1), strict=True):
        for character in range(1, characters + 1):
            folder = cache / "omniglot-py" / part / "Greek" / f"character{character:02}"
            folder.mkdir(parents=True)
            for drawing in range(1, 21):
                pixels = np.full((9, 9), 255, np.uint8)
                pixels[character, :drawing] = 0
                name = f"{character:04}_{drawing:02}.png"
                Image.fromarray(pixels).convert("1").save(folder / name)


@pytest.fixture
def source(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    write_parquet: WriteParquet,
    grey: NDArray[np.uint8],
) -> Source:
    """A small source of each kind, in several pieces."""
    kind = request.param
    for module in (decoding, synthetic, omniglot):
        monkeypatch.setattr(module, "PIECE_ROWS", LIMITS.get(kind, 60))
    monkeypatch.setenv("CLRAY_DATA_CACHE", str(tmp_path))
    if kind == "digits":
        return Source("digits")
    if kind == "mnist10k":
        if "CLRAY_DATA" not in os.environ:
            pytest.skip("CLRAY_DATA is not set")
        return Source("mnist10k")
    if kind == "parquet":
        many = [*grey] * 10
        write_parquet(many, [0, 1, 2] * 40, "train-0", row_group_size=7)
        write_parquet(many, [2, 1] * 60, "train-1")
        write_parquet(grey, [0, 1, 2] * 4, "validation-0")
        return Source(f"parquet:{tmp_path}")
    if kind == "folder":
        for name, count in (("train/cat", 70), ("train/ant/deeper", 3), ("val/cat", 2)):
            images(tmp_path / name, count)
        return Source(f"folder:{tmp_path}")
    if kind == "torchvision":
        monkeypatch.setattr("torchvision.datasets.USPS", Fake)
        return Source("torchvision/USPS", image_size=8)
    if kind == "synthetic":
        return Source("synthetic/7x60", image_size=9, channels=1)
    if kind == "omniglot":
        monkeypatch.setattr(omniglot, "CHARACTERS", 3)
        write_omniglot(tmp_path)
        return Source("omniglot-rotation", image_size=9)
    if kind == "notmnist":
        for letter in "ABCDEFGHIJ":
            images(tmp_path / "notmnist" / "notMNIST_small" / letter, 10, ord(letter))
        (tmp_path / "notmnist" / "notMNIST_small" / sorted(notmnist_empty())[0]).touch()
        return Source("notmnist")
    if kind == "joined":
        images(tmp_path / "train/b", 3)
        images(tmp_path / "test/b", 2)
        return Source(f"digits + folder:{tmp_path}", image_size=8, channels=1, fit="pad")
    monkeypatch.setattr(tiny_imagenet, "NUM_CLASSES", 2)
    folder = tmp_path / "tiny-imagenet"
    for wnid in ("n02", "n01"):
        images(folder / "train" / wnid / "images", 4, int(wnid[1:]))
    if kind == "tiny-annotated":
        images(folder / "val" / "images", 2)
        lines = "00.png\tn02\t0\t0\t62\t57\n01.png\tn01\t0\t0\t62\t57\n"
        (folder / "val" / "val_annotations.txt").write_text(lines)
    else:
        for wnid in ("n02", "n01"):
            images(folder / "val" / wnid, 1)
    return Source("tiny-imagenet")


def notmnist_empty() -> set[str]:
    from clray.streams.notmnist import EMPTY

    return EMPTY


class Fake:
    """Stands for a dataset of torchvision that opens images one by one."""

    classes = tuple(f"{n} - name" for n in range(10))

    def __init__(self, root: str, train: bool = True, download: bool = False) -> None:
        self.targets = list(range(10)) * (12 if train else 1)

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, i: int) -> tuple[Image.Image, int]:
        return Image.new("L", (8, 8), i), self.targets[i]


def read(piece: Piece, rows: Sequence[int]) -> torch.Tensor:
    found, bad = piece.images(rows, None)
    assert not bad
    return found


@pytest.mark.parametrize("source", KINDS, indirect=True)
def test_pieces_together_are_the_dataset(source: Source) -> None:
    listing, dataset = sources.listing(source), sources.load(source)
    json.dumps(listing.identity)
    assert sources.listing(source).identity == listing.identity
    assert sources.check(source) in (None, dataset.num_classes)
    assert listing.class_names in (None, dataset.class_names)
    halves = (
        (listing.train, dataset.train_x, dataset.train_y),
        (listing.test, dataset.test_x, dataset.test_y),
    )
    for listed, x, y in halves:
        assert all(0 < len(piece) <= LIMITS.get(source.dataset, 60) for piece in listed)
        pieces: list[Piece] = [pickle.loads(pickle.dumps(piece)) for piece in listed]
        labels = [piece.labels() for piece in pieces]
        assert torch.equal(torch.cat([own for own, _ in labels]), y)
        assert not any(bad for _, bad in labels)
        # Backwards, so that nothing hangs on which piece was read before.
        backwards = [read(piece, range(len(piece))) for piece in reversed(pieces)]
        assert torch.equal(torch.cat(backwards[::-1]), x)
        start = 0
        for piece in pieces:
            some = list(range(0, len(piece), 3))
            assert torch.equal(read(piece, some), x[start : start + len(piece)][some])
            start += len(piece)
        shape = (1, 2, 3)
        found, bad = pieces[-1].images([0], shape)
        assert found.shape == (1, *shape)
        assert not found.any()
        assert [row.index for row in bad] == [0]
        assert "1 x 2 x 3" in bad[0].accepted
        assert pieces[0].images([], shape)[0].shape == (0, *shape)


@pytest.mark.parametrize("source", ["omniglot"], indirect=True)
def test_omniglot_turns_drawings_under_one_label(source: Source) -> None:
    dataset = sources.load(source)
    assert dataset.train_x.shape == (3 * 4 * 15, 1, 9, 9)
    assert dataset.test_x.shape == (3 * 4 * 5, 1, 9, 9)
    assert dataset.train_y.tolist() == [c for c in range(3) for _ in range(60)]
    straight, turned = dataset.train_x[:15], dataset.train_x[15:30]
    assert torch.equal(turned, torch.rot90(straight, 1, (2, 3)))
    assert dataset.class_names[2] == "Greek/character01"


@pytest.mark.parametrize("source", ["notmnist"], indirect=True)
def test_notmnist_is_tested_on_every_tenth_image(source: Source) -> None:
    dataset = sources.load(source)
    assert dataset.class_names == tuple("ABCDEFGHIJ")
    assert dataset.train_y.bincount().tolist() == [9] * 10
    assert dataset.test_y.tolist() == list(range(10))


@pytest.mark.parametrize("source", ["tiny-annotated"], indirect=True)
def test_tiny_imagenet_as_its_archive_unpacks(source: Source) -> None:
    dataset = sources.load(source)
    assert dataset.class_names == ("n01", "n02")
    assert dataset.test_y.tolist() == [0, 1]


@pytest.mark.parametrize("source", ["joined"], indirect=True)
def test_joined_datasets_follow_one_another(source: Source) -> None:
    dataset = sources.load(source)
    assert dataset.num_classes == 11
    assert dataset.class_names[3] == "digits: 3"
    assert dataset.class_names[10].endswith(": b")
    assert dataset.train_y[-3:].tolist() == [10] * 3
    assert not dataset.train_x[-1, 0, 0].any()  # 6 x 6, padded
    assert dataset.train_x[-1, 0, 1:7, 1:7].any()
    assert sources.class_counts(source) == [10, 1]


@pytest.mark.parametrize("name", ["tiny-imagenet", "notmnist"])
def test_what_must_be_put_there_is_asked_for(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLRAY_DATA_CACHE", str(tmp_path))
    with pytest.raises(BadData, match=rf"files in {tmp_path}/{name}: .*they are not downloaded"):
        sources.check(Source(name))


def test_synthetic_rows_depend_on_nothing_else() -> None:
    small, large = (sources.listing(Source(f"synthetic/5x{n}")) for n in (10, 5000))
    assert torch.equal(read(small.train[0], range(50)), read(large.train[0], range(50)))
    assert not torch.equal(read(small.train[0], range(10)), read(small.test[0], range(10)))
    x = read(large.train[0], range(200)).float().flatten(1)
    patterns = x[:100].view(20, 5, -1).mean(0)
    assert torch.equal(torch.cdist(x, patterns).argmin(1), large.train[0].labels()[0][:200])


@pytest.mark.parametrize("name", ["synthetic/5", "synthetic/0x5", "synthetic/5x5x5"])
def test_synthetic_sizes_that_are_none(name: str) -> None:
    with pytest.raises(UnknownName, match="such as synthetic/10x500"):
        sources.check(Source(name))
