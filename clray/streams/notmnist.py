"""notMNIST, the small set: letters A to J in many fonts, 28 x 28 (Bulatov, 2011).

Put into the cache folder as ``notmnist``: the folders ``A`` to ``J`` (or ``notMNIST_small`` with
these in it). There is no official test half: every tenth image of each class, in the order of
files' names, is tested on. The two files of the archive that are empty are left out.
"""

from __future__ import annotations

from clray.errors import BadData
from clray.streams import image_folders
from clray.streams.cache_folder import placed
from clray.streams.dataset import Source
from clray.streams.locations import Place
from clray.streams.pieces import Listing

CLASSES = tuple("ABCDEFGHIJ")
EMPTY = {
    "A/RGVtb2NyYXRpY2FCb2xkT2xkc3R5bGUgQm9sZC50dGY=.png",
    "F/Q3Jvc3NvdmVyIEJvbGRPYmxpcXVlLnR0Zg==.png",
}
LAYOUT = "folders A, B, … J with the images of notMNIST_small.tar.gz"


def check(name: str, source: Source) -> int:
    """The number of classes.

    Raises:
        BadData: it is not in the cache folder.
    """
    _folder()
    return len(CLASSES)


def identity(name: str) -> object:
    """Where it lies; its files are taken to stay as they are while a process lives."""
    return _folder()


def listing(name: str, source: Source) -> Listing:
    """Both halves.

    Raises:
        BadData: files that are missing, or not the ten classes.
    """
    folder = _folder()
    classes = image_folders.scan(folder)
    if tuple(sorted(classes)) != CLASSES:
        raise BadData(str(folder), f"folders {', '.join(sorted(classes))}", LAYOUT)
    for letter, entries in classes.items():
        classes[letter] = [e for e in entries if f"{letter}/{e.place.name}" not in EMPTY]
    train = {c: [e for i, e in enumerate(own) if i % 10 != 9] for c, own in classes.items()}
    test = {c: own[9::10] for c, own in classes.items()}
    return image_folders.list_classes(folder, train, test, source)


def _folder() -> Place:
    folder = placed("notmnist", LAYOUT)
    inner = folder / "notMNIST_small"
    return inner if inner.entries() else folder
