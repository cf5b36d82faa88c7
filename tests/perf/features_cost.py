"""What features of a frozen encoder cost, and what a sweep over them costs.

    python tests/perf/features_cost.py [ROWS [SIDE]]

Needs CLRAY_DATA with ``cifar10`` and ``weights`` in it. One pass of MobileNetV1 over ROWS training
images of CIFAR-10 and a fifth as many test images, resized to SIDE pixels, beside the bare encoder
over the same images in one tensor, on all CPUs; then a sweep of 10 trials and one test run over the
frozen encoder, beside the bare encoder and 11 trainings of the head alone, one after the other.
"""

from __future__ import annotations

import io
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from clray import protocols, ray_session, registry
from clray.events import Progressed, SlotsReady, TrialEnded
from clray.job import JobSpec
from clray.spec import Component
from clray.store import Folder
from clray.streams.features import compute
from clray.streams.manifest import (
    Manifest,
    StoredTask,
    read_manifest,
    shard_path,
    write_manifest,
)
from clray.streams.shards import rows_per_block, write_shard

TRIALS, SEEDS, EPOCHS, BATCH = 10, 1, 10, 64
SHARD_ROWS = 500
NAME = "timm/mobilenetv1_100"


def images_of(half: str, rows: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """The first rows of one half of CIFAR-10."""
    path = Path(os.environ["CLRAY_DATA"]) / f"cifar10/{half}-00000-of-00001.parquet"
    table = pq.read_table(path).slice(0, rows)
    pixels = [
        np.asarray(Image.open(io.BytesIO(image["bytes"])).convert("RGB")).transpose(2, 0, 1)
        for image in table["image"].to_pylist()
    ]
    return np.stack(pixels), table["label"].to_numpy()


def store(uri: str, rows: int) -> Tensor:
    """CIFAR-10 in 5 tasks, as a stored stream; all of its images, uint8."""
    folder, block_rows = Folder(uri), rows_per_block(3 * 32 * 32)
    halves = {"train": images_of("train", rows), "test": images_of("test", rows // 5)}
    tasks = []
    for task in range(5):
        found = {half: np.flatnonzero(y // 2 == task) for half, (_, y) in halves.items()}
        held_out = len(found["train"]) // 10
        parts = {"train": found["train"][held_out:], "validation": found["train"][:held_out]}
        shards: dict[str, Any] = {}
        for split, ids in {**parts, "test": found["test"]}.items():
            x, y = halves["test" if split == "test" else "train"]
            pieces = [ids[i : i + SHARD_ROWS] for i in range(0, len(ids), SHARD_ROWS)]
            shards[split] = tuple(
                write_shard(
                    folder,
                    shard_path(task, split, number),  # type: ignore[arg-type]
                    (x[piece].reshape(len(piece), -1), y[piece], piece),
                    block_rows,
                    "3,32,32",
                )
                for number, piece in enumerate(pieces)
            )
        tasks.append(StoredTask(name=f"t{task}", classes=(2 * task, 2 * task + 1), **shards))
    write_manifest(
        folder,
        Manifest(
            version="0",
            source={},
            source_hash="0" * 20,
            scenario="class-incremental",
            num_classes=10,
            shape=(3, 32, 32),
            validation_fraction=0.1,
            seed=0,
            block_rows=block_rows,
            tasks=tuple(tasks),
        ),
    )
    return torch.from_numpy(np.concatenate([x for x, _ in halves.values()]))


def bare_pass(network: nn.Module, x: Tensor) -> float:
    """Seconds of the bare encoder over all images."""
    start = time.perf_counter()
    with torch.inference_mode():
        for batch in torch.split(x, BATCH):
            network(batch.float() / 255)
    return time.perf_counter() - start


def bare_head(uri: str) -> float:
    """Seconds of one head's training and evaluation on features that lie in memory."""
    stream = registry.configure("benchmark", Component(name="stored", stream=uri)).build(
        "validation", 0.1, 0, torch.device("cpu")
    )
    parts = [
        [next(iter(examples.batches(10**9))) for examples in (task.train, task.eval)]
        for task in stream.tasks
    ]
    start = time.perf_counter()
    model = nn.Sequential(nn.Flatten(), nn.Linear(stream.image_shape[0], stream.num_classes))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for index, ((x, y), _) in enumerate(parts):
        for _ in range(EPOCHS):
            for rows in torch.tensor_split(torch.randperm(len(x)), -(-len(x) // BATCH)):
                loss = F.cross_entropy(model(x[rows]), y[rows])
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
        with torch.no_grad():
            for _, (x, y) in parts[: index + 1]:
                float((model(x).argmax(1) == y).float().mean())
    return time.perf_counter() - start


def sweep(stream: str, model: Component, results: str) -> tuple[float, float, float]:
    """Seconds of the sweep, of the start of Ray and a slot, and of the trials themselves."""
    plain = {
        "name": "heads",
        "benchmark": {"stream": stream},
        "model": model.model_dump(),
        "protocol": {"epochs": EPOCHS, "batch_size": BATCH, "validation_fraction": 0.1},
        "methods": {
            "finetune": {"space": {"optimizer": {"lr": {"range": [1e-4, 1e-1], "log": True}}}}
        },
        "search": {"trials": TRIALS},
        "final": {"seeds": SEEDS},
        "resources": {"slots": 1},
    }
    ready, ended = [0.0], []

    def watch(event: object) -> None:
        if isinstance(event, SlotsReady):
            ready[0] = event.seconds
        if isinstance(event, TrialEnded):
            ended.append(event.state)

    start = time.perf_counter()
    protocols.run_job(JobSpec.model_validate(plain), results, watch)
    seconds = time.perf_counter() - start
    assert ended.count("completed") == TRIALS + SEEDS, ended
    paths = sorted((Path(results) / "trials").glob("*"))
    timings = [Folder(str(path)).read_json("timing.json") for path in paths]
    return seconds, ready[0], sum(sum(timing.values()) for timing in timings)


def main() -> None:
    if "CLRAY_DATA" not in os.environ:
        sys.exit("CLRAY_DATA is not set: it must hold cifar10 and weights")
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else 5000
    side = int(sys.argv[2]) if len(sys.argv) > 2 else 64
    weights = Path(os.environ["CLRAY_DATA"]) / "weights"
    knobs: dict[str, Any] = {
        "weights": str(weights / "mobilenetv1_100.imagenet-12of13.safetensors"),
        "frozen": True,
        "image_size": side,
        "options": {"pad_type": "same"},
    }
    model = Component(name=NAME, **knobs)
    config = registry.configure("model", model)
    network = config.build_encoder("mobilenetv1_100", (3, 32, 32))
    with tempfile.TemporaryDirectory() as folder:
        stream, to = f"{folder}/images", f"{folder}/features"
        x = store(stream, rows)
        torch.set_num_threads(ray_session.num_cpus())
        bare_pass(network, x[:256])  # warms up
        before = bare_pass(network, x)
        torch.set_num_threads(1)
        told: list[tuple[float, int]] = []

        def watch(event: object) -> None:
            if isinstance(event, Progressed):
                told.append((time.perf_counter(), event.done))

        start = time.perf_counter()
        compute(stream, NAME, config, to, watch=watch)
        seconds = time.perf_counter() - start
        torch.set_num_threads(ray_session.num_cpus())
        bare = min(before, bare_pass(network, x))  # its threads suffer most on a busy machine
        torch.set_num_threads(1)
        (first, some), (last, every) = told[1], told[-1]
        steady = (every - some) / (last - first)
        size = read_manifest(to).num_bytes() / 1e6
        print(
            f"one pass over {len(x):,} images at {side} px: {seconds:.1f} s with the start of Ray "
            f"and the encoders ({len(x) / seconds:.0f} rows/s; {steady:.0f} once they run), bare "
            f"encoder {bare:.1f} s ({len(x) / bare:.0f} rows/s); {size:.0f} MB of features"
        )
        bare_head(to)
        head = statistics.median(bare_head(to) for _ in range(5))
        whole, ready, trials = sweep(stream, model, f"{folder}/results")
        heads = (TRIALS + SEEDS) * head
        alone = bare + heads
        print(
            f"{TRIALS} trials and {SEEDS} test run over the features: {whole:.1f} s, of which "
            f"{ready:.1f} s start of Ray and a slot, {trials:.1f} s the trials' own; a head "
            f"alone {head:.2f} s"
        )
        print(
            f"pass and sweep against bare encoder and heads alone ({alone:.1f} s): "
            f"{(seconds + whole) / alone:.2f} times; against the pass and heads alone "
            f"{(seconds + whole) / (seconds + heads):.2f} times; without the sweep's start of Ray "
            f"{(seconds + whole - ready) / (seconds + heads):.2f} times"
        )


if __name__ == "__main__":
    main()
