"""Datasets that torchvision knows, found on this machine or downloaded once."""

from __future__ import annotations

import functools
import inspect
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from clray.errors import UnknownName
from clray.streams.cache_folder import cache_folder, find_or_download
from clray.streams.dataset import Source
from clray.streams.opened_halves import Half, cut
from clray.streams.pieces import Listing


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


def check(name: str, source: Source) -> int:
    """The number of classes of a dataset, without loading anything.

    Raises:
        UnknownName: none of that name with a training and a test half.
    """
    if name not in KNOWN:
        raise UnknownName("benchmark.dataset: torchvision", name, KNOWN)
    return KNOWN[name].classes


def identity(name: str) -> object:
    """Where it is looked for; torchvision's files are known by their checksums."""
    return cache_folder()


def listing(name: str, source: Source) -> Listing:
    """Both halves as row ranges; the dataset is opened, and downloaded if it is not there.

    Raises:
        BadData: it is neither there nor can be had, or the files are damaged.
    """
    folder, count = str(cache_folder()), KNOWN[name].classes
    train, test = (
        cut(functools.partial(_half, name, half, folder), count, source) for half in (0, 1)
    )
    names = [n for n in getattr(_open(name, folder)[0], "classes", ()) if n != "N/A"]
    if len(names) != count:
        names = [str(n) for n in range(count)]
    lengths = [sum(map(len, half)) for half in (train, test)]
    identity = {"dataset": f"torchvision/{name}", "rows": lengths}
    return Listing(train, test, tuple(map(str, names)), identity)


@functools.lru_cache(maxsize=2)
def _open(name: str, folder: str) -> tuple[Any, Any]:
    """torchvision's two dataset objects; ``folder`` is the cache, so that another one counts."""
    return find_or_download(name, functools.partial(_construct, name))


def _construct(name: str, folder: Path, download: bool) -> tuple[Any, Any]:
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


@functools.lru_cache(maxsize=4)
def _half(name: str, half: int, folder: str) -> Half:
    dataset = _open(name, folder)[half]
    where = f"{name} ({'test' if half else 'train'})"
    stored, labels = getattr(dataset, "data", None), _labels(dataset)
    if labels is None:
        labels = torch.tensor([int(dataset[i][1]) for i in range(len(dataset))])
    if name == "EMNIST/letters":  # stored as 1 .. 26
        labels = labels - 1
    if isinstance(stored, np.ndarray | Tensor):
        pixels = torch.as_tensor(stored)
        if pixels.ndim == 3:
            pixels = pixels.unsqueeze(1)
        elif pixels.shape[1] not in (1, 3):
            pixels = pixels.permute(0, 3, 1, 2)
        return Half(where, labels, pixels)

    def image(i: int) -> Image.Image:
        found = dataset[i][0]
        if not isinstance(found, Image.Image):
            raise TypeError(f"got {type(found).__name__}, not an image")
        return found

    return Half(where, labels, None, image)


def _labels(dataset: Any) -> Tensor | None:
    """int64 [N] where the dataset has them at hand."""
    for name in ("targets", "labels", "_labels"):
        values = getattr(dataset, name, None)
        if values is not None:
            labels = torch.as_tensor(values).long()
            return labels[:, 0] if labels.ndim == 2 else labels  # QMNIST keeps more per image
    samples = getattr(dataset, "_samples", None)
    return None if samples is None else torch.tensor([int(sample[1]) for sample in samples])
