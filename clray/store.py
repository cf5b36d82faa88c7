"""Where results lie: local folders, ``s3://`` and ``gs://`` alike. Every write is all or nothing.

::

    <results>/trials/<key>/   spec.json, records.jsonl, result.json, timing.json, checkpoint,
                              model.safetensors, error.txt
    <results>/jobs/<name>/    job.yaml, provenance.json, trials.jsonl, optuna.log, leaderboard.json,
                              final.json

``result.json`` is written last: a trial that has one has ended. What depends on the clock stands
in ``timing.json`` alone, so that all the rest is a function of the spec.
"""

from __future__ import annotations

import json
import os
import uuid
from pathlib import Path
from typing import Any

from pyarrow import ArrowInvalid, NativeFile, fs

from clray.errors import BadData, BadInput

GCS_RETRY_SECONDS = 10
"""How long Google's client tries again where nothing answers; its own choice is 15 minutes.
Amazon's gives up after 6 seconds."""


class Folder:
    """A folder of small files.

    Args:
        uri: a local path, or ``s3://bucket/path`` and the like.
        where: names the address in an error.

    Raises:
        BadInput: an address that cannot be understood.
    """

    def __init__(self, uri: str, where: str = "results") -> None:
        if not uri:
            raise BadInput(where, uri, "a folder, s3://… or gs://…")
        self.uri = uri if "://" in uri else str(Path(uri).resolve())
        try:
            self._fs, self._path = fs.FileSystem.from_uri(_impatient(self.uri))
        except (ArrowInvalid, OSError) as error:
            reason = str(error).partition("\n")[0]
            raise BadInput(where, uri, f"a folder, s3://… or gs://… ({reason})") from None
        if not self._path:
            raise BadInput(where, uri, "a folder, s3://… or gs://… with the name of a bucket")
        if self.is_local and Path(self._path).is_file():
            raise BadInput(where, uri, "a folder, not a file")

    @property
    def is_local(self) -> bool:
        """Whether the files lie on this machine's file system."""
        return isinstance(self._fs, fs.LocalFileSystem)

    def __truediv__(self, name: str) -> Folder:
        path, mark, options = self.uri.partition("?") if "://" in self.uri else (self.uri, "", "")
        return Folder(f"{path.rstrip('/')}/{name}{mark}{options}")

    def beside(self, name: str) -> Folder:
        """The folder of that name next to this one."""
        path, mark, options = self.uri.partition("?") if "://" in self.uri else (self.uri, "", "")
        return Folder(f"{path.rstrip('/').rpartition('/')[0]}/{name}{mark}{options}")

    def _at(self, name: str) -> str:
        return f"{self._path.rstrip('/')}/{name}"

    def has(self, name: str) -> bool:
        """Whether there is a file of that name."""
        return bool(self._fs.get_file_info(self._at(name)).type == fs.FileType.File)

    def names(self) -> list[str]:
        """The names of what lies here, sorted; empty when the folder does not exist."""
        selector = fs.FileSelector(self._path, allow_not_found=True)
        return sorted(info.base_name for info in self._fs.get_file_info(selector))

    def files(self, below: str = "") -> dict[str, int]:
        """The size of every file at any depth below a name here, by path from here; sorted."""
        path = self._at(below).rstrip("/")
        found = self._fs.get_file_info(fs.FileSelector(path, recursive=True, allow_not_found=True))
        start = len(self._at(""))
        return {
            info.path[start:]: info.size
            for info in sorted(found, key=lambda info: info.path)
            if info.type == fs.FileType.File
        }

    def write(self, name: str, content: bytes | memoryview) -> None:
        """Replace the file at once: a reader sees the old content or the new, never a part."""
        if not self.is_local:  # an object appears when its stream is closed
            with self._fs.open_output_stream(self._at(name)) as stream:
                stream.write(content)
            return
        Path(self._at(name)).parent.mkdir(parents=True, exist_ok=True)
        beside = f"{self._at(name)}.{uuid.uuid4().hex[:8]}.tmp"
        try:
            with open(beside, "wb") as file:
                file.write(content)
            os.replace(beside, self._at(name))
        except BaseException:
            Path(beside).unlink(missing_ok=True)
            raise

    def read(self, name: str) -> bytes:
        """The file's content.

        Raises:
            FileNotFoundError: there is none.
        """
        with self._fs.open_input_stream(self._at(name)) as stream:
            content: bytes = stream.readall()
        return content

    def open(self, name: str) -> NativeFile:
        """The file, to be read in any order.

        Raises:
            FileNotFoundError: there is none.
        """
        return self._fs.open_input_file(self._at(name))

    def delete(self, name: str) -> None:
        """Remove the file if there is one."""
        if self.has(name):
            self._fs.delete_file(self._at(name))

    def delete_folder(self, name: str) -> None:
        """Remove a folder below this one, with all that it holds, if there is one."""
        if self._fs.get_file_info(self._at(name)).type == fs.FileType.Directory:
            self._fs.delete_dir(self._at(name))

    def write_json(self, name: str, value: Any) -> None:
        """Write one JSON value, for people: indented, keys in the order given."""
        self.write(name, (json.dumps(value, indent=1, allow_nan=False) + "\n").encode())

    def read_json(self, name: str) -> Any:
        """Read one JSON value.

        Raises:
            BadData: the file is damaged.
        """
        try:
            return json.loads(self.read(name))
        except ValueError:
            raise BadData(
                f"{self.uri}/{name}", "damaged content", "JSON as clray wrote it"
            ) from None

    def write_lines(self, name: str, values: list[Any]) -> None:
        """Write one JSON value a line."""
        self.write(name, "".join(json.dumps(v, allow_nan=False) + "\n" for v in values).encode())

    def read_lines(self, name: str) -> list[Any]:
        """Read one JSON value a line.

        Raises:
            BadData: the file is damaged.
        """
        try:
            return [json.loads(line) for line in self.read(name).splitlines()]
        except ValueError:
            text = "one JSON value a line as clray wrote it"
            raise BadData(f"{self.uri}/{name}", "damaged content", text) from None

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


def _impatient(uri: str) -> str:
    """The address, with a limit to retries where the client would outlast a person."""
    if not uri.startswith(("gs://", "gcs://")) or "retry_limit_seconds" in uri:
        return uri
    return f"{uri}{'&' if '?' in uri else '?'}retry_limit_seconds={GCS_RETRY_SECONDS}"
