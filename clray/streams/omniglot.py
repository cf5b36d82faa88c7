"""Omniglot in four rotations: 1,200 characters, each a class, 28 x 28 (Yoon et al., 2020).

The protocol of APD: the first 1,200 characters of the background set followed by the evaluation
set (Lake et al., 2015), each turned by 0, 90, 180 and 270 degrees under one label; drawings 1 to 15
are for training, 16 to 20 for testing. Images are dark on white, as stored.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from clray.streams.cache_folder import cache_folder, find_or_download
from clray.streams.dataset import Source
from clray.streams.decoding import Shape, bad_rows, decode
from clray.streams.image_folders import read_all
from clray.streams.locations import Place
from clray.streams.pieces import PIECE_BYTES, PIECE_ROWS, BadRow, Listing

CHARACTERS = 1200
DRAWINGS = {"train": range(1, 16), "test": range(16, 21)}
TURNS = 4
SETS = ("images_background", "images_evaluation")


@dataclass(frozen=True)
class TurnedRows:
    """Characters in four rotations (``clray.streams.pieces.Piece``).

    A character's rows are its drawings as they are, then all turned by 90 degrees anticlockwise,
    and so on.

    Attributes:
        root: the folder of both sets.
        characters: each one's class and drawings, below ``root``.
        source: channels and size.
    """

    root: Place
    characters: tuple[tuple[int, tuple[str, ...]], ...]
    source: Source

    @property
    def where(self) -> str:
        """See ``Piece.where``."""
        return f"{self.root}: {self._rows[0][1]} to {self._rows[-1][1]}"

    def __len__(self) -> int:
        return len(self._rows)

    def labels(self) -> tuple[Tensor, list[BadRow]]:
        """See ``Piece.labels``."""
        return torch.tensor([cls for cls, _, _ in self._rows], dtype=torch.int64), []

    def images(self, rows: Sequence[int], shape: Shape | None) -> tuple[Tensor, list[BadRow]]:
        """See ``Piece.images``."""
        chosen = [self._rows[row] for row in rows]
        files = list(dict.fromkeys(file for _, file, _ in chosen))
        places = {file: i for i, file in enumerate(files)}
        contents = read_all([self.root / file for file in files])
        encoded = [content if isinstance(content, bytes) else None for content in contents]
        drawings, faults = decode(encoded, self.source, shape)
        which = torch.tensor([places[file] for _, file, _ in chosen], dtype=torch.int64)
        turns = torch.tensor([turn for _, _, turn in chosen], dtype=torch.int64)
        images = drawings[which]
        square = images.shape[2] == images.shape[3]  # else none is good
        for turn in range(1, TURNS if square else 1):
            own = turns == turn
            images[own] = torch.rot90(images[own], turn, (2, 3))
        found = {i: faults[n] for i, n in enumerate(which.tolist()) if n in faults}
        return images, bad_rows(found, rows, lambda row: str(self.root / self._rows[row][1]))

    @functools.cached_property
    def _rows(self) -> list[tuple[int, str, int]]:
        """Class, drawing and quarter turns of each row."""
        return [
            (cls, drawing, turn)
            for cls, drawings in self.characters
            for turn in range(TURNS)
            for drawing in drawings
        ]


def check(name: str, source: Source) -> int:
    """The number of classes."""
    return CHARACTERS


def identity(name: str) -> object:
    """Where it is looked for."""
    return cache_folder()


def listing(name: str, source: Source) -> Listing:
    """Both halves; images are 28 x 28 unless the source asks for another size.

    Raises:
        BadData: the files are neither there nor can be had, or some are missing.
    """
    source = dataclasses.replace(source, image_size=source.image_size or 28)
    root = Place(str(find_or_download("Omniglot", _find)))
    names = [
        character.place.path[len(root.path) + 1 :]
        for part in SETS
        for alphabet in (root / part).entries() or ()
        for character in alphabet.place.entries() or ()
        if not character.is_file
    ][:CHARACTERS]
    drawings = [_drawings(root / character) for character in names]
    pixels = (source.channels or 1) * (source.image_size or 28) ** 2
    limit = min(PIECE_ROWS, PIECE_BYTES // pixels)
    halves = []
    for half in DRAWINGS.values():
        each = max(1, limit // (TURNS * len(half)))
        rows = tuple(
            (cls, tuple(f"{name}/{drawings[cls][number]}" for number in half))
            for cls, name in enumerate(names)
        )
        halves.append(
            tuple(
                TurnedRows(root, rows[start : start + each], source)
                for start in range(0, len(rows), each)
            )
        )
    classes = tuple(character.partition("/")[2] for character in names)
    return Listing(halves[0], halves[1], classes, {"dataset": "omniglot-rotation", "version": 1})


def _find(folder: Path, download: bool) -> Path:
    """The folder of both sets, complete."""
    from torchvision.datasets import Omniglot

    root = folder / str(Omniglot.folder)
    if download:
        for background in (True, False):
            Omniglot(str(folder), background=background, download=True)
    if not all((root / part).is_dir() for part in SETS):
        raise FileNotFoundError(f"{root}/{SETS[0]} or {SETS[1]} not found")
    found = sum(len(_folders(alphabet)) for part in SETS for alphabet in _folders(root / part))
    if found < CHARACTERS:
        raise ValueError(f"{found} characters in {root}, not {CHARACTERS} or more")
    return root


def _folders(folder: Path) -> list[Path]:
    return [entry for entry in folder.iterdir() if entry.is_dir()]


def _drawings(character: Place) -> dict[int, str]:
    """The file of each of a character's drawings, named ``<character>_<drawing>.png``."""
    names = [entry.place.name for entry in character.entries() or ()]
    found = {int(n[:-4].rpartition("_")[2]): n for n in names if n.endswith(".png")}
    missing = [n for half in DRAWINGS.values() for n in half if n not in found]
    return found | {n: f"drawing {n:02} is missing" for n in missing}
