"""Stored streams in processes of their own: several workers, one that is killed, one whose memory
is measured."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file

import clray
from clray import registry, trial
from clray.assembly import build_stream
from clray.spec import Resources, Storing, TrialSpec
from clray.store import Folder
from clray.streams.manifest import Manifest, StoredTask, write_manifest
from clray.streams.shards import rows_per_block, rows_per_shard, write_shard

StoreBenchmark = Callable[..., Manifest]
STREAMED = Resources(reading="stream", memory="512 MiB")
MIB = 1 << 20


def spec(uri: Path, window: str, epochs: int = 2, **changes: Any) -> TrialSpec:
    plain = {
        "method": "finetune",
        "benchmark": {"stream": str(uri), "shuffle_window": window},
        "model": {"name": "mlp", "hidden": [16]},
        "protocol": {"epochs": epochs, "batch_size": 33},
        **changes,
    }
    return registry.complete(TrialSpec.model_validate(plain))


def start(what: str, folder: Path, one: TrialSpec, *arguments: int) -> subprocess.Popen[bytes]:
    """A process that runs a function of this file on a spec."""
    path = folder / "spec.json"
    path.write_text(one.model_dump_json())
    command = [sys.executable, __file__, what, str(folder), *map(str, arguments)]
    return subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"})


def ids_of(one: TrialSpec, rank: int, world: int) -> list[list[float]]:
    """What a worker sees of each batch, each row as a number of its own."""
    cpu = torch.device("cpu")
    [task, *_] = build_stream(one, cpu, STREAMED).tasks
    weights = torch.arange(64.0, dtype=torch.float64) ** 3 + 7
    found = task.train.batches(33, 5, 1, rank=rank, world=world)
    return [(x.flatten(1).double() @ weights).tolist() for x, _ in found]


def work(folder: Path, one: TrialSpec, rank: int) -> None:
    """One of four workers, of which two stay for another trial."""
    for world in (4, 2):
        if rank < world:
            group = f"file://{folder}/group-{world}"
            dist.init_process_group("gloo", init_method=group, rank=rank, world_size=world)
            (folder / f"ids-{world}-{rank}.json").write_text(json.dumps(ids_of(one, rank, world)))
            own = Folder(str(folder / f"workers-{world}"))
            trial.run(one, own, storing=Storing(model=True), resources=STREAMED)
            dist.destroy_process_group()


def learn(folder: Path, one: TrialSpec) -> None:
    """A trial that stores a checkpoint after each epoch."""
    storing = Storing(checkpoint_epochs=1)
    trial.run(one, Folder(str(folder / "killed")), storing=storing, resources=STREAMED)


def measure(folder: Path, one: TrialSpec, budget: int) -> None:
    """A trial, and the most memory that its process took."""
    torch.set_num_threads(1)
    resources = Resources(reading="stream", memory=f"{budget} MiB")
    trial.run(one, Folder(str(folder / "trial")), resources=resources)
    lines = Path("/proc/self/status").read_text().splitlines()
    [peak] = [line for line in lines if line.startswith("VmHWM:")]
    (folder / "peak").write_text(str(int(peak.split()[1]) / 1024))


def test_workers_see_all_rows_once_and_learn_what_one_learns(
    tmp_path: Path, store_benchmark: StoreBenchmark
) -> None:
    store_benchmark(num_tasks=2)
    one = spec(tmp_path / "stream", "6 KiB")
    started = [start("work", tmp_path, one, rank) for rank in range(4)]
    whole = ids_of(one, 0, 1)
    trial.run(one, Folder(str(tmp_path / "alone")), storing=Storing(model=True))
    alone = load_file(tmp_path / "alone" / "model.safetensors")
    assert [process.wait(timeout=120) for process in started] == [0] * 4
    for world in (2, 4):
        files = [tmp_path / f"ids-{world}-{rank}.json" for rank in range(world)]
        shares = [json.loads(file.read_text()) for file in files]
        for batch, parts in zip(whole, zip(*shares, strict=True), strict=True):
            assert list(chain(*parts)) == batch
        shared = load_file(tmp_path / f"workers-{world}" / "model.safetensors")
        for name, tensor in alone.items():
            assert torch.allclose(tensor, shared[name], atol=1e-5), name


def test_a_trial_killed_in_mid_task_goes_on_with_the_same_batches(
    tmp_path: Path, store_benchmark: StoreBenchmark
) -> None:
    store_benchmark(num_tasks=2)
    one = spec(tmp_path / "stream", "6 KiB", epochs=40)
    folder = tmp_path / "killed"
    process = start("learn", tmp_path, one)
    while not (folder / "checkpoint").exists():
        assert process.poll() is None
        time.sleep(0.01)
    time.sleep(0.3)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (folder / "result.json").exists()
    learn(tmp_path, one)
    trial.run(one, Folder(str(tmp_path / "peace")), resources=Resources(reading="device"))
    found = [(tmp_path / name / "records.jsonl").read_bytes() for name in ("killed", "peace")]
    assert found[0] == found[1]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="/proc has the peak")
def test_a_stream_four_times_the_budget_stays_within_it(tmp_path: Path) -> None:
    budget = 1024
    manifest = store_large(tmp_path / "large", 4 * budget)
    assert manifest.num_bytes(("train",)) > 4 * budget * MIB
    one = spec(tmp_path / "large", "64 MiB", 1, protocol={"batch_size": 256})
    assert start("measure", tmp_path, one, budget).wait(timeout=240) == 0
    assert float((tmp_path / "peak").read_text()) < 1.2 * budget


def store_large(path: Path, size: int, shape: tuple[int, int, int] = (3, 64, 64)) -> Manifest:
    """A stream of two tasks and so many MiB, which takes a shard's room on disk: its files are
    links to one."""
    folder = Folder(str(path))
    row_bytes = int(np.prod(shape))
    rows, block = rows_per_shard(row_bytes), rows_per_block(row_bytes)
    random = np.random.default_rng(0)
    x, y = random.integers(0, 256, (rows, row_bytes), dtype=np.uint8), np.arange(rows) % 2
    first = write_shard(folder, "first.parquet", (x, y, np.arange(rows)), block, "")
    small = write_shard(folder, "small.parquet", (x[:512], y[:512], np.arange(512)), block, "")
    shards = []
    for number in range(-(-size * MIB // (rows * row_bytes))):
        os.link(path / "first.parquet", path / f"{number}.parquet")
        shards.append(first.model_copy(update={"path": f"{number}.parquet"}))
    tasks = [
        StoredTask(name=name, classes=(0, 1), train=own, validation=(small,), test=(small,))
        for name, own in (("a", tuple(shards[::2])), ("b", tuple(shards[1::2])))
    ]
    manifest = Manifest(
        version=clray.__version__,
        source={},
        source_hash="0" * 20,
        scenario="domain-incremental",
        num_classes=2,
        shape=shape,
        validation_fraction=0.1,
        seed=0,
        block_rows=block,
        tasks=tuple(tasks),
    )
    write_manifest(folder, manifest)
    return manifest


if __name__ == "__main__":
    name, where, *numbers = sys.argv[1:]
    given = TrialSpec.model_validate_json(Path(where, "spec.json").read_text())
    globals()[name](Path(where), given, *map(int, numbers))
