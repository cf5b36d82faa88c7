"""Datasets that torchvision knows, found on this machine or downloaded once."""

from __future__ import annotations

import contextlib
import inspect
import os
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from clray.errors import BadData, UnknownName
from clray.streams.dataset import Dataset, Source, check_labels, fit_images, stack_images


@dataclass(frozen=True)
class _Known:
    """How a dataset's two halves are named.

    Attributes:
        classes: how many there are.
        train, test: the constructor's ``split``; empty: it takes ``train=True`` or ``False``.
    """

    classes: int
    train: str = ""
    test: str = ""


KNOWN = {
    "CIFAR10": _Known(10),
    "CIFAR100": _Known(100),
    "Country211": _Known(211, "train", "test"),
    "DTD": _Known(47, "train", "test"),
    "EMNIST/balanced": _Known(47),
    "EMNIST/byclass": _Known(62),
    "EMNIST/bymerge": _Known(47),
    "EMNIST/digits": _Known(10),
    "EMNIST/letters": _Known(26),
    "EMNIST/mnist": _Known(10),
    "FGVCAircraft": _Known(100, "trainval", "test"),
    "FashionMNIST": _Known(10),
    "Flowers102": _Known(102, "train", "test"),
    "Food101": _Known(101, "train", "test"),
    "GTSRB": _Known(43, "train", "test"),
    "ImageNet": _Known(1000, "train", "val"),
    "Imagenette": _Known(10, "train", "val"),
    "KMNIST": _Known(10),
    "MNIST": _Known(10),
    "OxfordIIITPet": _Known(37, "trainval", "test"),
    "PCAM": _Known(2, "train", "test"),
    "QMNIST": _Known(10),
    "RenderedSST2": _Known(2, "train", "test"),
    "STL10": _Known(10, "train", "test"),
    "SVHN": _Known(10, "train", "test"),
    "StanfordCars": _Known(196, "train", "test"),
    "USPS": _Known(10),
}


def check(name: str) -> int:
    """The number of classes of a dataset, without loading anything.

    Raises:
        UnknownName: none of that name with a training and a test half.
    """
    if name not in KNOWN:
        raise UnknownName("benchmark.dataset: torchvision", name, KNOWN)
    return KNOWN[name].classes


def load(name: str, source: Source) -> Dataset:
    """The dataset, from the cache folder, or downloaded to it if it is not there.

    Raises:
        BadData: it is neither there nor can be had, or the files are damaged.
        BadSpec: images of several sizes without ``image_size``.
    """
    known = KNOWN[name]
    train, test = _halves(name)
    train_x, train_y = _tensors(train, f"{name} (train)", source)
    test_x, test_y = _tensors(test, f"{name} (test)", source)
    if name == "EMNIST/letters":  # stored as 1 .. 26
        train_y, test_y = train_y - 1, test_y - 1
    check_labels(train_y, known.classes, f"{name} (train)")
    check_labels(test_y, known.classes, f"{name} (test)")
    names = [n for n in getattr(train, "classes", ()) if n != "N/A"]
    if len(names) != known.classes:
        names = [str(n) for n in range(known.classes)]
    return Dataset(train_x, train_y, test_x, test_y, tuple(map(str, names)))


def cache_folder() -> Path:
    """Where datasets are looked for and downloaded to."""
    return Path(os.environ.get("CLRAY_DATA_CACHE") or "~/.cache/clray").expanduser()


def _halves(name: str) -> tuple[Any, Any]:
    """torchvision's two dataset objects."""
    root = cache_folder()
    own = root / "torchvision" / name.replace("/", "-")
    for folder in (own, root):
        try:
            return _open(name, folder, download=False)
        except Exception as error:  # torchvision raises as it finds the files
            missing = isinstance(error, FileNotFoundError) or "not found" in str(error)
            if not missing or (folder == own and own.exists()):
                raise _damaged(name, folder, error) from None
    return _download(name, own, root)


def _download(name: str, own: Path, root: Path) -> tuple[Any, Any]:
    """Downloads beside the final folder and renames, so that half a dataset is never found."""
    fresh = None
    try:
        own.parent.mkdir(parents=True, exist_ok=True)
        fresh = Path(tempfile.mkdtemp(prefix=f".{own.name}-", dir=own.parent))
        # torchvision prints while it downloads; stdout belongs to the program's own results.
        with contextlib.redirect_stdout(sys.stderr):
            _open(name, fresh, download=True)
        with contextlib.suppress(OSError):  # another process was first: its copy is as good
            fresh.rename(own)
        return _open(name, own, download=False)
    except Exception as error:  # no network, a server's refusal, a full disk, a checksum
        given = f"not found, and the download failed ({_reason(error)})"
        accepted = (
            f"files in {own} or {root} (the folder is $CLRAY_DATA_CACHE, or ~/.cache/clray), "
            "or a network to download them; copy that folder from a machine that has one"
        )
        raise BadData(f"benchmark.dataset: torchvision/{name}", given, accepted) from None
    finally:
        if fresh is not None:
            shutil.rmtree(fresh, ignore_errors=True)


def _open(name: str, folder: Path, *, download: bool) -> tuple[Any, Any]:
    from torchvision import datasets

    known = KNOWN[name]
    stem, _, variant = name.partition("/")
    make = getattr(datasets, stem)
    options: dict[str, Any] = {"split": variant} if variant else {}
    if download and "download" in inspect.signature(make).parameters:
        options["download"] = True
    key = "split" if known.train else "train"
    train, test = (known.train, known.test) if known.train else (True, False)
    return (
        make(str(folder), **{key: train}, **options),
        make(str(folder), **{key: test}, **options),
    )


def _tensors(dataset: Any, where: str, source: Source) -> tuple[Tensor, Tensor]:
    """Images uint8 [N, C, H, W] and labels int64 [N]."""
    stored = getattr(dataset, "data", None)
    labels = _labels(dataset)
    if isinstance(stored, np.ndarray | Tensor) and labels is not None:
        images = torch.as_tensor(stored)
        if images.ndim == 3:
            images = images.unsqueeze(1)
        elif images.shape[1] not in (1, 3):
            images = images.permute(0, 3, 1, 2)
        return fit_images(images, source), labels
    found: list[int] = [0] * len(dataset)

    def read(i: int) -> Image.Image:
        image, found[i] = dataset[i]
        if not isinstance(image, Image.Image):
            raise TypeError(f"got {type(image).__name__}, not an image")
        return image

    images = stack_images(len(dataset), read, lambda i: f"{where}, item {i}", source)
    return images, torch.tensor([int(n) for n in found], dtype=torch.int64)


def _labels(dataset: Any) -> Tensor | None:
    for name in ("targets", "labels"):
        values = getattr(dataset, name, None)
        if values is not None:
            labels = torch.as_tensor(values).long()
            return labels[:, 0] if labels.ndim == 2 else labels  # QMNIST keeps more per image
    return None


def _damaged(name: str, folder: Path, error: Exception) -> BadData:
    given = f"files that cannot be read ({_reason(error)})"
    accepted = "whole files; remove the folder to have them downloaded again"
    return BadData(f"{folder}: torchvision/{name}", given, accepted)


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:200]
