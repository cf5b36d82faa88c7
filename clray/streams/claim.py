"""A folder that a stream is to be written to: free, begun or done; nothing is overwritten."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from clray.errors import BadData
from clray.store import Folder
from clray.streams.manifest import BUILDING, NAME, Manifest, read_manifest, unreachable

TO = "--to"
PLAN = f"{BUILDING}/plan.json"
"""What is being written, as long as it is not whole."""


def claim(folder: Folder, plan: dict[str, Any]) -> Manifest | None:
    """Make sure that a folder is free for what is planned; the manifest if it holds that already.

    Args:
        folder: local or not.
        plan: with ``source_hash``, which tells one stream from another.

    Raises:
        BadData: the folder holds something else, or cannot be read.
    """
    with writing_to(folder):
        if folder.has(NAME):
            manifest = read_manifest(folder.uri, TO)
            if manifest.source_hash != plan["source_hash"]:
                accepted = "a new folder, or the one of this very stream: nothing is overwritten"
                raise BadData(TO, f"{folder.uri}, which holds another stream", accepted)
            return manifest
        if folder.has(PLAN):
            if folder.read_json(PLAN)["source_hash"] != plan["source_hash"]:
                given = f"{folder.uri}, which holds a part of another stream"
                raise BadData(TO, given, "a new folder, or the same command to go on with")
        elif others := [name for name in folder.names() if name != BUILDING]:
            given = f"{folder.uri}, which holds {others[0]}"
            raise BadData(TO, given, "an empty or a new folder: nothing is overwritten")
    return None


def begin(folder: Folder, plan: dict[str, Any]) -> None:
    """Say in a folder that is free what is being written to it.

    Raises:
        BadData: it cannot be written to.
    """
    with writing_to(folder):
        if not folder.has(PLAN):
            folder.write_json(PLAN, plan)


def end(folder: Folder) -> None:
    """Remove what only a stream that is not whole needs.

    Raises:
        BadData: the folder cannot be written to.
    """
    with writing_to(folder):
        folder.delete_folder(BUILDING)


@contextmanager
def writing_to(folder: Folder) -> Iterator[None]:
    """Inside, what the file system refuses is bad input.

    Raises:
        BadData: it refused.
    """
    try:
        yield
    except OSError as error:
        raise unreachable(TO, folder.uri, error) from None
