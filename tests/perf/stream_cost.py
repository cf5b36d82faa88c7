"""What reading a stored stream costs: CIFAR-10 in all ways, beside PyTorch's DataLoader over the
same files and beside indexing a tensor in memory.

    CLRAY_DATA=... python tests/perf/stream_cost.py

Everything is measured in turn in one process, pass by pass, and printed as medians; then again in a
Ray worker that holds all CPUs, as the workers of slots do.
"""

from __future__ import annotations

import itertools
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow.parquet as pq
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

import clray
from clray import ray_session, registry
from clray.assembly import build_learner, build_stream
from clray.events import ignore
from clray.spec import Component, Reading, Resources, TrialSpec
from clray.store import Folder
from clray.streams import sources
from clray.streams.building import build
from clray.streams.dataset import Source
from clray.streams.manifest import Manifest, StoredTask, shard_path, write_manifest
from clray.streams.shards import rows_per_block, write_shard
from clray.task import Examples

# isort: split
import ray  # after ray_session has set what it reads

PASSES = 5
SHARD = 4096
WINDOW, SMALL_WINDOW = "64 MiB", "4 MiB"
STEPS = 60
READINGS: tuple[Reading, ...] = ("device", "memory", "stream")
Batches = Iterator[tuple[Tensor, Tensor]]


def show_build(folder: str) -> None:
    """CIFAR-10 cut into five tasks, from Parquet, by all CPUs."""
    knobs: dict[str, Any] = {"dataset": "parquet:$CLRAY_DATA/cifar10"}
    benchmark = registry.configure("benchmark", Component(name="split-cifar10", **knobs))
    options: dict[str, Any] = {"validation_fraction": 0.1, "on_bad_row": "error"}
    with ray_session.running():
        for run in range(2):  # the first one starts processes that import torch
            to = f"{folder}/built-{run}"
            built = build(benchmark, "split-cifar10", to, seed=0, watch=ignore, **options)
            rows = built.manifest.num_rows()
            rate = f"{rows / built.seconds:,.0f} rows/s"
            print(f"built {rows:,} rows in {built.seconds:.1f} s, {rate}, on a Ray that is on")


def store(folder: str) -> Manifest:
    """CIFAR-10's training half as a stream of one task."""
    data = sources.load(Source("parquet:$CLRAY_DATA/cifar10"))
    x, y, ids = data.train_x.flatten(1).numpy(), data.train_y.numpy(), np.arange(len(data.train_y))
    block, shards = rows_per_block(x.shape[1]), []
    for number, start in enumerate(range(0, len(x), SHARD)):
        rows = slice(start, start + SHARD)
        path = shard_path(0, "train", number)
        own = (x[rows], y[rows], ids[rows])
        shards.append(write_shard(Folder(folder), path, own, block, "3,32,32"))
    held = (shards[-1],)
    task = StoredTask(
        name="all", classes=tuple(range(10)), train=tuple(shards), validation=held, test=held
    )
    manifest = Manifest(
        version=clray.__version__,
        source={},
        source_hash="0" * 20,
        scenario="domain-incremental",
        num_classes=10,
        shape=data.image_shape,
        validation_fraction=0.1,
        seed=0,
        block_rows=block,
        tasks=(task,),
    )
    write_manifest(Folder(folder), manifest)
    return manifest


def spec(uri: str, window: str) -> TrialSpec:
    plain = {
        "method": "finetune",
        "benchmark": {"stream": uri, "shuffle_window": window},
        "model": "slim_resnet18",
        "protocol": {"batch_size": 64},
    }
    return registry.complete(TrialSpec.model_validate(plain))


def examples(uri: str, mode: Reading, window: str = WINDOW) -> list[Examples]:
    """The training examples of each task."""
    resources = Resources(reading=mode)
    tasks = build_stream(spec(uri, window), torch.device("cpu"), resources).tasks
    return [task.train for task in tasks]


class Rows(Dataset[tuple[Tensor, int]]):
    """The same files for a DataLoader, a row at a time."""

    def __init__(self, paths: list[str]) -> None:
        table = pq.read_table(paths, columns=["image", "label"]).combine_chunks()
        self.images, self.labels = table["image"].chunk(0), table["label"].to_numpy()

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        image = np.frombuffer(self.images[row].as_buffer(), np.uint8).reshape(3, 32, 32)
        return torch.from_numpy(image.copy()), int(self.labels[row])


def indexed(x: Tensor, y: Tensor, size: int) -> Batches:
    """Plain indexing, in random order."""
    for rows in torch.randperm(len(y)).split(size):  # type: ignore[no-untyped-call]
        yield x.index_select(0, rows), y.index_select(0, rows)


def rows_per_second(batches: Batches) -> float:
    start, rows = time.perf_counter(), 0
    for _, y in batches:
        rows += len(y)
    return rows / (time.perf_counter() - start)


def compare(uri: str, size: int, loaders: bool) -> dict[str, float]:
    """Median rows per second of each way to read, measured in turn."""
    sources_: dict[str, Callable[[int], Batches]] = {}
    whole = examples(uri, "device")[0]
    x, y = (torch.cat(parts) for parts in zip(*whole.batches(512), strict=True))
    sources_["indexing a tensor"] = lambda epoch: indexed(x, y, size)
    for mode in READINGS:
        own = examples(uri, mode)[0]
        sources_[mode] = lambda epoch, own=own: own.batches(size, 0, epoch)  # type: ignore[misc]
    if loaders:
        rows = Rows(sorted(map(str, Path(uri).rglob("*.parquet"))))
        for workers in (0, 2):
            loader = DataLoader(rows, size, shuffle=True, num_workers=workers)
            sources_[f"DataLoader, {workers} workers"] = lambda epoch, own=loader: iter(own)  # type: ignore[misc]
    found: dict[str, list[float]] = {name: [] for name in sources_}
    for epoch in range(PASSES + 1):
        for name, batches in sources_.items():
            speed = rows_per_second(batches(epoch))
            if epoch:  # the first one warms up
                found[name].append(speed)
    return {name: statistics.median(speeds) for name, speeds in found.items()}


def show(where: str, size: int, found: dict[str, float]) -> None:
    print(f"{where}, batches of {size}, median of {PASSES} passes over 50,000 rows:")
    for name, speed in found.items():
        ratios = [f"{speed / found['indexing a tensor']:.2f} x indexing"]
        ratios += [
            f"{speed / other:.1f} x {rival}"
            for rival, other in found.items()
            if rival.startswith("DataLoader") and name in READINGS
        ]
        print(f"  {name}: {speed:,.0f} rows/s ({', '.join(ratios)})")


def waiting(uri: str, mode: Reading) -> tuple[float, float]:
    """Share of the time that training spends waiting for batches, and seconds of a step."""
    one, resources = spec(uri, SMALL_WINDOW), Resources(reading=mode)
    stream = build_stream(one, torch.device("cpu"), resources)
    learner, task = build_learner(one, stream, torch.device("cpu")), stream.tasks[0]
    learner.train_mode(True)
    learner.begin_task(task)
    batches = iter(task.train.batches(64, 0, 0))
    learner.observe(*next(batches), task)
    waited, start = 0.0, time.perf_counter()
    for _ in range(STEPS):
        before = time.perf_counter()
        x, y = next(batches)
        waited += time.perf_counter() - before
        learner.observe(x, y, task)
    took = time.perf_counter() - start
    return waited / took, took / STEPS


def first_batches(uri: str) -> dict[str, list[float]]:
    """Of 100 tasks: seconds to the first batch, threads, and resident MiB."""
    found: dict[str, list[float]] = {"seconds": [], "threads": [], "resident": []}
    me = psutil.Process()
    for own in examples(uri, "stream", SMALL_WINDOW):
        start = time.perf_counter()
        batches = iter(own.batches(64, 0, 0))
        next(batches)
        found["seconds"].append(time.perf_counter() - start)
        for _ in batches:
            pass
        found["threads"].append(me.num_threads())
        found["resident"].append(me.memory_info().rss / (1 << 20))
    return found


def on_ray(uri: str, hundred: str) -> None:
    def call(function: Callable[..., Any], *arguments: Any) -> Any:
        def run() -> Any:
            torch.set_num_threads(1)
            return function(*arguments)

        return ray.get(worker.go.remote(run))

    class Worker:
        def go(self, run: Callable[[], Any]) -> Any:
            return run()

    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    with ray_session.running():
        worker: Any = ray.remote(num_cpus=ray_session.num_cpus())(Worker).remote()
        for size in (64, 256):
            show("in a Ray worker", size, call(compare, uri, size, False))
        for mode in READINGS:
            share, step = call(waiting, uri, mode)
            print(f"slim ResNet-18, {mode}: {share:.1%} of {step * 1e3:.0f} ms a step is waiting")
        call(first_batches, hundred)
        processes = len(psutil.Process().children(recursive=True))
        found = call(first_batches, hundred)
        for name, values in found.items():
            first, middle, last = (values[n] for n in (0, 49, 99))
            text = f"task 1 {first:.2f}, task 50 {middle:.2f}, task 100 {last:.2f}"
            print(f"streaming 100 tasks, {name}: {text}, most {max(values):.2f}")
        now = len(psutil.Process().children(recursive=True))
        print(f"processes before and after: {processes}, {now}")


def main() -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        show_build(folder)
        manifest = store(folder)
        for size in (64, 256):
            show("in this process", size, compare(folder, size, True))
        shards = itertools.cycle(manifest.tasks[0].train[:-1])
        with tempfile.TemporaryDirectory(dir=folder) as hundred:
            Path(hundred, "task=000").symlink_to(Path(folder, "task=000"))
            tasks = [
                manifest.tasks[0].model_copy(update={"name": f"task {n}", "train": (own,)})
                for n, own in enumerate(itertools.islice(shards, 100))
            ]
            many = manifest.model_copy(update={"tasks": tuple(tasks)})
            write_manifest(Folder(hundred), many)
            on_ray(folder, hundred)


if __name__ == "__main__":
    main()
