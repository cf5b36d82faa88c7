"""What a stored stream says of itself: ``manifest.json``, written last, so that a folder that has
one holds a whole stream.

::

    <stream>/manifest.json
    <stream>/task=000/split=train/part-00000.parquet     id, label, image; see ``shards``
    <stream>/task=000/split=validation/…
    <stream>/task=000/split=test/…
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any, Literal, get_args

from pydantic import ValidationError

from clray.errors import BadData, BadInput
from clray.spec import PIN, Scenario, Spec
from clray.store import Folder
from clray.streams.augmentation import Augmentation

NAME = "manifest.json"
BUILDING = "_building"
"""Below a stream's folder: what a build that has not finished keeps."""
FORMAT = 1
"""Raised when streams of before can no longer be read."""
DIGITS = 20
"""Hexadecimal digits of a stream's hash."""
SplitName = Literal["train", "validation", "test"]
SPLITS: tuple[SplitName, ...] = get_args(SplitName)


class Shard(Spec):
    """One Parquet file of a stream."""

    path: str
    """Below the stream's folder."""
    rows: int
    """How many examples it holds."""
    bytes: int
    """Its size."""
    sha256: str
    """Of its content, in hexadecimal digits."""
    classes: dict[int, int]
    """Examples of each label."""


class StoredTask(Spec):
    """A task of a stored stream, at its position in the stream."""

    name: str
    """Identity that survives reordering."""
    classes: tuple[int, ...]
    """The output units that its labels use."""
    train: tuple[Shard, ...]
    """To learn from, in the order of rows; so are the others."""
    validation: tuple[Shard, ...]
    """Held out of the training examples."""
    test: tuple[Shard, ...]
    """Of the test half."""

    def shards(self, splits: Iterable[SplitName] = SPLITS) -> tuple[Shard, ...]:
        """The files of some splits, one after the other."""
        return tuple(shard for split in splits for shard in getattr(self, split))


class Manifest(Spec):
    """A stored stream: where its examples lie, and what they are."""

    format: int = FORMAT
    """Of the manifest and the shards."""
    version: str
    """The version of clray that wrote it."""
    source: dict[str, Any]
    """What it was made from: the benchmark with all knobs and its seed, or a stream and an
    encoder."""
    source_hash: str
    """Of the above and of the data that it names, 20 hexadecimal digits."""
    scenario: Scenario
    """What changes from task to task."""
    num_classes: int
    """Output units over the whole stream."""
    shape: tuple[int, int, int]
    """(C, H, W) of every example; (3, L, 1) of texts of L tokens, (D, 1, 1) of features or codes,
    (D, L, 1) of states of tokens."""
    dtype: Literal["uint8", "int16", "float16", "float32"] = "uint8"
    """Of every number of an example: images are uint8, features float, codes int16."""
    mean: tuple[float, ...] = ()
    """Of each channel in [0, 1] units, taken off after / 255; empty: none."""
    std: tuple[float, ...] = ()
    """Of each channel, divided by after that; empty: none."""
    augment: Augmentation = "none"
    """What happens to training images when a method asks for augmentation."""
    class_names: tuple[str, ...] = ()
    """One per output unit, or none."""
    validation_fraction: float
    """Share of the training examples that was held out."""
    seed: int
    """Of all draws: order, hold-out, subset."""
    block_rows: int
    """Rows of a Parquet row group: what is read at once."""
    graded_together: bool = False
    """Whether every task is graded on the held-out rows of all tasks."""
    skipped: dict[str, int] = {}
    """Bad rows that were left out, by file."""
    encoder: dict[str, Any] | None = None
    """Of features: what computed them, with the key that trials find them by."""
    tasks: tuple[StoredTask, ...]
    """In the order of learning."""

    @property
    def hash(self) -> str:
        """Of everything that a trial can see of the stream, 20 hexadecimal digits."""
        aside = {"version", "source", "source_hash", "skipped"}
        return digest(self.model_dump(mode="json", exclude=aside))

    @property
    def row_bytes(self) -> int:
        """What one example takes, without its label."""
        channels, height, width = self.shape
        size = {"uint8": 1, "int16": 2, "float16": 2, "float32": 4}[self.dtype]
        return channels * height * width * size

    @property
    def is_coded(self) -> bool:
        """Whether examples are codes that a method made of features."""
        return self.dtype == "int16"

    @property
    def is_text(self) -> bool:
        """Whether examples are the bytes of token ids, (3, L, 1)."""
        return self.dtype == "uint8" and self.shape[0] == 3 and self.shape[2] == 1

    def num_rows(self, splits: Sequence[SplitName] = SPLITS) -> int:
        """How many examples there are in some splits of all tasks."""
        return sum(shard.rows for task in self.tasks for shard in task.shards(splits))

    def num_bytes(self, splits: Sequence[SplitName] = SPLITS) -> int:
        """What the examples of some splits take in memory."""
        return self.num_rows(splits) * (self.row_bytes + 8)


def digest(value: Any) -> str:
    """Hash of a JSON value, 20 hexadecimal digits."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:DIGITS]


def shard_path(task: int, split: SplitName, number: int) -> str:
    """Where a shard lies below its stream's folder."""
    return f"task={task:03d}/split={split}/part-{number:05d}.parquet"


def write_manifest(folder: Folder, manifest: Manifest) -> None:
    """Make the folder a whole stream, at once."""
    folder.write(NAME, (manifest.model_dump_json(indent=1) + "\n").encode())


def pinned(uri: str, manifest: Manifest) -> str:
    """The address, in full, with the hash of what lies there."""
    return f"{Folder(uri.partition(PIN)[0], 'stream').uri}{PIN}{manifest.hash}"


def read_manifest(uri: str, where: str = "stream") -> Manifest:
    """The manifest of the stream at an address, which may be pinned to a hash.

    Args:
        uri: a local folder, ``s3://…`` or ``gs://…``; with ``#sha256=<hash>`` only that content.
        where: names the address in an error.

    Raises:
        BadData: no stream there, one that is not finished, damaged, of another version's format, or
            not the one that is pinned.
    """
    address, _, wanted = uri.partition(PIN)
    try:
        folder = Folder(address, where)
        text = folder.read(NAME) if folder.has(NAME) else None
        unfinished = text is None and folder.has(f"{BUILDING}/plan.json")
    except BadInput as error:
        raise BadData(error.where, error.given, error.accepted) from None
    except OSError as error:
        raise unreachable(where, address, error) from None
    if text is None:
        given = f"{address} (a build that has not finished)" if unfinished else address
        accepted = "the address of a stream that clray data build has written"
        if unfinished:
            accepted += "; the same build command goes on where it stopped"
        raise BadData(where, given, accepted)
    manifest = _parsed(text, address, where)
    if wanted and manifest.hash != wanted:
        given = f"{address}, which now holds {manifest.hash}"
        raise BadData(where, given, f"the stream of hash {wanted}, as it is pinned")
    return manifest


@lru_cache(8)  # every trial of a sweep asks for the same
def _parsed(text: bytes, address: str, where: str) -> Manifest:
    try:
        content = json.loads(text)
        if content.get("format") != FORMAT:
            given = f"format {content.get('format')} in {address}/{NAME}"
            raise BadData(where, given, f"format {FORMAT}; build the stream anew")
        return Manifest.model_validate(content)
    except (ValueError, ValidationError, AttributeError):
        raise BadData(f"{address}/{NAME}", "damaged content", "JSON as clray wrote it") from None


def unreachable(where: str, address: str, error: Exception) -> BadData:
    """The error for a place that cannot be read or written."""
    reason = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"[:300]
    accepted = "a folder, s3://… or gs://… that exists and may be used"
    return BadData(f"{where}: {address}", reason, accepted)
