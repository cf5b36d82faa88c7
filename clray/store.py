"""Where results lie: local folders, ``s3://`` and ``gs://`` alike. Every write is all or nothing.

::

    <results>/trials/<key>/   spec.json, records.jsonl, result.json, timing.json, checkpoint,
                              learned, model.safetensors, error.txt
    <results>/jobs/<name>/    job.yaml, provenance.json, trials.jsonl, optuna.log, leaderboard.json,
                              final.json

``result.json`` is written last: a trial that has one has ended. What depends on the clock stands
in ``timing.json`` alone, so that all the rest is a function of the spec.
"""

from __future__ import annotations

import functools
import json
import os
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from pyarrow import ArrowInvalid, NativeFile, fs

from clray import addresses
from clray.connections import connect, uploader
from clray.errors import BadData, BadInput, StorageFailed
from clray.outages import asking, without_secrets

READINGS = 3
"""Times that a file of an object store is read, if it does not come whole: a reader learns a file's
size first, and a writer may replace it meanwhile."""

Result = TypeVar("Result")


class Folder:
    """A folder of small files.

    Args:
        uri: a local path, or ``s3://bucket/path`` and the like; credentials come from the
            environment, never from an address.
        where: names the address in an error.

    Raises:
        BadInput: an address that cannot be understood, or that holds credentials.
    """

    def __init__(self, uri: str, where: str = "results") -> None:
        addresses.checked(uri, where)
        self.uri = uri if "://" in uri else str(Path(uri).resolve())
        try:
            self._fs, self._path = connect(self.uri)
        except (ArrowInvalid, OSError) as error:
            reason = without_secrets(str(error)).partition("\n")[0]
            given = addresses.shown(uri)
            raise BadInput(where, given, f"{addresses.ACCEPTED} ({reason})") from None
        if self.is_local and Path(self._path).is_file():
            raise BadInput(where, uri, "a folder, not a file")
        self._root = "" if self.is_local else addresses.root(self.uri)

    @property
    def is_local(self) -> bool:
        """Whether the files lie on this machine's file system."""
        return isinstance(self._fs, fs.LocalFileSystem)

    def __truediv__(self, name: str) -> Folder:
        return self._moved(addresses.below(self.uri, name), self._at(name))

    def beside(self, name: str) -> Folder:
        """The folder of that name next to this one."""
        above = self._path.rstrip("/").rpartition("/")[0]
        return self._moved(addresses.below(addresses.above(self.uri), name), f"{above}/{name}")

    def _moved(self, uri: str, path: str) -> Folder:
        """Another folder on the same connection."""
        folder = object.__new__(Folder)
        folder.uri, folder._path = uri, path
        folder._fs, folder._root = self._fs, self._root
        return folder

    def _asking(
        self, name: str, doing: str, call: Callable[[], Result], patient: bool = True
    ) -> Result:
        where = addresses.shown(addresses.below(self.uri, name) if name else self.uri)
        return asking(self._root, where, doing, call, self._list, patient)

    def _list(self) -> list[fs.FileInfo]:
        found: list[fs.FileInfo] = self._fs.get_file_info(
            fs.FileSelector(self._path, allow_not_found=True)
        )
        return found

    def _at(self, name: str) -> str:
        return f"{self._path.rstrip('/')}/{name}"

    # What the file system refuses is a StorageFailed in each of the following.

    def has(self, name: str) -> bool:
        """Whether there is a file of that name."""
        info = self._asking(name, "read", lambda: self._fs.get_file_info(self._at(name)))
        return bool(info.type == fs.FileType.File)

    def names(self) -> list[str]:
        """The names of what lies here, sorted; empty when the folder does not exist."""
        return sorted(self.ages())

    def ages(self) -> dict[str, float]:
        """When each of what lies here was written, in seconds by the clock of the storage."""
        found = self._asking("", "listed", self._list)
        return {info.base_name: (info.mtime_ns or 0) / 1e9 for info in found}

    def files(self, below: str = "") -> dict[str, int]:
        """The size of every file at any depth below a name here, by path from here; sorted."""
        path = self._at(below).rstrip("/")
        selector = fs.FileSelector(path, recursive=True, allow_not_found=True)
        found = self._asking(below, "listed", lambda: self._fs.get_file_info(selector))
        start = len(self._at(""))
        return {
            info.path[start:]: info.size
            for info in sorted(found, key=lambda info: info.path)
            if info.type == fs.FileType.File
        }

    def write(self, name: str, content: bytes | memoryview, patient: bool = True) -> None:
        """Replace the file at once: a reader sees the old content or the new, never a part.

        Args:
            name: of the file.
            content: all of it.
            patient: whether a fault that may pass is waited for.
        """
        put = self._write_here if self.is_local else self._upload
        try:
            self._asking(name, "written", lambda: put(self._at(name), content), patient)
        except FileNotFoundError:
            where = addresses.shown(addresses.below(self.uri, name))
            raise StorageFailed(where, "cannot be written: no such place", "create it") from None

    def _write_here(self, path: str, content: bytes | memoryview) -> None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        beside = f"{path}.{uuid.uuid4().hex[:8]}.tmp"
        try:
            with open(beside, "wb") as file:
                file.write(content)
            os.replace(beside, path)
        except BaseException:
            Path(beside).unlink(missing_ok=True)
            raise

    def _upload(self, path: str, content: bytes | memoryview) -> None:
        """Write to an object store, where closing a stream publishes what it holds: in a thread of
        its own, so that no Ctrl-C can close it before it has everything."""

        def upload() -> None:
            stream = self._fs.open_output_stream(path)
            stream.write(content)
            stream.close()

        uploader().submit(upload).result()

    def read(self, name: str) -> bytes:
        """The file's content.

        Raises:
            FileNotFoundError: there is none.
        """

        def read() -> bytes:
            with self._fs.open_input_stream(self._at(name)) as stream:
                content: bytes = stream.readall()
            return content

        return self._asking(name, "read", read)

    def find(self, name: str) -> bytes | None:
        """The file's content, or None where there is none: fewer requests than ``has`` and
        ``read``, and nobody can delete it in between."""
        try:
            return self.read(name)
        except FileNotFoundError:
            return None

    def open(self, name: str) -> NativeFile:
        """The file, to be read in any order.

        Raises:
            FileNotFoundError: there is none.
        """
        return self._asking(name, "read", lambda: self._fs.open_input_file(self._at(name)))

    def delete(self, name: str, patient: bool = True) -> None:
        """Remove the file if there is one."""
        call = functools.partial(self._fs.delete_file, self._at(name))
        try:
            self._asking(name, "deleted", call, patient)
        except FileNotFoundError:
            return

    def delete_folder(self, name: str) -> None:
        """Remove a folder below this one, with all that it holds, if there is one."""

        def delete() -> None:
            if self._fs.get_file_info(self._at(name)).type == fs.FileType.Directory:
                self._fs.delete_dir(self._at(name))

        self._asking(name, "deleted", delete)

    def write_json(self, name: str, value: Any) -> None:
        """Write one JSON value, for people: indented, keys in the order given."""
        self.write(name, (json.dumps(value, indent=1, allow_nan=False) + "\n").encode())

    def read_json(self, name: str) -> Any:
        """Read one JSON value.

        Raises:
            FileNotFoundError: there is none.
            BadData: the file is damaged.
        """
        return self._parsed(name, json.loads, "JSON as clray wrote it")

    def find_json(self, name: str) -> Any:
        """The JSON value in a file, or None where there is none.

        Raises:
            BadData: the file is damaged.
        """
        try:
            return self.read_json(name)
        except FileNotFoundError:
            return None

    def _parsed(self, name: str, parse: Callable[[bytes], Result], accepted: str) -> Result:
        for reading in range(READINGS):
            try:
                return parse(self.read(name))
            except ValueError:
                if self.is_local:
                    break
                time.sleep(0.2 * reading)
        where = addresses.shown(addresses.below(self.uri, name))
        raise BadData(where, "damaged content", accepted)

    def write_lines(self, name: str, values: list[Any]) -> None:
        """Write one JSON value a line."""
        self.write(name, "".join(json.dumps(v, allow_nan=False) + "\n" for v in values).encode())

    def read_lines(self, name: str) -> list[Any]:
        """Read one JSON value a line.

        Raises:
            FileNotFoundError: there is none.
            BadData: the file is damaged.
        """

        def parse(content: bytes) -> list[Any]:
            return [json.loads(line) for line in content.splitlines()]

        return self._parsed(name, parse, "one JSON value a line as clray wrote it")

    def find_lines(self, name: str) -> list[Any]:
        """The JSON values in a file, line by line; none where there is no file.

        Raises:
            BadData: the file is damaged.
        """
        try:
            return self.read_lines(name)
        except FileNotFoundError:
            return []

    def sweep_up(self) -> None:
        """Remove what writers that were killed left beside the files."""
        if self.is_local:
            for name in self.names():
                if name.endswith(".tmp"):
                    Path(self._at(name)).unlink(missing_ok=True)


def trial_folder(results: str, key: str) -> Folder:
    """Where the trial of that key lies."""
    return Folder(results) / "trials" / key


def job_folder(results: str, name: str) -> Folder:
    """Where the job of that name lies."""
    return Folder(results) / "jobs" / name


def check_writable(results: str, where: str = "results") -> None:
    """Write and delete a file where results are to lie, so that nothing starts in vain; of a local
    folder, only ask whether that may be done.

    Raises:
        BadInput: it cannot be done.
    """
    folder = Folder(results, where)
    accepted = "a folder or bucket that this machine can list, write to and delete from"
    if folder.is_local:
        path = Path(folder.uri.removeprefix("file://"))
        there = next(one for one in (path, *path.parents) if one.exists())
        reason = "" if there.is_dir() else f"{there} is a file"
        if not reason and not os.access(there, os.R_OK | os.W_OK | os.X_OK):
            reason = f"no permission in {there}"
        if reason:
            raise BadInput(where, results, f"a folder that can be written ({reason})")
        return
    name = f".probe-{uuid.uuid4().hex[:8]}"
    try:
        folder.names()
        folder.write(name, b"may clray write here?\n")
        folder.delete(name)
    except StorageFailed as error:
        happened = f"{error.happened}; {error.advice}"
        raise BadInput(where, f"{addresses.shown(results)} ({happened})", accepted) from None
