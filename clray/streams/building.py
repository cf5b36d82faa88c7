"""Builds a stored stream: cut into tasks once, by the whole cluster, kept where all can read it.

Three passes, each shared out by Ray Data: labels are read, and the benchmark decides on them which
row belongs to which task and split; each piece of the source is decoded into a fragment; shards are
gathered from fragments. Fragments and records of what is done lie in ``_building`` below the
stream's folder, so that a build that was killed goes on where it stopped; the manifest comes last.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

import clray
from clray import ray_session
from clray.errors import BadData
from clray.events import Progressed, SlotsReady, SlotsStarting, Watch
from clray.store import Folder
from clray.streams.claim import TO, begin, claim, end, writing_to
from clray.streams.cutting import Cut, Fragment, ShardPlan
from clray.streams.fragments import record_name, refused, write_fragment, write_planned
from clray.streams.layout import Draw, ImageShape, Layout
from clray.streams.manifest import (
    BUILDING,
    SPLITS,
    Manifest,
    Shard,
    StoredTask,
    digest,
    write_manifest,
)
from clray.streams.pieces import BadRow, Listing, Piece
from clray.streams.scenarios import InMemory
from clray.streams.shards import rows_per_block, rows_per_shard
from clray.streams.spreading import spread

OnBadRow = Literal["error", "skip"]


@dataclass(frozen=True)
class Built:
    """What a build came to.

    Attributes:
        manifest: of the stream.
        was_stored: whether it was there already.
        seconds: what the build took.
    """

    manifest: Manifest
    was_stored: bool
    seconds: float


def build(
    benchmark: InMemory,
    name: str,
    to: str,
    *,
    seed: int,
    validation_fraction: float,
    on_bad_row: OnBadRow,
    watch: Watch,
) -> Built:
    """Store the stream of a benchmark, or what is left of it.

    Args:
        benchmark: what is stored.
        name: of the benchmark.
        to: a new folder, or one that holds this very stream, whole or in part.
        seed: of all draws, as a trial's.
        validation_fraction: share of each task's training examples that is held out.
        on_bad_row: whether a row that cannot be used stops the build, or is left out and counted.
        watch: is told Progressed and Warned.

    Raises:
        BadInput: knobs that contradict the data; data that are missing, damaged or do not fit; a
            folder that holds something else or cannot be written to.
    """
    start = time.monotonic()
    benchmark.check()
    folder = Folder(to, TO)
    listing = benchmark.listing()
    source = {
        "benchmark": {"name": name, **benchmark.model_dump(mode="json")},
        "seed": seed,
        "validation_fraction": validation_fraction,
        "on_bad_row": on_bad_row,
    }
    plan = {"source": source, "source_hash": digest([source, listing.identity])}
    stored = claim(folder, plan)
    if stored is not None:
        end(folder)  # the build may have been killed after its manifest
        return Built(stored, was_stored=True, seconds=time.monotonic() - start)
    watch(SlotsStarting(0))
    starting = time.monotonic()
    with ray_session.running():
        watch(SlotsReady(time.monotonic() - starting))
        job = _Build(benchmark, listing, folder, plan, watch)
        manifest = job.run(seed, validation_fraction, skip=on_bad_row == "skip")
    return Built(manifest, was_stored=False, seconds=time.monotonic() - start)


class _Build:
    """A build under way."""

    def __init__(
        self,
        benchmark: InMemory,
        listing: Listing,
        folder: Folder,
        plan: dict[str, Any],
        watch: Watch,
    ) -> None:
        self.benchmark, self.listing, self.folder = benchmark, listing, folder
        self.plan, self.watch = plan, watch
        self.own = folder / BUILDING

    def run(self, seed: int, validation_fraction: float, *, skip: bool) -> Manifest:
        pieces = (*self.listing.train, *self.listing.test)
        labels, skipped = self._read_labels(pieces, skip)
        half = len(self.listing.train)
        train_y = np.concatenate(labels[:half])
        names = self.listing.class_names or tuple(map(str, range(int(train_y.max(initial=-1)) + 1)))
        self._check_test_labels(labels[half:], len(names), skip, skipped)
        test_y = np.concatenate(labels[half:])
        draw = Draw(
            torch.from_numpy(train_y),
            torch.from_numpy(test_y),
            len(names),
            self.benchmark.train_fraction,
            validation_fraction,
            seed,
        )
        layout = self.benchmark.layout(draw)
        shape = _shape(pieces)
        self.benchmark.check_shape(shape)
        cut = Cut(self.listing, (train_y, test_y), layout)
        begin(self.folder, self.plan)
        bad_images = self._decode(cut.fragments, shape, skip)
        tasks = self._gather(cut, bad_images, layout, shape)
        for fragment in cut.fragments:
            skipped[_file(fragment.piece)] += len(bad_images[fragment.path])
        manifest = Manifest(
            version=clray.__version__,
            **self.plan,
            scenario=self.benchmark.scenario,
            num_classes=layout.num_classes,
            shape=shape,
            mean=self.benchmark.mean,
            std=self.benchmark.std,
            augment=self.benchmark.augment,
            class_names=_unit_names(layout, names),
            validation_fraction=validation_fraction,
            seed=seed,
            block_rows=rows_per_block(int(np.prod(shape))),
            graded_together=layout.graded_together,
            skipped={where: count for where, count in skipped.items() if count},
            tasks=tasks,
        )
        with writing_to(self.folder):
            write_manifest(self.folder, manifest)
        end(self.folder)
        return manifest

    # Labels.

    def _read_labels(
        self, pieces: Sequence[Piece], skip: bool
    ) -> tuple[list[NDArray[np.int64]], Counter[str]]:
        """Labels of each piece, and how many rows of each file have none."""
        found: dict[int, Any] = {}
        bad: Counter[str] = Counter()
        total, done = sum(map(len, pieces)), 0
        self.watch(Progressed("labels", 0, total))

        def read(numbered: tuple[int, Piece]) -> Any:
            number, piece = numbered
            labels, rows = piece.labels()
            if rows and not skip:
                raise refused(rows[0])
            return number, labels.numpy(), len(rows)

        for number, labels, count in spread(read, list(enumerate(pieces))):
            found[number] = labels
            bad[_file(pieces[number])] += count
            done += len(labels)
            self.watch(Progressed("labels", done, total))
        return [found[number] for number in range(len(pieces))], bad

    def _check_test_labels(
        self,
        labels: list[NDArray[np.int64]],
        num_classes: int,
        skip: bool,
        skipped: Counter[str],
    ) -> None:
        """Refuse, or drop, test rows of classes that no training row has, where nothing else has
        said how many classes there are.

        Raises:
            BadData: such a row, unless they are skipped.
        """
        for piece, own in zip(self.listing.test, labels, strict=True):
            wrong = np.flatnonzero(own >= num_classes)
            if len(wrong) and not skip:
                accepted = f"0 to {num_classes - 1}, the classes of the training examples"
                where = f"{piece.where}: label of row {wrong[0]} of these"
                raise refused(BadRow(int(wrong[0]), where, str(own[wrong[0]]), accepted))
            own[wrong] = -1
            skipped[_file(piece)] += len(wrong)

    def _check_shared(self, folder: Folder, name: str) -> None:
        """Refuse a local folder that another machine's work does not appear in.

        Raises:
            BadData: such a one.
        """
        if folder.is_local and not folder.has(name):
            accepted = "a folder that all machines of the cluster share, s3://… or gs://…"
            raise BadData(TO, self.folder.uri, accepted)

    # Fragments.

    def _decode(
        self, fragments: list[Fragment], shape: ImageShape, skip: bool
    ) -> dict[str, list[int]]:
        """Decode what is not decoded yet; positions of bad rows, by the fragment's path."""
        records = self.own / "fragments"
        known = {name.removesuffix(".json") for name in records.names() if name.endswith(".json")}
        bad = {f.path: records.read_json(f"{f.path}.json") for f in fragments if f.path in known}
        left = [fragment for fragment in fragments if fragment.path not in known]
        total = sum(len(fragment.rows) for fragment in fragments)
        done = total - sum(len(fragment.rows) for fragment in left)
        self.watch(Progressed("images", done, total))
        uri = records.uri

        def decode(fragment: Fragment) -> Any:
            return fragment.path, write_fragment(uri, fragment, shape, skip), len(fragment.rows)

        for path, rows, count in spread(decode, left):
            self._check_shared(records, f"{path}.json")
            bad[path] = rows
            done += count
            self.watch(Progressed("images", done, total))
        return bad

    # Shards.

    def _gather(
        self, cut: Cut, bad: dict[str, list[int]], layout: Layout, shape: ImageShape
    ) -> tuple[StoredTask, ...]:
        plans = cut.shards(bad, rows_per_shard(int(np.prod(shape))))
        everything = [plan for several in plans.values() for plan in several]
        records = self.own / "shards"
        known = set(records.names())
        shards: dict[str, Shard] = {}
        for plan in everything:
            if record_name(plan) in known:
                shards[plan.path] = Shard.model_validate(records.read_json(record_name(plan)))
        total = len(everything)
        self.watch(Progressed("shards", len(shards), total))
        uri = self.folder.uri

        def gather(plan: ShardPlan) -> Any:
            return write_planned(uri, plan, layout, shape).model_dump(mode="json")

        for plain in spread(gather, [plan for plan in everything if plan.path not in shards]):
            shard = Shard.model_validate(plain)
            self._check_shared(self.folder, shard.path)
            shards[shard.path] = shard
            self.watch(Progressed("shards", len(shards), total))
        tasks = tuple(
            StoredTask(
                name=task.name,
                classes=task.classes,
                **{
                    split: tuple(shards[plan.path] for plan in plans[index, split])
                    for split in SPLITS
                },
            )
            for index, task in enumerate(layout.tasks)
        )
        _check_whole(tasks)
        return tasks


def _file(piece: Piece) -> str:
    """The name of the file that a piece is of."""
    return piece.where.rpartition(", rows ")[0] or piece.where


def _shape(pieces: Sequence[Piece]) -> ImageShape:
    """That of the first image that can be decoded.

    Raises:
        BadData: none can.
    """
    first: BadRow | None = None
    for piece in pieces:
        for row in range(len(piece)):
            images, bad = piece.images([row], None)
            if not bad:
                _, channels, height, width = images.shape
                return channels, height, width
            first = first or bad[0]
    if first is None:
        raise BadData("benchmark.dataset", "no rows", "one image or more")
    raise refused(first)


def _unit_names(layout: Layout, names: Sequence[str]) -> tuple[str, ...]:
    """The classes that each output unit stands for."""
    if layout.units is None:
        return tuple(names) if layout.label_stride == 0 else ()
    units = layout.units.tolist()
    return tuple(
        ", ".join(name for name, own in zip(names, units, strict=True) if own == unit)
        for unit in range(layout.num_classes)
    )


def _check_whole(tasks: Sequence[StoredTask]) -> None:
    """Refuse tasks and classes that bad rows have left without examples.

    Raises:
        BadData: such a one.
    """
    for task in tasks:
        for split in SPLITS:
            if not task.shards([split]):
                raise BadData(f"{split} examples of task {task.name!r}", 0, "1 or more good ones")
        seen = {label for shard in task.train for label in shard.classes}
        for label in sorted(set(task.classes) - seen):
            where = f"training examples of output unit {label} in task {task.name!r}"
            raise BadData(where, 0, "1 or more good ones")
