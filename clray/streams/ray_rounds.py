"""The rounds of a pass, read by Ray Data: in order, a few ahead, anywhere in the cluster."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import ray.data
from ray.data.block import BlockMetadata
from ray.data.datasource import Datasource, ReadTask

from clray.errors import BadInput
from clray.streams.order import EpochOrder
from clray.streams.sharded import AHEAD, Arrays, Content
from clray.streams.shards import images_of
from clray.streams.streaming import read_round

RUN = 256
"""Most rounds of one execution: its start takes a moment for each of them."""


def read_rounds(content: Content, order: EpochOrder, rank: int, world: int) -> Iterator[Arrays]:
    """What a worker takes in each round of a pass, in the order of its batches.

    Raises:
        BadData: a file is missing, truncated or damaged.
    """
    rest = content.manifest.model_copy(update={"tasks": ()})  # a plan is as large as its task
    plan = ray.put((dataclasses.replace(content, manifest=rest), order))
    count = len(order.rounds)
    for first in range(0, count, RUN):
        numbers = range(first, min(first + RUN, count))
        dataset = _dataset(Rounds(plan, content, order, numbers, rank, world))
        # ``iter_batches`` would leave a thread behind wherever a pass is abandoned.
        bundles: Any = None
        try:
            bundles = dataset.iter_internal_ref_bundles()
            for bundle in bundles:
                [reference] = bundle.block_refs
                del bundle
                yield _arrays(content, ray.get(reference))
                del reference  # what has been learned makes room for what is read next
        except Exception as error:
            raise _cause(error) from None
        finally:
            bundles = None  # ends the execution, also in mid-pass


def _arrays(content: Content, table: Any) -> Arrays:
    x = images_of(table, content.manifest.row_bytes)
    return content.shaped(x), table["label"].to_numpy()


def _dataset(source: Rounds) -> Any:
    context = ray.data.DataContext.get_current().copy()
    context.enable_progress_bars = False
    context.target_max_block_size = None  # a round is one block
    context.execution_options.preserve_order = True
    context.execution_options.resource_limits = ray.data.ExecutionResources(
        object_store_memory=(AHEAD + 1) * max(source.sizes)
    )
    with ray.data.DataContext.current(context):
        return ray.data.read_datasource(
            source, num_cpus=0, concurrency=AHEAD, override_num_blocks=len(source.numbers)
        )


class Rounds(Datasource):  # type: ignore[misc]
    """Some rounds of one worker, each a read task.

    Args:
        plan: a reference to the next two.
        content: what is read.
        order: of the pass.
        numbers: of the rounds.
        rank, world: the worker's.
    """

    def __init__(
        self, plan: Any, content: Content, order: EpochOrder, numbers: range, rank: int, world: int
    ) -> None:
        super().__init__()
        self.plan, self.numbers, self.rank, self.world = plan, numbers, rank, world
        row_bytes = content.manifest.row_bytes + 8
        self.rows = [sum(order.lengths(number, rank, world)) for number in numbers]
        self.sizes = [rows * row_bytes for rows in self.rows]

    def estimate_inmemory_data_size(self) -> int:
        """Bytes of all these rounds."""
        return sum(self.sizes)

    def get_read_tasks(self, parallelism: int, *_: Any, **__: Any) -> list[ReadTask]:
        """One task for each round, in order."""
        return [
            ReadTask(
                partial(_read, self.plan, number, self.rank, self.world),
                BlockMetadata(rows, size, None, None),
            )
            for number, rows, size in zip(self.numbers, self.rows, self.sizes, strict=True)
        ]


def _read(plan: Any, number: int, rank: int, world: int) -> list[Any]:
    content, order = ray.get(plan)
    x, y = read_round(content, order, number, rank, world)
    size = content.manifest.row_bytes
    flat = pa.py_buffer(np.ascontiguousarray(x))
    image = pa.FixedSizeBinaryArray.from_buffers(pa.binary(size), len(x), [None, flat])
    return [pa.table({"label": y, "image": image})]


def _cause(error: BaseException) -> BaseException:
    """The bad input that a task found, or the error as it is."""
    seen: BaseException | None = error
    while seen is not None:
        # Ray's own error is a bad input as well, but with the task's traceback for a message.
        if isinstance(seen, BadInput) and not isinstance(seen, ray.exceptions.RayTaskError):
            # Anew, since Ray Data adds advice of its own to the message.
            return type(seen)(seen.where, seen.given, seen.accepted)
        seen = getattr(seen, "cause", None) or seen.__cause__
    return error
