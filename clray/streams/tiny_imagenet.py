"""Tiny ImageNet: 200 classes of 500 + 50 images of 64 x 64 (Le and Yang, 2015).

Put into the cache folder as ``tiny-imagenet``: what the original archive unpacks to (``train``, and
``val`` with ``val_annotations.txt``), an image folder with ``train/<class>`` and ``val/<class>``,
or the hub's Parquet files. The original test images have no labels; ``val`` is graded on.
"""

from __future__ import annotations

from clray.errors import BadData
from clray.streams import image_folders, parquet_files
from clray.streams.cache_folder import placed
from clray.streams.dataset import Source
from clray.streams.image_folders import Classes
from clray.streams.locations import Entry, Place
from clray.streams.pieces import Listing

NUM_CLASSES = 200
ANNOTATIONS = "val_annotations.txt"
LAYOUTS = (
    "train/<class>/… and val/ with val_annotations.txt (as tiny-imagenet-200.zip unpacks), "
    "or train/<class>/… and val/<class>/…, or train-*.parquet and valid-*.parquet"
)


def check(name: str, source: Source) -> int:
    """The number of classes.

    Raises:
        BadData: it is not in the cache folder.
    """
    placed("tiny-imagenet", LAYOUTS)
    return NUM_CLASSES


def identity(name: str) -> object:
    """Where it lies; its files are taken to stay as they are while a process lives."""
    return placed("tiny-imagenet", LAYOUTS)


def listing(name: str, source: Source) -> Listing:
    """Both halves; the classes are sorted by their WordNet numbers.

    Raises:
        BadData: files that are missing or damaged, or not 200 classes.
    """
    folder = placed("tiny-imagenet", LAYOUTS)
    if parquet_files.lies_in(folder):
        found = parquet_files.listing(str(folder), source)
    else:
        inner = folder / "tiny-imagenet-200"
        folder = inner if inner.entries() else folder
        if any(entry.place.name == ANNOTATIONS for entry in (folder / "val").entries() or ()):
            train = image_folders.scan(folder / "train")
            found = image_folders.list_classes(folder, train, _annotated(folder / "val"), source)
        else:
            found = image_folders.listing(str(folder), source)
    if found.class_names is not None and len(found.class_names) != NUM_CLASSES:
        raise BadData(str(folder), f"{len(found.class_names)} classes", f"{NUM_CLASSES}; {LAYOUTS}")
    return found


def _annotated(folder: Place) -> Classes:
    """The images of ``val`` by class, from lines of file and class, parted by tabs."""
    files = {
        entry.place.name: entry for entry in folder.entries(recursive=True) or () if entry.is_file
    }
    classes: dict[str, list[Entry]] = {}
    text = (folder / ANNOTATIONS).read().decode(errors="replace")
    for number, line in enumerate(text.splitlines(), 1):
        cells = line.split("\t")
        if len(cells) < 2 or cells[0] not in files:
            where = f"{folder / ANNOTATIONS}, line {number}"
            raise BadData(where, line[:80], "an image's file and its class, parted by a tab")
        classes.setdefault(cells[1], []).append(files[cells[0]])
    return {name: sorted(own, key=lambda e: e.place.path) for name, own in classes.items()}
