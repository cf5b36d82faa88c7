from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from clray.errors import BadData
from clray.streams import sources
from clray.streams.dataset import Dataset, Source

datasets = pytest.importorskip("torchvision.datasets")
FILES = {"train": "train", "test": "t10k"}


def load(name: str, **knobs: Any) -> Dataset:
    return sources.load(Source(f"torchvision/{name}", **knobs))


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder, and no network."""

    def refuse(*args: object, **kwargs: object) -> None:
        raise URLError("no network in tests")

    monkeypatch.setattr("urllib.request.urlopen", refuse)
    monkeypatch.setattr("torchvision.datasets.utils.urllib.request.urlopen", refuse)
    folder = tmp_path / "cache"
    monkeypatch.setenv("CLRAY_DATA_CACHE", str(folder))
    return folder


def write_idx(folder: Path, half: str, images: NDArray[np.uint8], labels: list[int]) -> None:
    """MNIST's own format: big-endian magic number and sizes, then bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    header = struct.pack(">IIII", 0x803, *images.shape)
    (folder / f"{FILES[half]}-images-idx3-ubyte").write_bytes(header + images.tobytes())
    header = struct.pack(">II", 0x801, len(labels))
    (folder / f"{FILES[half]}-labels-idx1-ubyte").write_bytes(header + bytes(labels))


def write_mnist(folder: Path, images: NDArray[np.uint8]) -> None:
    write_idx(folder, "train", images, [0, 9] * (len(images) // 2))
    write_idx(folder, "test", images[:2], [3, 4])


@pytest.mark.parametrize("place", ["torchvision/MNIST/MNIST/raw", "MNIST/raw"])
def test_files_in_the_cache_are_found(
    place: str, cache: Path, grey: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_mnist(cache / place, grey)
    dataset = load("MNIST")
    assert np.array_equal(dataset.train_x.numpy()[:, 0], grey)
    assert dataset.train_y.tolist() == [0, 9] * 6
    assert dataset.test_y.tolist() == [3, 4]
    assert dataset.class_names[3] == "3 - three"
    assert load("MNIST", image_size=10, channels=3).image_shape == (3, 10, 10)


def test_without_a_network_one_error_says_what_to_do(cache: Path) -> None:
    with pytest.raises(BadData) as raised:
        load("KMNIST")
    text = str(raised.value)
    assert text.startswith(
        "benchmark.dataset: torchvision/KMNIST: got 'not found, and the download"
    )
    assert str(cache) in text
    assert "CLRAY_DATA_CACHE" in text
    assert not list((cache / "torchvision").iterdir())


def test_a_damaged_file_is_named_and_left_alone(cache: Path, grey: NDArray[np.uint8]) -> None:
    folder = cache / "torchvision" / "MNIST" / "MNIST" / "raw"
    write_mnist(folder, grey)
    images = folder / "train-images-idx3-ubyte"
    images.write_bytes(images.read_bytes()[:100])
    with pytest.raises(BadData, match=r"files that cannot be read .*remove the folder"):
        load("MNIST")
    assert images.exists()


class Half:
    """Stands for a dataset of torchvision that takes ``split`` and opens images one by one."""

    classes = ("left", "right")

    def __init__(self, root: str, split: str = "train", download: bool = False) -> None:
        if not Path(root, "files").exists():
            if not download:
                raise RuntimeError("Dataset not found. You can use download=True to download it")
            Path(root).mkdir(exist_ok=True)
            Path(root, "files").write_text("here")
        self.count = {"train": 6, "test": 4}[split]

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, i: int) -> tuple[Image.Image, int]:
        return Image.new("RGB", (5 + i % 2, 5), (i, 0, 0)), i % 2


@pytest.fixture
def halves(monkeypatch: pytest.MonkeyPatch) -> Callable[[type], None]:
    def stand_in(kind: type) -> None:
        monkeypatch.setattr(datasets, "PCAM", kind)

    return stand_in


def test_images_are_opened_one_by_one_where_there_is_no_array(
    halves: Callable[[type], None], cache: Path
) -> None:
    halves(Half)
    dataset = load("PCAM", image_size=5)
    assert dataset.train_x.shape == (6, 3, 5, 5)
    assert dataset.train_x[:, 0, 0, 0].tolist() == list(range(6))
    assert dataset.test_y.tolist() == [0, 1, 0, 1]
    assert dataset.class_names == ("left", "right")
    assert [p.name for p in (cache / "torchvision").iterdir()] == ["PCAM"]


def test_a_failing_download_leaves_nothing(halves: Callable[[type], None], cache: Path) -> None:
    class Broken(Half):
        def __init__(self, root: str, split: str = "train", download: bool = False) -> None:
            super().__init__(root, split, download)
            raise OSError("disk full")

    halves(Broken)
    with pytest.raises(BadData, match=r"the download failed .OSError: disk full"):
        load("PCAM")
    assert not list((cache / "torchvision").iterdir())


def test_arrays_with_the_channels_last(
    halves: Callable[[type], None], cache: Path, grey: NDArray[np.uint8]
) -> None:
    class Arrays(Half):
        def __init__(self, root: str, split: str = "train", download: bool = False) -> None:
            super().__init__(root, split, download)
            self.data = np.stack([grey, grey, 255 - grey], 3)
            self.targets = [0, 1] * 6

    halves(Arrays)
    dataset = load("PCAM")
    assert dataset.image_shape == (3, 6, 6)
    assert np.array_equal(dataset.train_x[:, 2].numpy(), 255 - grey)


def test_labels_that_are_no_classes(
    halves: Callable[[type], None], cache: Path, grey: NDArray[np.uint8]
) -> None:
    class Labels(Half):
        def __init__(self, root: str, split: str = "train", download: bool = False) -> None:
            super().__init__(root, split, download)
            self.data, self.targets = grey, [0, -1] * 6

    halves(Labels)
    with pytest.raises(BadData, match=r"PCAM \(train\), row 1: label: got '-1'"):
        load("PCAM")
