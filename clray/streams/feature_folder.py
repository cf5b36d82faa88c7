"""Where features are written: what stands in the folder before, during and after the pass.

::

    <to>/_building/plan.json            what is being computed
    <to>/_building/<shard's path>.json  of each shard that is written, after it
    <to>/manifest.json                  last; ``_building`` is removed then
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from pyarrow import fs

import clray
from clray.errors import BadSpec
from clray.store import Folder
from clray.streams.manifest import (
    BUILDING,
    FORMAT,
    NAME,
    SPLITS,
    Manifest,
    Shard,
    digest,
    read_manifest,
    unreachable,
    write_manifest,
)
from clray.streams.shards import rows_per_block

PLAN = f"{BUILDING}/plan.json"


@dataclass(frozen=True)
class FeatureFolder:
    """The folder of the features of one stream by one encoder.

    Attributes:
        folder: where it lies.
        uri: address of the stream of images.
        images: its manifest.
        described: what the features' manifest says of their origin; two that say the same are the
            same.
    """

    folder: Folder
    uri: str
    images: Manifest
    described: dict[str, Any]

    def whole(self) -> Manifest | None:
        """The manifest of the features, if they are there; None if nothing is, or a part of them.

        Raises:
            BadInput: anything else is there, or the place is out of reach.
        """
        accepted = "an empty folder, or one with these very features"
        with writing_to(self.folder):
            if self.folder.has(NAME):
                found = read_manifest(self.folder.uri, "to")
                if found.encoder != self.described:
                    what = "other features" if found.encoder else "another stream"
                    raise BadSpec("to", f"{self.folder.uri} (which holds {what})", accepted)
                return found
            if self.folder.has(PLAN):
                if self.folder.read_json(PLAN) != self.described:
                    given = f"{self.folder.uri} (which holds a part of something else)"
                    raise BadSpec("to", given, accepted)
            elif others := [name for name in self.folder.names() if name != BUILDING]:
                raise BadSpec("to", f"{self.folder.uri} (which holds {others[0]})", accepted)
            return None

    def begin(self) -> dict[str, Shard]:
        """Write the plan; the shards of features that are there already, by path.

        Raises:
            BadData: the place cannot be written to.
        """
        with writing_to(self.folder):
            if not self.folder.has(PLAN):
                self.folder.write_json(PLAN, self.described)
                return {}
            paths = [shard.path for task in self.images.tasks for shard in task.shards()]
            return {
                path: Shard.model_validate(self.folder.read_json(record_of(path)))
                for path in paths
                if self.folder.has(record_of(path)) and self.folder.has(path)
            }

    def finish(self, written: dict[str, Shard], width: int) -> Manifest:
        """Make the folder a whole stream.

        Args:
            written: all shards of features, by path.
            width: D, how many features an image has.

        Raises:
            BadData: the place cannot be written to.
        """
        tasks = tuple(
            task.model_copy(
                update={
                    split: tuple(written[shard.path] for shard in task.shards([split]))
                    for split in SPLITS
                }
            )
            for task in self.images.tasks
        )
        source = {"stream": self.uri, "encoder": self.described}
        update = {
            "format": FORMAT,
            "version": clray.__version__,
            "source": source,
            "source_hash": digest(source),
            "shape": (width, 1, 1),
            "dtype": self.described["dtype"],
            "mean": (),
            "std": (),
            "augment": "none",
            "skipped": {},
            "encoder": self.described,
            "tasks": tasks,
        }
        features = self.images.model_copy(update=update)
        block_rows = rows_per_block(features.row_bytes)
        features = features.model_copy(update={"block_rows": block_rows})
        with writing_to(self.folder):
            write_manifest(self.folder, features)
        return features

    def sweep_up(self) -> None:
        """Remove what only a pass that has not finished needs, and what killed ones left.

        Raises:
            BadData: the place cannot be written to.
        """
        with writing_to(self.folder):
            system, path = fs.FileSystem.from_uri((self.folder / BUILDING).uri)
            if system.get_file_info(path).type != fs.FileType.Directory:
                return
            shards = [shard for task in self.images.tasks for shard in task.shards()]
            for name in {shard.path.rpartition("/")[0] for shard in shards}:
                (self.folder / name).sweep_up()
            system.delete_dir(path)


def record_of(path: str) -> str:
    """Where the record of a shard of that path lies, below the folder."""
    return f"{BUILDING}/{path}.json"


@contextmanager
def writing_to(folder: Folder) -> Iterator[None]:
    """Inside, what the file system refuses is bad input.

    Raises:
        BadData: it refused.
    """
    try:
        yield
    except OSError as error:
        raise unreachable("to", folder.uri, error) from None
