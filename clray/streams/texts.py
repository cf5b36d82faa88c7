"""Datasets of texts, tokenised: ``train*.csv|parquet`` and ``test*.csv|parquet`` in a folder.

The classes are the different labels of the training half: whole numbers by size, whether they
begin at 0 or 1, and other labels by the alphabet; where a Parquet file names its classes, as the
Hugging Face hub's do, the labels 0, 1, … stand for these. An example is uint8 [3, L, 1], as in
``clray.streams.tokens``. Of each class at most so many examples are drawn as the format says, from
a seed of its own: before anything is tokenised, and the same for all trials.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clray.errors import BadData, BadSpec
from clray.spec import derive_seed
from clray.streams import text_files, tokens
from clray.streams.dataset import Source, TextFormat
from clray.streams.decoding import Fault, Shape, bad_rows
from clray.streams.locations import Entry, digest
from clray.streams.pieces import BadRow, Listing

PIECE_ROWS = 16_384
"""A CSV file is read up to the end of each piece, so they are larger than those of images."""
EMPTY = Fault("an empty text", "a text of one token or more")


@dataclass(frozen=True)
class TextRows:
    """Some rows of a file (``clray.streams.pieces.Piece``).

    Attributes:
        file: which.
        rows: their numbers in it, from 0, ascending.
        classes: of each, -1: none.
        names: of all classes.
        columns: of the texts.
        format: how they are read.
    """

    file: Entry
    rows: Sequence[int]
    classes: tuple[int, ...]
    names: tuple[str, ...]
    columns: tuple[str, ...]
    format: TextFormat

    @property
    def where(self) -> str:
        """See ``Piece.where``."""
        return f"{self.file.place}, rows {self.rows[0]} to {self.rows[-1]}"

    def __len__(self) -> int:
        return len(self.rows)

    def labels(self) -> tuple[Tensor, list[BadRow]]:
        """See ``Piece.labels``."""
        labels = torch.tensor(self.classes, dtype=torch.int64)
        known = ", ".join(self.names[:20]) + ", …" * (len(self.names) > 20)
        fault = Fault("none, or one that no training row has", f"one of {known}")
        faults = dict.fromkeys((labels < 0).nonzero().squeeze(1).tolist(), fault)
        return labels, bad_rows(faults, range(len(self)), lambda row: f"{self._row(row)}: label")

    def images(self, rows: Sequence[int], shape: Shape | None) -> tuple[Tensor, list[BadRow]]:
        """The tokens of some rows, as in ``Piece.images``; all texts have one shape."""
        style = self.format
        if not rows:
            return tokens.encode([], style.tokenizer, style.max_tokens), []
        numbers = [self.rows[row] for row in rows]
        found = text_files.texts(self.file, style.header, self.columns, numbers)
        x = tokens.encode(found, style.tokenizer, style.max_tokens)
        empty = torch.tensor([not text for text in found]) | (x[:, :, 0, 0] == 255).all(1)
        faults = dict.fromkeys(empty.nonzero().squeeze(1).tolist(), EMPTY)
        x[empty] = 0
        return x, bad_rows(faults, rows, lambda row: f"{self._row(row)}: text")

    def _row(self, row: int) -> str:
        return f"{self.file.place}, row {self.rows[row]}"


def check(name: str, source: Source) -> int | None:
    """Look at the files' columns and load the tokenizer; the number of classes where it is named.

    Raises:
        BadSpec: a benchmark that takes images, or transformers are not installed.
        BadData: files that are missing or lack a column, or a tokenizer that cannot be loaded.
    """
    style = _format(name, source)
    names: tuple[str, ...] = ()
    for half in ("train", "test"):
        for file in text_files.find(name, half):
            label, _ = text_files.columns(file, style.header, _chosen(name, style))
            if half == "train":
                names = text_files.names_of_classes(file, style.header, label)
    special = tokens.load(style.tokenizer).num_special_tokens_to_add()
    if style.max_tokens <= special:
        accepted = f"{special + 1} or more: the tokenizer adds {special} special tokens"
        raise BadSpec("benchmark.max_tokens", style.max_tokens, accepted)
    return len(names) or None


def identity(name: str) -> object:
    """What changes when the files do."""
    return tuple(entry for half in ("train", "test") for entry in text_files.find(name, half))


def listing(name: str, source: Source) -> Listing:
    """Both halves, or what is drawn of them; labels are read, texts are not.

    Raises:
        BadInput: as ``check``; labels of no known type, or none at all.
    """
    style = _format(name, source)
    train, test = (text_files.find(name, half) for half in ("train", "test"))
    label, _ = text_files.columns(train[0], style.header, _chosen(name, style))
    names = text_files.names_of_classes(train[0], style.header, label)
    classes = tuple(map(str, range(len(names)))) or _classes(name, train, style)
    limits = (style.train_per_class, style.test_per_class)
    halves = [
        _cut(name, half, files, classes, names or classes, limit, style)
        for half, files, limit in zip(("train", "test"), (train, test), limits, strict=True)
    ]
    content = {"tokenizer": tokens.content_hash(style.tokenizer), **digest([*train, *test])}
    return Listing(halves[0], halves[1], names or classes, {"dataset": source.dataset, **content})


def _format(name: str, source: Source) -> TextFormat:
    if source.texts is None:
        accepted = "images; a benchmark of texts, such as texts or webnlp, takes texts"
        raise BadSpec("benchmark.dataset", f"text:{name}", accepted)
    return source.texts


def _chosen(name: str, style: TextFormat) -> tuple[str, ...]:
    return dict(style.columns).get(name, ())


def _classes(name: str, files: Sequence[Entry], style: TextFormat) -> tuple[str, ...]:
    """The different labels of all files of the training half."""
    label_columns = (text_files.columns(f, style.header, _chosen(name, style))[0] for f in files)
    pairs = zip(files, label_columns, strict=True)
    found = text_files.classes_of(text_files.labels(f, style.header, own) for f, own in pairs)
    if not found:
        raise BadData(f"text:{name}: training examples", 0, "1 or more with a label")
    return found


def _cut(
    name: str,
    half: str,
    files: Sequence[Entry],
    classes: Sequence[str],
    names: tuple[str, ...],
    limit: int | None,
    style: TextFormat,
) -> tuple[TextRows, ...]:
    """The pieces of a half."""
    own, codes = [], []
    for file in files:
        label, columns = text_files.columns(file, style.header, _chosen(name, style))
        own.append(columns)
        found = text_files.labels(file, style.header, label)
        codes.append(text_files.numbers(found, classes))
    seed = derive_seed(style.subset_seed, "texts", half)
    kept = _draw(np.concatenate(codes), limit, seed)
    ends = np.cumsum([0, *map(len, codes)])
    pieces = []
    for file, columns, labels, (low, high) in zip(files, own, codes, pairwise(ends), strict=True):
        rows = kept[(kept >= low) & (kept < high)] - low
        for start in range(0, len(rows), PIECE_ROWS):
            part = rows[start : start + PIECE_ROWS]
            whole = limit is None
            numbers = range(part[0], part[-1] + 1) if whole else tuple(part.tolist())
            drawn = tuple(labels[part].tolist())
            pieces.append(TextRows(file, numbers, drawn, names, columns, style))
    return tuple(pieces)


def _draw(codes: NDArray[np.int64], limit: int | None, seed: int) -> NDArray[np.int64]:
    """At most ``limit`` rows of each class, in file order, and all without a class."""
    if limit is None:
        return np.arange(len(codes))
    shuffled = np.random.default_rng(seed).permutation(len(codes))
    order = shuffled[codes[shuffled].argsort(kind="stable")]
    sizes = np.bincount(codes + 1)
    ranks = np.arange(len(codes)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return np.sort(order[(ranks < limit) | (codes[order] < 0)])
