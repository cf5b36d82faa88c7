"""The two kinds of files that a build writes: fragments of the source, and shards made of them."""

from __future__ import annotations

import numpy as np
import torch

from clray.errors import BadData
from clray.store import Folder
from clray.streams.claim import TO, writing_to
from clray.streams.cutting import Fragment, ShardPlan
from clray.streams.layout import ImageShape, Layout
from clray.streams.manifest import BUILDING, Shard
from clray.streams.pieces import BadRow
from clray.streams.shards import read_blocks, rows_per_block, write_shard


def write_fragment(uri: str, fragment: Fragment, shape: ImageShape, skip: bool) -> list[int]:
    """Decode a fragment and record that it is done; the positions of its bad rows.

    Raises:
        BadData: a bad row, unless they are skipped; a place that cannot be written to.
    """
    order = fragment.rows.argsort()
    images, bad = fragment.piece.images(fragment.rows[order].tolist(), shape)
    if bad and not skip:
        raise refused(bad[0])
    x = np.empty((len(order), int(np.prod(shape))), np.uint8)
    x[order] = images.numpy().reshape(x.shape)
    wrong = {row.index for row in bad}
    positions = [i for i, row in enumerate(fragment.rows.tolist()) if row in wrong]
    folder = Folder(uri, TO)
    with writing_to(folder):
        text = ",".join(map(str, shape))
        rows = (x, fragment.labels, fragment.rows)
        write_shard(folder, f"{fragment.path}.parquet", rows, rows_per_block(x.shape[1]), text)
        folder.write_json(f"{fragment.path}.json", positions)
    return positions


def write_planned(uri: str, plan: ShardPlan, layout: Layout, shape: ImageShape) -> Shard:
    """Gather a shard from fragments, in the guise of its task, and record that it is done.

    Raises:
        BadData: a fragment is damaged; a place that cannot be written to.
    """
    row_bytes = int(np.prod(shape))
    size = rows_per_block(row_bytes)
    xs, ys = [], []
    for path, total, positions in plan.found:
        blocks, index = np.unique(positions // size, return_inverse=True)
        wanted = [(f"{path}.parquet", int(block)) for block in blocks]
        sizes = np.minimum(size, total - blocks * size)
        places = np.full(sizes.sum(), -1)
        places[(sizes.cumsum() - sizes)[index] + positions % size] = np.arange(len(positions))
        own = f"{uri}/{BUILDING}/fragments"
        x, y = read_blocks(own, wanted, sizes.tolist(), row_bytes, places)
        xs.append(x)
        ys.append(y)
    x, y = np.concatenate(xs), np.concatenate(ys)
    if layout.transform is not None:
        shown = layout.transform(shape, torch.device("cpu"))
        images = shown(torch.from_numpy(x).view(-1, *shape), plan.domain)
        x = images.contiguous().numpy().reshape(x.shape)
    units = y if layout.units is None else layout.units.numpy()[y]
    rows = (x, units + layout.label_stride * plan.domain, plan.ids)
    folder = Folder(uri, TO)
    with writing_to(folder):
        shard = write_shard(folder, plan.path, rows, size, ",".join(map(str, shape)))
        records = folder / BUILDING / "shards"
        records.write_json(record_name(plan), shard.model_dump(mode="json"))
    return shard


def record_name(plan: ShardPlan) -> str:
    """The name of the record that a shard is written."""
    return plan.path.replace("/", ".").removesuffix("parquet") + "json"


def refused(row: BadRow) -> BadData:
    """The error that a bad row is, unless such rows are skipped."""
    accepted = f"{row.accepted} (--on-bad-row skip leaves such rows out and counts them)"
    return BadData(row.where, row.given, accepted)
