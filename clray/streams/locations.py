"""Where a source's files lie: in local folders, or on ``s3://`` and ``gs://`` (pyarrow.fs)."""

from __future__ import annotations

import functools
import hashlib
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import pyarrow as pa
from pyarrow import fs

from clray.errors import BadData

READERS = 32
"""Files that are opened at once where each costs a journey to an object store."""
RETRY_SECONDS = 5
"""How long ``gs://`` is tried again before it counts as out of reach."""


@dataclass(frozen=True)
class Place:
    """A file or folder, local or in an object store; small, and means the same on any machine.

    Attributes:
        path: as its file system writes it: ``/data/train`` or ``bucket/train``.
        root: ``s3://bucket`` and the like, with options (``?region=…``) if any; "": local.
    """

    path: str
    root: str = ""

    def __truediv__(self, name: str) -> Place:
        return Place(f"{self.path.rstrip('/')}/{name}", self.root)

    def __str__(self) -> str:
        return f"{urlsplit(self.root).scheme}://{self.path}" if self.root else self.path

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.path.rstrip("/").rpartition("/")[2]

    @property
    def parent(self) -> Place:
        """The folder that it lies in."""
        return Place(self.path.rstrip("/").rpartition("/")[0] or "/", self.root)

    @property
    def is_local(self) -> bool:
        """Whether it lies on this machine's file system."""
        return not self.root

    def entries(self, *, recursive: bool = False) -> list[Entry] | None:
        """What lies in the folder, by path; None: there is no such folder.

        Raises:
            BadData: it cannot be listed: no such bucket, no permission, no answer.
        """
        with reaching(str(self), "a folder that can be listed"):
            selector = fs.FileSelector(self.path, recursive=recursive)
            try:
                found = _file_system(self.root).get_file_info(selector)
            except (FileNotFoundError, NotADirectoryError):
                if self.root and "/" not in self.path.rstrip("/"):  # no such bucket
                    raise
                return None
        found.sort(key=lambda info: info.path)
        return [
            Entry(
                Place(info.path, self.root),
                info.type == fs.FileType.File,
                info.size or 0,
                info.mtime_ns or 0,
            )
            for info in found
        ]

    def open(self) -> Any:
        """The file, opened for reading at random; a ``pyarrow.NativeFile``."""
        return _file_system(self.root).open_input_file(self.path)

    def read(self) -> bytes:
        """The file's content; raises what the file system raises."""
        if self.is_local:
            with open(self.path, "rb") as file:
                return file.read()
        with _file_system(self.root).open_input_stream(self.path) as stream:
            content: bytes = stream.readall()
        return content


@dataclass(frozen=True)
class Entry:
    """What a folder holds: a file or a folder, the bytes of a file, and when it was changed."""

    place: Place
    is_file: bool
    size: int
    mtime_ns: int


def locate(name: str, where: str = "benchmark.dataset") -> Place:
    """The place that a person named; ``$VARIABLES`` and ``~`` are expanded.

    Raises:
        BadData: an environment variable that is not set, or an address of another kind.
    """
    text = os.path.expanduser(os.path.expandvars(name))
    missing = re.search(r"\$\{?(\w+)\}?", text)
    if missing:
        accepted = f"a path (the environment variable {missing[1]} is not set)"
        raise BadData(where, name, accepted)
    if "://" not in text:
        return Place(os.path.abspath(text))
    parts = urlsplit(text)
    if parts.scheme not in ("s3", "gs", "gcs") or not parts.netloc:
        raise BadData(where, name, "a local path, s3://bucket/… or gs://bucket/…")
    bucket = parts.netloc.rpartition("@")[2]
    query = f"?{parts.query}" if parts.query else ""
    return Place(f"{bucket}{parts.path}".rstrip("/"), f"{parts.scheme}://{parts.netloc}{query}")


@contextmanager
def reaching(where: str, accepted: str) -> Iterator[None]:
    """Turns what goes wrong between here and a file into one BadData.

    Args:
        where: the file or folder.
        accepted: what it should be.
    """
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        if "://" in where:
            accepted += ", in a bucket that exists, answers and lets these credentials read"
        raise BadData(where, reason(error), accepted) from None


def reason(error: Exception) -> str:
    """What an exception says, in one line that is not too long."""
    lines = str(error).strip().splitlines()
    text = f"{type(error).__name__}: {lines[0] if lines else ''}"
    return text if len(text) <= 300 else f"{text[:297]}..."


def digest(entries: Iterable[Entry]) -> dict[str, Any]:
    """Plain JSON that changes when files are added, removed or written anew."""
    state, count, size = hashlib.sha256(), 0, 0
    for entry in entries:
        state.update(f"{entry.place}\0{entry.size}\0{entry.mtime_ns}\n".encode())
        count, size = count + 1, size + entry.size
    return {"files": count, "bytes": size, "sha256": state.hexdigest()}


@functools.lru_cache(maxsize=32)
def _file_system(root: str) -> Any:
    """One connection per bucket and process."""
    if not root:
        return fs.LocalFileSystem()
    if not root.startswith("s3:") and "retry_limit_seconds" not in root:  # the default is minutes
        root += f"{'&' if '?' in root else '?'}retry_limit_seconds={RETRY_SECONDS}"
    return fs.FileSystem.from_uri(root)[0]
