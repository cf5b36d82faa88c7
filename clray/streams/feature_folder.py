"""Where features are written: what stands in the folder before, during and after the pass.

::

    <to>/_building/plan.json            what is being computed
    <to>/_building/<shard's path>.json  of each shard that is written, after it
    <to>/manifest.json                  last; ``_building`` is removed then
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import clray
from clray.store import Folder
from clray.streams.claim import begin, claim, end, writing_to
from clray.streams.layout import ImageShape
from clray.streams.manifest import (
    BUILDING,
    FORMAT,
    SPLITS,
    Manifest,
    Shard,
    digest,
    write_manifest,
)
from clray.streams.shards import rows_per_block


@dataclass(frozen=True)
class FeatureFolder:
    """The folder of the features of one stream by one encoder.

    Attributes:
        folder: where it lies.
        uri: address of the stream of images.
        images: its manifest; its examples may be texts.
        described: what the features' manifest says of their origin; two that say the same are the
            same.
    """

    folder: Folder
    uri: str
    images: Manifest
    described: dict[str, Any]

    @property
    def plan(self) -> dict[str, Any]:
        """What is being computed, and its hash."""
        source = {"stream": self.uri, "encoder": self.described}
        return {"source": source, "source_hash": digest(self.described)}

    def whole(self) -> Manifest | None:
        """The manifest of the features, if they are there; None if nothing is, or a part of them.

        Raises:
            BadData: anything else is there, or the place is out of reach.
        """
        return claim(self.folder, self.plan)

    def begin(self) -> dict[str, list[Shard]]:
        """Write the plan; the shards of features that are there already, by the path of what they
        are made of.

        Raises:
            BadData: the place cannot be written to.
        """
        begin(self.folder, self.plan)
        with writing_to(self.folder):
            paths = [shard.path for task in self.images.tasks for shard in task.shards()]
            recorded = [path for path in paths if self.folder.has(record_of(path))]
            found = {path: self._recorded(path) for path in recorded}
            return {
                path: shards
                for path, shards in found.items()
                if all(self.folder.has(shard.path) for shard in shards)
            }

    def finish(self, written: dict[str, list[Shard]], shape: ImageShape) -> Manifest:
        """Make the folder a whole stream.

        Args:
            written: all shards of features, by the path of what they are made of.
            shape: of the features of an example.

        Raises:
            BadData: the place cannot be written to.
        """
        tasks = tuple(
            task.model_copy(
                update={
                    split: tuple(
                        part for shard in task.shards([split]) for part in written[shard.path]
                    )
                    for split in SPLITS
                }
            )
            for task in self.images.tasks
        )
        update = {
            "format": FORMAT,
            "version": clray.__version__,
            **self.plan,
            "shape": shape,
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

    def _recorded(self, path: str) -> list[Shard]:
        records = self.folder.read_json(record_of(path))
        return [Shard.model_validate(record) for record in records]

    def sweep_up(self) -> None:
        """Remove what only a pass that has not finished needs, and what killed ones left.

        Raises:
            BadData: the place cannot be written to.
        """
        with writing_to(self.folder):
            shards = [shard for task in self.images.tasks for shard in task.shards()]
            for name in {shard.path.rpartition("/")[0] for shard in shards}:
                (self.folder / name).sweep_up()
        end(self.folder)


def record_of(path: str) -> str:
    """Where the record of what a shard of that path became lies, below the folder."""
    return f"{BUILDING}/{path}.json"
