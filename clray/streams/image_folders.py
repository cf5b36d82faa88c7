"""Image folders: ``train/<class>/…`` and ``test/<class>/…``, with images anywhere below.

``val``, ``validation`` or ``valid`` will do for ``test``. The classes are the sorted names of the
folders in ``train``; a row is a file, in the order of paths within its class.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from clray.errors import BadData
from clray.streams.dataset import Source
from clray.streams.decoding import (
    Fault,
    Shape,
    bad_rows,
    decode,
    encoded_size,
    rows_per_piece,
)
from clray.streams.locations import READERS, Entry, Place, digest, locate, reaching, reason
from clray.streams.pieces import BadRow, Listing

SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff"),
    *(".pgm", ".ppm", ".pbm"),
)
GRADED_ON = ("test", "val", "validation", "valid")
Classes = Mapping[str, Sequence[Entry]]
"""The image files of each class."""


@dataclass(frozen=True)
class FileRows:
    """Image files, one a row (``clray.streams.pieces.Piece``).

    Attributes:
        root: what their paths begin with.
        files: the rest of their paths.
        classes: of each.
        source: channels and size that are asked for.
    """

    root: Place
    files: tuple[str, ...]
    classes: tuple[int, ...]
    source: Source

    @property
    def where(self) -> str:
        """See ``Piece.where``."""
        return f"{self.root / self.files[0]} to {self.files[-1]}"

    def __len__(self) -> int:
        return len(self.files)

    def labels(self) -> tuple[Tensor, list[BadRow]]:
        """See ``Piece.labels``."""
        return torch.tensor(self.classes, dtype=torch.int64), []

    def images(self, rows: Sequence[int], shape: Shape | None) -> tuple[Tensor, list[BadRow]]:
        """See ``Piece.images``."""
        contents = read_all([self.root / self.files[row] for row in rows])
        images, faults = decode(
            [content if isinstance(content, bytes) else None for content in contents],
            self.source,
            shape,
        )
        for i, content in enumerate(contents):
            if isinstance(content, Fault):
                faults[i] = content
        return images, bad_rows(faults, rows, lambda row: str(self.root / self.files[row]))


def check(name: str, source: Source) -> int:
    """The number of classes; no file is opened.

    Raises:
        BadData: no such folder, or no classes in it.
    """
    train, _ = _halves(locate(name), f"folder:{name}")
    return len([entry for entry in train.entries() or () if _is_class(entry)])


def identity(name: str) -> object:
    """What changes when files are added or removed. Folders in object stores are taken to stay as
    they are while a process lives."""
    root = locate(name)
    halves = _halves(root, f"folder:{name}") if root.is_local else ()
    return tuple((entry.place, entry.mtime_ns) for half in halves for entry in half.entries() or ())


def listing(name: str, source: Source) -> Listing:
    """Both halves as files.

    Raises:
        BadData: as ``check``; an image outside of a class's folder, a class without images, or a
            class in the test half alone.
    """
    train, test = (scan(half) for half in _halves(locate(name), f"folder:{name}"))
    return list_classes(locate(name), train, test, source)


def scan(folder: Place) -> dict[str, list[Entry]]:
    """The image files below each class's folder.

    Raises:
        BadData: there are none, or some below no class.
    """
    classes: dict[str, list[Entry]] = {}
    start = len(folder.path.rstrip("/")) + 1
    for entry in folder.entries(recursive=True) or ():
        name, _, rest = entry.place.path[start:].partition("/")
        if not entry.is_file:
            if not rest and _is_class(entry):
                classes.setdefault(name, [])
        elif _is_image(entry) and not name.startswith("."):
            if not rest:
                accepted = "images in folders named after their classes"
                raise BadData(str(folder), f"the image {name}", accepted)
            classes.setdefault(name, []).append(entry)
    if not classes:
        raise BadData(str(folder), "no folders", "a folder of images for each class")
    return classes


def list_classes(root: Place, train: Classes, test: Classes, source: Source) -> Listing:
    """Both halves as pieces, from the files of each class.

    Raises:
        BadData: a class without images, or in the test half alone.
    """
    names = tuple(sorted(train))
    for half, classes in (("train", train), ("test", test)):
        for name in sorted(classes):
            if name not in train:
                raise BadData(f"{root}: {half}: class {name!r}", "test images only", names)
            if not classes[name]:
                accepted = f"one image or more ({', '.join(SUFFIXES)})"
                raise BadData(f"{root}: {half}: folder of class {name!r}", "no images", accepted)
    first = train[names[0]][0].place
    size = rows_per_piece(source, lambda: _size(first))
    rows = [_cut(root, names, classes, size, source) for classes in (train, test)]
    entries = [entry for half in (train, test) for own in half.values() for entry in own]
    return Listing(rows[0], rows[1], names, {"dataset": source.dataset, **digest(entries)})


def read_all(places: Sequence[Place]) -> list[bytes | Fault]:
    """The files' contents; a fault where one is gone or may not be read.

    Raises:
        BadData: the store cannot be reached.
    """

    def read(place: Place) -> bytes | Fault:
        with reaching(str(place), "a file that can be read"):
            try:
                return place.read()
            except (FileNotFoundError, PermissionError) as error:
                return Fault(reason(error), "a file that can be read")

    if not places or places[0].is_local:
        return [read(place) for place in places]
    with ThreadPoolExecutor(READERS) as pool:
        return list(pool.map(read, places))


def _halves(root: Place, given: str) -> tuple[Place, Place]:
    names = {entry.place.name for entry in root.entries() or () if not entry.is_file}
    test = next((name for name in GRADED_ON if name in names), None)
    if "train" not in names or test is None:
        accepted = (
            f"a folder with train/<class>/ and test/<class>/ ({', '.join(GRADED_ON[1:])} will do "
            f"for test; looked in {root})"
        )
        raise BadData("benchmark.dataset", given, accepted)
    return root / "train", root / test


def _cut(
    root: Place, names: Sequence[str], classes: Classes, size: int, source: Source
) -> tuple[FileRows, ...]:
    start = len(root.path.rstrip("/")) + 1
    rows = [
        (entry.place.path[start:], cls)
        for cls, name in enumerate(names)
        for entry in classes.get(name, ())
    ]
    starts = [*range(0, len(rows), size), len(rows)]
    parts = (tuple(zip(*rows[low:high], strict=True)) for low, high in pairwise(starts))
    return tuple(FileRows(root, files, labels, source) for files, labels in parts)


def _size(place: Place) -> tuple[int, int]:
    content = read_all([place])[0]
    return encoded_size(content if isinstance(content, bytes) else None)


def _is_class(entry: Entry) -> bool:
    return not entry.is_file and not entry.place.name.startswith(".")


def _is_image(entry: Entry) -> bool:
    name = entry.place.name
    return name.lower().endswith(SUFFIXES) and not name.startswith(".")
