"""Stored streams read on Ray, by a process that holds all CPUs as the workers of slots do."""

from __future__ import annotations

import itertools
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from clray import ray_session, registry
from clray.errors import BadData
from clray.spec import Component, Resources
from clray.store import Folder
from clray.streams.examples import cumulate
from clray.streams.manifest import Manifest, write_manifest
from clray.task import Stream

# isort: split
import ray  # after ray_session has set what it reads

StoreBenchmark = Callable[..., Manifest]
Titles = Callable[[], dict[int, str]]
Batches = list[tuple[list[int], list[list[int]]]]
SEEDS = itertools.count()


class Reader:
    """What a worker does with streams."""

    def build(self, uri: str, mode: str, window: str, split: str) -> Stream:
        knobs = {"stream": uri, "shuffle_window": window}
        config = registry.configure("benchmark", Component(name="stored", **knobs))
        resources = Resources.model_validate({"reading": mode, "memory": "512 MiB"})
        stream: Stream = config.build(split, 0.1, 0, torch.device("cpu"), resources)
        return stream

    def batches(
        self,
        uri: str,
        mode: str,
        window: str = "6 KiB",
        world: int = 1,
        task: int = 1,
        split: str = "test",
        joint: bool = False,
    ) -> Batches:
        """Of all workers together: labels and images."""
        stream = self.build(uri, mode, window, split)
        examples = (cumulate(stream) if joint else stream).tasks[task].train
        shares = [list(examples.batches(37, 5, 1, rank=r, world=world)) for r in range(world)]
        found = []
        for parts in zip(*shares, strict=True):
            x, y = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
            found.append((y.tolist(), x.flatten(1).tolist()))
        return found

    def first_batches(self, uri: str) -> list[tuple[float, int, int, int]]:
        """For each task: seconds to the first batch, threads, resident MiB, object store MiB."""
        stream, me, found = self.build(uri, "stream", "6 KiB", "validation"), psutil.Process(), []
        for task in stream.tasks:
            start = time.perf_counter()
            batches = iter(task.train.batches(37, 5, 0))
            next(batches)
            first = time.perf_counter() - start
            if task.index % 2:  # the others are abandoned in mid-pass
                list(batches)
            del batches
            left = ray.available_resources().get("object_store_memory", 0)
            resident = me.memory_info().rss
            found.append((first, me.num_threads(), resident >> 20, int(left) >> 20))
        return found


@pytest.fixture(scope="module")
def reader() -> Iterator[Any]:
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    with ray_session.running():
        yield ray.remote(num_cpus=ray_session.num_cpus())(Reader).remote()
    assert not ray.is_initialized()


@pytest.fixture
def uri(tmp_path: Path, store_benchmark: StoreBenchmark) -> str:
    store_benchmark(num_tasks=2, seed=next(SEEDS))  # so that no test finds another's in memory
    return str(tmp_path / "stream")


@pytest.mark.parametrize("joint", [False, True])
def test_every_way_gives_the_same_batches(reader: Any, uri: str, joint: bool) -> None:
    for window in ("6 KiB", "64 MiB"):
        whole = Reader().batches(uri, "device", window, joint=joint)
        for mode in ("memory", "stream"):
            for world in (1, 2):
                there = reader.batches.remote(uri, mode, window, world, joint=joint)
                assert ray.get(there, timeout=120) == whole


@pytest.mark.parametrize("mode", ["memory", "stream"])
def test_a_truncated_shard_is_named(reader: Any, uri: str, mode: str) -> None:
    path = Path(uri, "task=001", "split=train", "part-00001.parquet")
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(BadData) as caught:
        ray.get(reader.batches.remote(uri, mode), timeout=120)
    cause = caught.value.cause  # type: ignore[attr-defined]
    assert cause.where == str(path)
    assert cause.given.startswith("ArrowInvalid")
    assert "\n" not in str(cause)


def test_a_keeper_that_is_killed_is_replaced(reader: Any, uri: str, titles: Titles) -> None:
    whole = [Reader().batches(uri, "device", task=task) for task in (0, 1)]
    assert ray.get(reader.batches.remote(uri, "memory", task=0), timeout=120) == whole[0]
    keepers = [pid for pid, title in titles().items() if "_Keeper" in title]
    assert len(keepers) == 1  # those of other streams are gone
    os.kill(keepers[0], signal.SIGKILL)
    for task in (1, 0):
        found = ray.get(reader.batches.remote(uri, "memory", task=task), timeout=120)
        assert found == whole[task]


@pytest.mark.slow
def test_a_hundred_tasks_cost_what_the_first_ones_did(
    reader: Any, uri: str, titles: Titles, store_benchmark: StoreBenchmark
) -> None:
    manifest = store_benchmark(uri=Path(uri), num_tasks=2)
    tasks = [manifest.tasks[0].model_copy(update={"name": f"task {n}"}) for n in range(100)]
    write_manifest(Folder(uri), manifest.model_copy(update={"tasks": tuple(tasks)}))
    ray.get(reader.first_batches.remote(uri), timeout=200)
    processes = len(titles())
    found = ray.get(reader.first_batches.remote(uri), timeout=200)
    seconds, threads, resident, store = zip(*found, strict=True)
    assert sorted(seconds[-9:])[4] < 1
    assert threads[-1] <= threads[5] + 1
    assert resident[-1] <= resident[5] + 50
    assert store[-1] >= store[5] - 5
    assert len(titles()) <= processes
