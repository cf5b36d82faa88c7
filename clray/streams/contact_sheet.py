"""A picture of a stored stream: a row of training examples for each task."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from clray.errors import BadData
from clray.spec import PIN, derive_seed
from clray.store import Folder
from clray.streams.manifest import Manifest, StoredTask
from clray.streams.shards import read_blocks, read_labels

COLUMNS = 12
"""Examples of a task, unless it has about as many classes."""
FEWEST_CLASSES, MOST_CLASSES = 10, 16
"""From the first to the last number of classes, one example of each is shown."""
BLOCKS = 3
"""About so many blocks are read of a task whose classes lie mixed."""
SIDE = 72
"""Pixels that small examples are enlarged to, about, by a whole factor."""
LARGEST_SIDE = 96
"""Pixels that large examples are reduced to."""

_MARGIN, _GAP, _BETWEEN_CLASSES, _BETWEEN_TASKS = 20, 3, 7, 14
_TITLE, _NAME, _LABEL = 20, 14, 12
_NAMES_WIDTH = 190
_INK, _FAINT, _PAPER = "#222222", "#808080", "#ffffff"


Block = tuple[str, int]
"""A shard's path, and the number of a block in it."""


@dataclass(frozen=True)
class Drawn:
    """Examples of one task.

    Attributes:
        images: uint8 [n, C, H, W].
        labels: int64 [n], sorted.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]


def contact_sheet(
    uri: str, manifest: Manifest, title: str, tasks: Sequence[int] | None = None, seed: int = 0
) -> Image.Image:
    """A row for each task: its name, and examples with their classes written below.

    Args:
        uri: the stream's address.
        manifest: of the stream.
        title: stands above.
        tasks: positions of the tasks; None: all.
        seed: which examples are drawn.

    Raises:
        BadData: the stream holds features, or a file is missing, truncated or damaged.
    """
    if manifest.dtype != "uint8":
        raise BadData("contact sheet", f"features ({manifest.dtype})", "a stream of images")
    address = Folder(uri.partition(PIN)[0], "stream").uri
    positions = range(len(manifest.tasks)) if tasks is None else tasks

    def examples(position: int) -> Drawn:
        task = manifest.tasks[position]
        return draw(address, manifest, task, derive_seed(seed, "contact sheet", task.name))

    with ThreadPoolExecutor(4) as pool:
        drawn = list(pool.map(examples, positions))
    return _Sheet(manifest, title, list(positions), drawn).image


def draw(address: str, manifest: Manifest, task: StoredTask, seed: int) -> Drawn:
    """Some training examples of a task, spread over its classes and over a few of its blocks.

    Raises:
        BadData: a file is missing, truncated or damaged.
    """
    generator = np.random.default_rng(seed)
    wanted = _shares(task, generator)
    if not wanted:
        return Drawn(np.empty((0, *manifest.shape), np.uint8), np.empty(0, np.int64))
    paths = _holding(task, wanted, generator)
    labels = {path: read_labels(address, [path])[0] for path in paths}
    size = manifest.block_rows
    blocks = [(path, n) for path in paths for n in range(-(-len(labels[path]) // size))]
    blocks = [blocks[place] for place in generator.permutation(len(blocks))]
    of_blocks = {at: labels[at[0]][at[1] * size : (at[1] + 1) * size] for at in blocks}
    chosen = _choose(of_blocks, wanted, generator)
    sizes = [len(of_blocks[at]) for at in chosen]
    x, y = read_blocks(address, list(chosen), sizes, manifest.row_bytes)
    starts = np.cumsum([0, *sizes])[:-1]
    parts = [s + np.array(own) for s, own in zip(starts, chosen.values(), strict=True)]
    rows = np.concatenate(parts)
    rows = rows[np.argsort(y[rows], kind="stable")]
    return Drawn(x[rows].reshape(len(rows), *manifest.shape), y[rows])


def _choose(
    blocks: dict[Block, NDArray[np.int64]], wanted: dict[int, int], generator: np.random.Generator
) -> dict[Block, list[int]]:
    """Rows of blocks, by their labels: first a part of what is wanted from each block, so that
    neighbours in the dataset do not fill the row, then whatever is still wanted."""
    left = dict(wanted)
    chosen: dict[Block, list[int]] = {}
    for parts in (BLOCKS, 1):
        for at, y in blocks.items():
            if not any(left.values()):
                return chosen
            for label in [label for label, n in left.items() if n]:
                free = np.setdiff1d(np.flatnonzero(y == label), chosen.get(at, []))
                most = min(left[label], -(-wanted[label] // parts))
                taken = generator.permutation(free)[:most].tolist()
                left[label] -= len(taken)
                if taken:
                    chosen.setdefault(at, []).extend(taken)
    return chosen


def _shares(task: StoredTask, generator: np.random.Generator) -> dict[int, int]:
    """How many examples of each label are drawn; of many classes, some are left out."""
    labels = sorted({label for shard in task.train for label in shard.classes})
    if len(labels) > MOST_CLASSES:
        labels = sorted(generator.choice(labels, COLUMNS, replace=False).tolist())
    if not labels:
        return {}
    columns = COLUMNS if len(labels) < FEWEST_CLASSES else len(labels)
    each, more = divmod(columns, len(labels))
    return {label: each + (place < more) for place, label in enumerate(labels)}


def _holding(task: StoredTask, wanted: dict[int, int], generator: np.random.Generator) -> list[str]:
    """Few files that hold examples of all wanted labels."""
    left = dict(wanted)
    paths = []
    for place in generator.permutation(len(task.train)):
        shard = task.train[place]
        held = {label: min(n, shard.classes.get(label, 0)) for label, n in left.items()}
        if any(held.values()):
            paths.append(shard.path)
            left = {label: n - held[label] for label, n in left.items()}
    return paths


class _Sheet:
    """Lays out and paints."""

    def __init__(
        self, manifest: Manifest, title: str, positions: list[int], drawn: list[Drawn]
    ) -> None:
        self.manifest = manifest
        self.cell = _cell_size(*manifest.shape[1:])
        widest = max((self._row_width(one) for one in drawn), default=0)
        name_font = _font(_NAME)
        names = [manifest.tasks[position].name for position in positions]
        longest = max((name_font.getlength(name) for name in names), default=0)
        self.names_width = min(_NAMES_WIDTH, max(int(longest) + 1, 50))
        self.row_height = self.cell[1] + _LABEL + 6
        top = _MARGIN + _TITLE + 22
        step = self.row_height + _BETWEEN_TASKS
        left = 2 * _MARGIN + self.names_width
        width = max(left + widest + _MARGIN, 480)
        self.image = Image.new("RGB", (width, top + step * len(drawn) + 6), _PAPER)
        self.pen = ImageDraw.Draw(self.image)
        self._write(_MARGIN, _MARGIN - 4, title, _TITLE, _INK, width - 2 * _MARGIN)
        for row, (position, one) in enumerate(zip(positions, drawn, strict=True)):
            y = top + row * step
            middle = y + self.cell[1] // 2
            self._write(_MARGIN, middle - 18, f"{position:03d}", _LABEL, _FAINT, self.names_width)
            name = manifest.tasks[position].name
            self._write(_MARGIN, middle - 2, name, _NAME, _INK, self.names_width)
            self._paint(left, y, one)

    def _paint(self, x: int, y: int, drawn: Drawn) -> None:
        for label, group in groupby(range(len(drawn.labels)), key=lambda i: int(drawn.labels[i])):
            start = x
            for index in group:
                self.image.paste(_picture(drawn.images[index], self.cell), (x, y))
                x += self.cell[0] + _GAP
            names = self.manifest.class_names
            text = names[label] if label < len(names) else str(label)
            self._write(start, y + self.cell[1] + 2, text, _LABEL, _FAINT, x - start - _GAP)
            x += _BETWEEN_CLASSES - _GAP

    def _row_width(self, drawn: Drawn) -> int:
        classes = len(np.unique(drawn.labels))
        width = len(drawn.labels) * (self.cell[0] + _GAP)
        return width + classes * (_BETWEEN_CLASSES - _GAP) - _BETWEEN_CLASSES

    def _write(self, x: int, y: int, text: str, size: int, ink: str, room: int) -> None:
        font = _font(size)
        kept, whole = len(text), text
        while kept and font.getlength(text) > room:  # both ends tell names apart
            kept -= 1
            text = f"{whole[: kept - kept // 3]}…{whole[len(whole) - kept // 3 :]}"
        self.pen.text((x, y), text, ink, font)


def _cell_size(height: int, width: int) -> tuple[int, int]:
    """Width and height that examples are shown at."""
    side = max(height, width)
    if side > LARGEST_SIDE:
        scale = LARGEST_SIDE / side
        return max(1, round(width * scale)), max(1, round(height * scale))
    factor = max(1, round(SIDE / side))
    return width * factor, height * factor


def _picture(image: NDArray[np.uint8], size: tuple[int, int]) -> Image.Image:
    """An example [C, H, W] at that width and height, in grey or in its first three colours."""
    colours = image[:3].transpose(1, 2, 0) if len(image) >= 3 else image[0]
    picture = Image.fromarray(np.ascontiguousarray(colours))
    grows = size[0] >= picture.width
    how = Image.Resampling.NEAREST if grows else Image.Resampling.LANCZOS
    return picture if picture.size == size else picture.resize(size, how)


def _font(size: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size)
    assert isinstance(font, ImageFont.FreeTypeFont)
    return font
