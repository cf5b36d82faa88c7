"""The folder of datasets that are looked for on this machine, and how they get there."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from clray.errors import BadData
from clray.streams.locations import Place, reason

T = TypeVar("T")


def cache_folder() -> Path:
    """Where datasets are looked for and downloaded to."""
    return Path(os.environ.get("CLRAY_DATA_CACHE") or "~/.cache/clray").expanduser().absolute()


def placed(name: str, layout: str) -> Place:
    """The folder of a dataset that a person must put there.

    Args:
        layout: what lies in it, for the error.

    Raises:
        BadData: it is not there.
    """
    folder = Place(str(cache_folder())) / name
    if folder.entries():
        return folder
    accepted = (
        f"files in {folder}: {layout} (the folder that holds it is $CLRAY_DATA_CACHE, or "
        "~/.cache/clray); they are not downloaded"
    )
    raise BadData(f"benchmark.dataset: {name}", "not found", accepted)


def find_or_download(name: str, open_in: Callable[[Path, bool], T]) -> T:
    """A dataset of torchvision from its folder in the cache, or from the cache itself, or
    downloaded to its folder.

    Args:
        name: of the dataset.
        open_in: opens it in a folder, or downloads it there first; raises FileNotFoundError, or
            anything that says ``not found``, where it is missing.

    Raises:
        BadData: it is neither there nor can be had, or the files are damaged.
    """
    root = cache_folder()
    own = root / "torchvision" / name.replace("/", "-")
    for folder in (own, root):
        try:
            return open_in(folder, False)
        except Exception as error:  # torchvision raises as it finds the files
            missing = isinstance(error, FileNotFoundError) or "not found" in str(error)
            if not missing or (folder == own and own.exists()):
                raise _damaged(name, folder, error) from None
    return _download(name, own, root, open_in)


def _download(name: str, own: Path, root: Path, open_in: Callable[[Path, bool], T]) -> T:
    """Downloads beside the final folder and renames, so that half a dataset is never found."""
    fresh = None
    try:
        own.parent.mkdir(parents=True, exist_ok=True)
        fresh = Path(tempfile.mkdtemp(prefix=f".{own.name}-", dir=own.parent))
        # torchvision prints while it downloads; stdout belongs to the program's own results.
        with contextlib.redirect_stdout(sys.stderr):
            open_in(fresh, True)
        with contextlib.suppress(OSError):  # another process was first: its copy is as good
            fresh.rename(own)
        return open_in(own, False)
    except Exception as error:  # no network, a server's refusal, a full disk, a checksum
        given = f"not found, and the download failed ({reason(error)})"
        accepted = (
            f"files in {own} or {root} (the folder is $CLRAY_DATA_CACHE, or ~/.cache/clray), "
            "or a network to download them; copy that folder from a machine that has one"
        )
        raise BadData(f"benchmark.dataset: torchvision/{name}", given, accepted) from None
    finally:
        if fresh is not None:
            shutil.rmtree(fresh, ignore_errors=True)


def _damaged(name: str, folder: Path, error: Exception) -> BadData:
    given = f"files that cannot be read ({reason(error)})"
    accepted = "whole files; remove the folder to have them downloaded again"
    return BadData(f"{folder}: torchvision/{name}", given, accepted)
