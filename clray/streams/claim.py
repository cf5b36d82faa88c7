"""A folder that something is to be written to: free, begun or done."""

from __future__ import annotations

from typing import Any

from clray.errors import BadData
from clray.store import Folder
from clray.streams.manifest import BUILDING, NAME, Manifest, read_manifest, unreachable

TO = "--to"


def claim(folder: Folder, plan: dict[str, Any]) -> Manifest | None:
    """Make sure that a folder is free for what is planned; the manifest if it holds that already.

    Args:
        folder: local or not.
        plan: with ``source_hash``, which tells one stream from another.

    Raises:
        BadData: the folder holds something else, or cannot be read or written.
    """
    try:
        names = folder.names()
        if NAME in names:
            manifest = read_manifest(folder.uri, TO)
            if manifest.source_hash != plan["source_hash"]:
                accepted = "a new folder, or the one of this very stream: nothing is overwritten"
                raise BadData(TO, f"{folder.uri}, which holds another stream", accepted)
            if BUILDING in names:  # killed between the manifest and the end
                folder.delete_folder(BUILDING)
            return manifest
        begun = folder / BUILDING
        if begun.has("plan.json"):
            if begun.read_json("plan.json")["source_hash"] != plan["source_hash"]:
                given = f"{folder.uri}, where the build of another stream has begun"
                raise BadData(TO, given, "a new folder, or the same build to go on with")
        elif names:
            given = f"{folder.uri}, which holds {names[0]}"
            raise BadData(TO, given, "an empty or a new folder: nothing is overwritten")
        else:
            begun.write_json("plan.json", plan)
    except OSError as error:
        raise unreachable(TO, folder.uri, error) from None
    return None
