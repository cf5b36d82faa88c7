"""Where datasets come from: a string names the source.

=========================  =====================================================================
``digits``                 scikit-learn's handwritten digits, 8 x 8, 1,797 images, in the package
``digits-rest``            those without the quarter that the model ``digits_mlp`` has seen: 1,352
``mnist10k``               MNIST's test file: the first 8,000 images for training, the last 2,000
                           for testing; from ``$CLRAY_DATA/mnist``
``torchvision/<Name>``     a dataset of torchvision, such as ``torchvision/CIFAR10``; found in, or
                           downloaded to, ``$CLRAY_DATA_CACHE`` or ``~/.cache/clray``
``omniglot-rotation``      Omniglot's characters in four rotations each; found or downloaded there
``tiny-imagenet``,         put there by hand; the files of the same name say how
``notmnist``
``parquet:<folder>``       ``train-*.parquet`` and ``test-*.parquet`` in a folder (or in its
                           ``data``), or beginning with a prefix, as the Hugging Face hub exports
                           them; ``validation``, ``valid`` and ``val`` will do for ``test``
``folder:<folder>``        images in ``train/<class>/…`` and ``test/<class>/…``
``text:<folder>``          texts in ``train*.csv`` and ``test*.csv``, or ``.parquet``, in a folder
                           (or in its ``data``); for benchmarks of texts alone
``synthetic/<C>x<N>``      made up: C classes with N training images each, of any size
``first + second + …``     several in a row as one, the classes of each after those before it
=========================  =====================================================================

``parquet:``, ``folder:`` and ``text:`` also take ``s3://…`` and ``gs://…``; ``$VARIABLES`` and
``~`` are expanded.
"""

from __future__ import annotations

import dataclasses
import threading
from collections import OrderedDict
from typing import Protocol

from clray.errors import UnknownName
from clray.streams import (
    digits,
    digits_rest,
    image_folders,
    in_memory,
    joined,
    mnist10k,
    notmnist,
    omniglot,
    parquet_files,
    synthetic,
    texts,
    tiny_imagenet,
    torchvision_datasets,
)
from clray.streams.dataset import Dataset, Source
from clray.streams.pieces import Listing

CACHED = 2
"""Datasets that a process keeps; the one used longest ago goes first."""


class Kind(Protocol):
    """What the file of a kind of source defines; ``name`` is what follows the kind's own name."""

    def check(self, name: str, source: Source) -> int | None:
        """The number of classes where it is cheap to know; refuses what cannot be loaded."""
        ...

    def identity(self, name: str) -> object:
        """What changes when the data do, cheaply: as long as it does not, a process reads once."""
        ...

    def listing(self, name: str, source: Source) -> Listing:
        """The dataset as pieces."""
        ...


WHOLE_NAMES: dict[str, Kind] = {
    "digits": digits,
    "digits-rest": digits_rest,
    "mnist10k": mnist10k,
    "notmnist": notmnist,
    "omniglot-rotation": omniglot,
    "tiny-imagenet": tiny_imagenet,
}
PREFIXES: dict[str, Kind] = {
    "folder:": image_folders,
    "parquet:": parquet_files,
    "synthetic/": synthetic,
    "text:": texts,
    "torchvision/": torchvision_datasets,
}

_cache: OrderedDict[object, Dataset] = OrderedDict()
_lock = threading.Lock()


def check(source: Source) -> int | None:
    """Refuse, cheaply, a source that cannot be loaded; the number of classes where it is known.

    Raises:
        UnknownName: no such dataset.
        BadData: its files are missing.
    """
    counts = [kind.check(name, part) for kind, name, part in _parts(source)]
    known = [count for count in counts if count is not None]
    return sum(known) if len(known) == len(counts) else None


def listing(source: Source) -> Listing:
    """The dataset as pieces that can be read anywhere; no image is read, save to learn its size.

    Raises:
        BadInput: as ``check``, and for files that are damaged as a whole.
    """
    parts = _parts(source)
    listings = [kind.listing(name, part) for kind, name, part in parts]
    if len(listings) == 1:
        return listings[0]
    counts = [_count(part) for part in listings]
    return joined.join([part.dataset for _, _, part in parts], listings, counts)


def class_counts(source: Source) -> list[int]:
    """How many classes each of the joined datasets has; labels are read where nothing else tells.

    Raises:
        BadInput: as ``listing``.
    """
    return [
        kind.check(name, part) or _count(kind.listing(name, part))
        for kind, name, part in _parts(source)
    ]


def load(source: Source) -> Dataset:
    """The dataset in memory, from this process's cache or from where it lies.

    Raises:
        BadInput: as ``listing``, and for the first row that cannot be used.
    """
    identity = (source, *(kind.identity(name) for kind, name, _ in _parts(source)))
    with _lock:  # also while loading: two trials at once would load the same twice
        if identity not in _cache:
            while len(_cache) >= CACHED:
                _cache.popitem(last=False)
            _cache[identity] = in_memory.load(listing(source))
        _cache.move_to_end(identity)
        return _cache[identity]


def _parts(source: Source) -> list[tuple[Kind, str, Source]]:
    """The kind, the name within it and the source of each joined dataset."""
    names = joined.names_in(source.dataset)
    return [(*_parse(name), dataclasses.replace(source, dataset=name)) for name in names]


def _parse(name: str) -> tuple[Kind, str]:
    if name in WHOLE_NAMES:
        return WHOLE_NAMES[name], ""
    for prefix, kind in PREFIXES.items():
        if name.startswith(prefix) and name != prefix:
            return kind, name.removeprefix(prefix)
    folders = ("folder:<folder>", "parquet:<folder>", "text:<folder>")
    shapes = (*folders, "synthetic/<classes>x<examples>")
    known = [f"torchvision/{n}" for n in torchvision_datasets.KNOWN]
    raise UnknownName("benchmark.dataset", name, [*WHOLE_NAMES, *shapes, *known])


def _count(part: Listing) -> int:
    names = part.class_names
    return in_memory.count_classes(part.train) if names is None else len(names)
