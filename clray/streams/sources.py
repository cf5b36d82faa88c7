"""Where datasets come from: a string names the source, and a process loads it once.

=========================  =====================================================================
``digits``                 scikit-learn's handwritten digits, 8 x 8, 1,797 images, in the package
``mnist10k``               MNIST's test file: the first 8,000 images for training, the last 2,000
                           for testing; from ``$CLRAY_DATA/mnist``
``torchvision/<Name>``     a dataset of torchvision, such as ``torchvision/CIFAR10``; found in, or
                           downloaded to, ``$CLRAY_DATA_CACHE`` or ``~/.cache/clray``
``parquet:<folder>``       ``train-*.parquet`` and ``test-*.parquet`` in a folder (or in its
                           ``data``), or beginning with a prefix, as the Hugging Face hub exports
                           them; ``$VARIABLES`` are expanded
=========================  =====================================================================
"""

from __future__ import annotations

import dataclasses
import threading
from collections import OrderedDict

import torch

from clray.errors import BadSpec, UnknownName
from clray.streams import parquet_files, torchvision_datasets
from clray.streams.dataset import Dataset, Source, fit_images

MNIST10K = "parquet:$CLRAY_DATA/mnist"
CACHED = 2
"""Datasets that a process keeps; the one used longest ago goes first."""

_cache: OrderedDict[object, Dataset] = OrderedDict()
_lock = threading.Lock()


def check(source: Source) -> int | None:
    """Refuse, cheaply, a source that cannot be loaded; the number of classes where it is known.

    Raises:
        UnknownName: no such dataset.
        BadData: its files are missing.
        BadSpec: knobs that it does not take.
    """
    kind, name = _parse(source)
    if kind == "digits":
        return 10
    if kind == "torchvision":
        return torchvision_datasets.check(name)
    files = parquet_files.find(name, ("test",) if kind == "mnist10k" else ("train", "test"))
    return 10 if kind == "mnist10k" else parquet_files.check(files, source)


def load(source: Source) -> Dataset:
    """The dataset, from this process's cache or from where it lies.

    Raises:
        BadInput: as ``check``, and for files that are damaged or do not fit the source's knobs.
    """
    kind, name = _parse(source)
    identity: object = source
    if kind == "torchvision":
        identity = (source, torchvision_datasets.cache_folder())
    elif kind != "digits":
        identity = (source, parquet_files.identity(name))
    with _lock:  # also while loading: two trials at once would load the same twice
        if identity not in _cache:
            while len(_cache) >= CACHED:
                _cache.popitem(last=False)
            _cache[identity] = _load(kind, name, source)
        _cache.move_to_end(identity)
        return _cache[identity]


def _parse(source: Source) -> tuple[str, str]:
    name = source.dataset
    if name in ("digits", "mnist10k"):
        return name, MNIST10K.removeprefix("parquet:") if name == "mnist10k" else ""
    for kind, prefix in (("torchvision", "torchvision/"), ("parquet", "parquet:")):
        if name.startswith(prefix) and name != prefix:
            return kind, name.removeprefix(prefix)
    known = [f"torchvision/{n}" for n in torchvision_datasets.KNOWN]
    raise UnknownName("benchmark.dataset", name, ["digits", "mnist10k", "parquet:<folder>", *known])


def _load(kind: str, name: str, source: Source) -> Dataset:
    if kind == "digits":
        return _digits(source)
    if kind == "torchvision":
        return torchvision_datasets.load(name, source)
    if kind == "mnist10k":
        return _mnist10k(name, source)
    return parquet_files.load(name, source)


def _digits(source: Source) -> Dataset:
    """The test set is every fifth image of each class, in file order."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    grey = torch.from_numpy(bunch.images).mul(255 / 16).round().byte().unsqueeze(1)
    images, labels = fit_images(grey, source), torch.from_numpy(bunch.target).long()
    test = torch.zeros(len(labels), dtype=torch.bool)
    for digit in range(10):
        test[(labels == digit).nonzero().squeeze(1)[4::5]] = True
    names = tuple(str(n) for n in bunch.target_names)
    return Dataset(images[~test], labels[~test], images[test], labels[test], names)


def _mnist10k(name: str, source: Source) -> Dataset:
    plain = dataclasses.replace(source, image_column="image", label_column="label")
    files = parquet_files.find(name, ("test",))
    images, labels, names = parquet_files.read(files["test"], plain)
    if len(labels) != 10_000:
        given = f"{len(labels)} images in {files['test'][0]}"
        raise BadSpec("benchmark.dataset: mnist10k", given, "MNIST's test file of 10,000 images")
    digits = names or tuple(str(n) for n in range(10))
    return Dataset(images[:8000], labels[:8000], images[8000:], labels[8000:], digits)
