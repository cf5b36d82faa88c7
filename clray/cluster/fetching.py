"""Bringing a job's results home."""

from __future__ import annotations

import base64
import io
import sys
import tarfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

from clray.errors import BadData, RunFailed
from clray.store import Folder

HEAVY = ("checkpoint", "model.safetensors")
"""Files of a trial that stay where they are unless they are asked for."""
OWN = (".lock", "running/")
"""What of a job means something only there."""
BEGIN, END = "clray-files-begin", "clray-files-end"
MOST_BYTES = 500 * 1000**2
"""What may come home through the cluster's own log."""
AT_ONCE = 16


def paths_of(results: Folder, name: str, heavy: bool) -> Iterator[str]:
    """The files of a job and of its trials, by path below the results.

    Args:
        results: where they lie.
        name: of the job.
        heavy: whether checkpoints and models too.

    Raises:
        BadData: there is no such job.
    """
    job = results / "jobs" / name
    if not job.has("job.yaml"):
        raise BadData(job.uri, "no such job", "one that was started: nothing is stored of it yet")
    for path in job.files():
        if not path.startswith(OWN) and not path.endswith(".tmp"):
            yield f"jobs/{name}/{path}"
    keys = _keys(job)
    for path in (results / "trials").files():
        key, _, file = path.partition("/")
        if key in keys and (heavy or file not in HEAVY) and not path.endswith(".tmp"):
            yield f"trials/{path}"


def _keys(job: Folder) -> set[str]:
    """The keys of a job's runs: searches and tests."""
    keys: set[str] = set()
    if job.has("trials.jsonl"):
        for line in job.read_lines("trials.jsonl"):
            keys.update(line["keys"])
    if job.has("final.json"):
        for board in job.read_json("final.json")["boards"]:
            for row in board["rows"]:
                keys.update(row["test_keys"])
    return keys


def copy(source: str, target: str, name: str, heavy: bool, say: Callable[[int], None]) -> int:
    """Copy a job's results from an address that this machine can read; how many files were new.

    A file that is there already with the same size, and that never changes, is not read again.

    Args:
        source: results on the cluster.
        target: results here.
        name: of the job.
        heavy: whether checkpoints and models too.
        say: is told how many files were copied.

    Raises:
        BadData: there is no such job, or it cannot be read.
    """
    there, here = Folder(source), Folder(target)
    sizes = there.files()
    have = here.files()
    wanted = [
        path
        for path in paths_of(there, name, heavy)
        if path.startswith("jobs/") or have.get(path) != sizes.get(path)
    ]

    def one(path: str) -> None:
        here.write(path, there.read(path))

    with ThreadPoolExecutor(AT_ONCE) as pool:
        for number, _ in enumerate(pool.map(one, wanted), 1):
            say(number)
    return len(wanted)


def unpack(log: str, target: str) -> int:
    """Write the files that a log holds (see ``main``) below a folder; how many.

    Raises:
        RunFailed: the log holds none, or not all.
    """
    lines = log.splitlines()
    if BEGIN not in lines or END not in lines:
        told = [line for line in lines if line.startswith("clray: error: ")]
        reason = told[-1].removeprefix("clray: error: ") if told else "its log ends early"
        raise RunFailed(f"the results could not be read on the cluster: {reason}")
    text = "".join(lines[lines.index(BEGIN) + 1 : lines.index(END)])
    here = Folder(target)
    count = 0
    with tarfile.open(fileobj=io.BytesIO(base64.b64decode(text)), mode="r:xz") as archive:
        for member in archive:
            content = archive.extractfile(member)
            if content is None or ".." in member.name or member.name.startswith("/"):
                raise RunFailed(f"the cluster sent a file that is none: {member.name}")
            here.write(member.name, content.read())
            count += 1
    return count


def main(arguments: list[str]) -> int:
    """Print a job's files, packed, as text: ``python -m clray.cluster.fetching RESULTS NAME
    [--heavy]``, run on the cluster where only its machines see the results."""
    from clray.errors import ClrayError

    results, name, *others = arguments
    target = io.BytesIO()
    total = 0
    try:
        folder = Folder(results)
        with tarfile.open(fileobj=target, mode="w:xz") as archive:
            for path in paths_of(folder, name, "--heavy" in others):
                content = folder.read(path)
                total += len(content)
                if total > MOST_BYTES:
                    raise BadData(results, f"over {MOST_BYTES / 1e6:.0f} MB", "a bucket")
                entry = tarfile.TarInfo(path)
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))
    except ClrayError as error:
        print(f"clray: error: {error}")
        return error.exit_code
    print(BEGIN)
    text = base64.b64encode(target.getvalue()).decode()
    for start in range(0, len(text), 10_000):
        print(text[start : start + 10_000])
    print(END)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
