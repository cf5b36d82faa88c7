"""Whether the files of a stored stream are those that its build wrote."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import dataclass
from itertools import islice

import pyarrow as pa
import pyarrow.parquet as pq

from clray.errors import BadInput
from clray.events import Progressed, Watch, ignore
from clray.spec import PIN
from clray.store import Folder
from clray.streams.manifest import Manifest, Shard, unreachable

PIECE = 1 << 20
"""Bytes that a thread reads and hashes at once."""
WAITING = 16
"""Threads for an object store, where most of the time goes into waiting."""
SHA_DIGITS = 12
"""So many digits of a checksum tell two files apart for a person."""


@dataclass(frozen=True)
class Fault:
    """Something that is not as the manifest says.

    Attributes:
        path: of the file, below the stream's folder.
        found: what is there.
        expected: what the manifest says.
    """

    path: str
    found: str
    expected: str


def check(
    uri: str, manifest: Manifest, tasks: Sequence[int] | None = None, watch: Watch = ignore
) -> list[Fault]:
    """Read every file of a stream, and look for others that a Parquet reader would take for one.

    Args:
        uri: the stream's address.
        manifest: of the stream.
        tasks: positions of the tasks to check; None: all.
        watch: is told how many files were read.

    Returns:
        What is wrong, by path: one fault at most for each file.

    Raises:
        BadInput: a task that there is not, or a folder that cannot be listed.
    """
    address = uri.partition(PIN)[0]
    shards = shards_of(manifest, tasks)
    folder = Folder(address, "stream")
    try:
        below = [""] if tasks is None else [f"task={task:03d}" for task in sorted(set(tasks))]
        sizes = {path: size for name in below for path, size in folder.files(name).items()}
    except OSError as error:
        raise unreachable("stream", address, error) from None
    faults = [fault for fault in _read_all(folder, shards, sizes, watch) if fault is not None]
    known = {shard.path for shard in shards}
    foreign = [
        Fault(path, f"{size:,} bytes", "no such file")
        for path, size in sizes.items()
        if path.startswith("task=") and path.endswith(".parquet") and path not in known
    ]
    return sorted(faults + foreign, key=lambda fault: fault.path)


def shards_of(manifest: Manifest, tasks: Sequence[int] | None) -> list[Shard]:
    """The files of some tasks by their positions, or of all.

    Raises:
        BadInput: there is no such task.
    """
    positions = range(len(manifest.tasks))
    wrong = [task for task in tasks or () if task not in positions]
    if wrong:
        raise BadInput("task", wrong[0], f"0 to {len(positions) - 1}")
    chosen = positions if tasks is None else sorted(set(tasks))
    return [shard for position in chosen for shard in manifest.tasks[position].shards()]


def _read_all(
    folder: Folder, shards: Sequence[Shard], sizes: dict[str, int], watch: Watch
) -> Iterator[Fault | None]:
    threads = (os.cpu_count() or 1) if folder.is_local else WAITING
    waiting = iter(shards)
    done = 0
    with ThreadPoolExecutor(threads) as pool:
        running = {pool.submit(_look, folder, s, sizes) for s in islice(waiting, 2 * threads)}
        try:
            while running:
                ended, running = wait(running, return_when=FIRST_COMPLETED)
                more = islice(waiting, len(ended))
                running |= {pool.submit(_look, folder, shard, sizes) for shard in more}
                done += len(ended)
                watch(Progressed("shards", done, len(shards)))
                for future in ended:
                    yield future.result()
        finally:
            for future in running:
                future.cancel()


def _look(folder: Folder, shard: Shard, sizes: dict[str, int]) -> Fault | None:
    if shard.path not in sizes:
        return Fault(shard.path, "no such file", f"{shard.bytes:,} bytes")
    if sizes[shard.path] != shard.bytes:
        return Fault(shard.path, f"{sizes[shard.path]:,} bytes", f"{shard.bytes:,} bytes")
    try:
        sha256 = _sha256(folder, shard.path)
        if sha256 != shard.sha256:
            return Fault(shard.path, _short(sha256), _short(shard.sha256))
        rows = pq.read_metadata(folder.open(shard.path)).num_rows
    except (pa.ArrowException, OSError) as error:
        reason = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
        return Fault(shard.path, reason[:200], "a file that can be read")
    if rows != shard.rows:
        return Fault(shard.path, f"{rows:,} rows", f"{shard.rows:,} rows")
    return None


def _sha256(folder: Folder, path: str) -> str:
    found = hashlib.sha256()
    with folder.open(path) as file:
        while piece := file.read(PIECE):
            found.update(piece)
    return found.hexdigest()


def _short(sha256: str) -> str:
    return f"sha256 {sha256[:SHA_DIGITS]}…"
