"""Where and with what a job was started: ``provenance.json``, one entry for each start."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import clray
from clray.errors import BadData
from clray.store import Folder

FILE = "provenance.json"
PACKAGES = ("torch", "torchvision", "ray", "optuna", "numpy", "pyarrow", "timm")
PATIENCE = 5
"""Seconds that git and nvidia-smi are given."""

_SECRET = re.compile(r"(?<=://)[^/@\s]+@|(?<=[?&](?:access_key|secret_key)=)[^&\s]+")


def record_start(folder: Folder, command: Sequence[str], directory: Path | None = None) -> None:
    """Add a start to a job's ``provenance.json``. Nothing that goes wrong here ends a job.

    Args:
        folder: the job's.
        command: as it was given. What an address holds as a password is left out, and so are
            environment variables.
        directory: where the job's file lies; none: where we stand.
    """
    entry = start(command, directory or Path.cwd())
    with contextlib.suppress(OSError):  # where nothing can be written, the job itself says so
        folder.write_json(FILE, [*_before(folder), entry])


def start(command: Sequence[str], directory: Path) -> dict[str, Any]:
    """When, where and with which versions this is started.

    Args:
        command: as it was given.
        directory: whose git revision is told; clray's own is told too, where it is a checkout.
    """
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "clray": clray.__version__,
        "python": platform.python_version(),
        "versions": {name: found for name in PACKAGES if (found := _version(name))},
        "git": _git(directory),
        "clray_git": _git(Path(clray.__file__).parent),
        "machine": {
            "platform": platform.platform(),
            "cpus": len(os.sched_getaffinity(0))
            if hasattr(os, "sched_getaffinity")
            else os.cpu_count(),
            "memory": _memory(),
            "gpus": _gpus(),
        },
        "command": [_SECRET.sub("", argument) for argument in command],
    }


def _before(folder: Folder) -> list[Any]:
    """The starts so far; a damaged file is begun anew."""
    try:
        found = folder.read_json(FILE) if folder.has(FILE) else []
    except BadData:
        found = []
    return found if isinstance(found, list) else []


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _git(directory: Path) -> dict[str, Any] | None:
    """The revision that is checked out, and whether a tracked file differs from it."""
    status = ["status", "--porcelain=v2", "--branch", "--untracked-files=no"]
    found = _said("git", "--no-optional-locks", "-C", str(directory), *status)
    lines = (found or "").splitlines()
    [revision] = [line.split()[-1] for line in lines if line.startswith("# branch.oid ")] or [""]
    if not revision or revision == "(initial)":
        return None
    dirty = any(not line.startswith("#") for line in lines)
    return {"revision": revision, "dirty": dirty}


def _gpus() -> list[str]:
    found = _said("nvidia-smi", "--query-gpu=name", "--format=csv,noheader")
    return [line.strip() for line in (found or "").splitlines() if line.strip()]


def _memory() -> int | None:
    """Bytes of the machine's memory."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def _said(*command: str) -> str | None:
    """What a program prints; None where it is missing, fails or takes too long."""
    if shutil.which(command[0]) is None:
        return None
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout if done.returncode == 0 else None
