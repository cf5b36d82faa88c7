from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clray.errors import BadData
from clray.streams import sources
from clray.streams.dataset import Source


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes, 3 training images and 1 test image each, of 6 x 6."""
    pixels = np.random.default_rng(0).integers(0, 256, (8, 6, 6), np.uint8)
    for i, own in enumerate(pixels):
        half, name = "train" if i < 6 else "test", "ant" if i % 2 else "bee"
        place = tmp_path / half / name
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(own).save(place / f"{i}.png")
    return tmp_path


def load(folder: Path) -> object:
    return sources.load(Source(f"folder:{folder}"))


def test_only_images_are_rows(folder: Path) -> None:
    (folder / "train" / "bee" / "notes.txt").write_text("no image")
    (folder / "train" / "bee" / "._0.png").write_text("no image either")
    (folder / "train" / ".cache").mkdir()
    listing = sources.listing(Source(f"folder:{folder}"))
    assert listing.class_names == ("ant", "bee")
    assert listing.train[0].labels()[0].tolist() == [0, 0, 0, 1, 1, 1]


def test_bad_files_are_rows_that_are_told(folder: Path) -> None:
    ants = folder / "train" / "ant"
    (ants / "1.png").write_bytes(b"")
    Image.new("L", (4, 6)).save(ants / "5.png")
    (folder / "train" / "bee" / "4.png").write_bytes(b"no image")
    listing = sources.listing(Source(f"folder:{folder}"))
    (folder / "train" / "bee" / "2.png").unlink()
    images, bad = listing.train[0].images(range(6), None)
    assert images.shape == (6, 1, 6, 6)
    assert [row.index for row in bad] == [0, 2, 4, 5]
    assert [Path(row.where).name for row in bad] == ["1.png", "5.png", "2.png", "4.png"]
    assert bad[1].given == "an image of 1 x 6 x 4"
    assert bad[2].given.startswith("FileNotFoundError")
    assert bad[3].given == "bytes of no known image format"
    assert images[1].any()
    assert not images[[0, 2, 4, 5]].any()
    with pytest.raises(BadData, match=r"ant/1.png: got .*; accepted: an 8-bit image"):
        load(folder)


def test_an_image_that_may_not_be_read(folder: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may read everything")
    (folder / "train" / "ant" / "1.png").chmod(0)
    with pytest.raises(BadData, match=r"ant/1.png: got .PermissionError"):
        load(folder)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ("no train", "a folder with train/<class>/ and test/<class>/"),
        ("no test", "val, validation, valid will do for test"),
        ("empty class", "train: folder of class 'cow': got 'no images'"),
        ("only in test", "test: class 'cow': got 'test images only'; accepted: ant, bee"),
        ("outside", "train: got 'the image a.png'; accepted: images in folders named"),
        ("missing", "looked in .*/none"),
    ],
)
def test_folders_of_another_shape(change: str, match: str, folder: Path) -> None:
    name = folder / "none" if change == "missing" else folder
    if change.startswith("no "):
        (folder / change[3:]).rename(folder / "elsewhere")
    elif change == "outside":
        Image.new("L", (6, 6)).save(folder / "train" / "a.png")
    else:
        half = "test" if change == "only in test" else "train"
        (folder / half / "cow").mkdir()
    with pytest.raises(BadData, match=match):
        load(name)


def test_a_new_file_is_seen(folder: Path) -> None:
    source = Source(f"folder:{folder}")
    before, first = sources.listing(source), load(folder)
    Image.new("L", (6, 6)).save(folder / "train" / "ant" / "new.png")
    assert sources.listing(source).identity != before.identity
    assert load(folder) is not first
