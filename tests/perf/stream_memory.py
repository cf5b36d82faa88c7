"""What a stream four times larger than the budget takes: built, and learned through Ray.

    python tests/perf/stream_memory.py [budget in MiB]

The peak resident memory of each process, by its name, while a slot learns one epoch of the stream.
Pages of Ray's object store count for every process that has touched them; ``own`` leaves them out.
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import psutil
from pydantic import ByteSize

from clray import ray_train, registry
from clray.events import ignore
from clray.spec import Component, Resources, Storing, TrialSpec
from clray.streams.building import build

MIB = 1 << 20
SIDE = 64


def main(budget: int) -> None:
    """Build, learn, print."""
    rows = 4 * budget * MIB // (3 * SIDE * SIDE)
    knobs: dict[str, Any] = {
        "dataset": f"synthetic/2x{rows // 2}",
        "num_tasks": 1,
        "image_size": SIDE,
    }
    with tempfile.TemporaryDirectory() as folder:
        stream = f"{folder}/stream"
        benchmark = registry.configure("benchmark", Component(name="synthetic", **knobs))
        options: dict[str, Any] = {"seed": 0, "validation_fraction": 0.01, "on_bad_row": "error"}
        with watched() as peaks:
            built = build(benchmark, "synthetic", stream, watch=ignore, **options)
        total = built.manifest.num_rows()
        size = built.manifest.num_bytes(["train"]) / MIB
        print(f"build: {total:,} rows, {total / built.seconds:,.0f} rows/s; train {size:,.0f} MiB")
        show(peaks, budget)
        spec = registry.complete(
            TrialSpec.model_validate(
                {
                    "method": "finetune",
                    "benchmark": {"stream": stream},
                    "model": {"name": "mlp", "hidden": [8]},
                    "protocol": {"batch_size": 256, "validation_fraction": 0.01},
                    "optimizer": {"lr": 0.001},
                }
            )
        )
        resources = Resources(reading="stream", memory=ByteSize(budget * MIB))
        with watched() as peaks:
            told = ray_train.run_trial(spec, f"{folder}/results", resources, Storing(), ignore)
        rate = total / told["seconds"]["train"]
        print(f"trial: {told['state']}, {rate:,.0f} rows/s; the budget is {budget} MiB")
        show(peaks, budget)


@contextlib.contextmanager
def watched() -> Iterator[dict[str, tuple[float, float]]]:
    """Peak MiB of the processes inside, resident and without shared pages, by name."""
    peaks: defaultdict[str, tuple[float, float]] = defaultdict(lambda: (0.0, 0.0))
    over = threading.Event()

    def look() -> None:
        me = psutil.Process()
        while not over.is_set():
            for process in [me, *me.children(recursive=True)]:
                with contextlib.suppress(psutil.Error):
                    memory = process.memory_info()
                    name = "driver" if process == me else title(process)
                    before = peaks[name]
                    own = (memory.rss - memory.shared) / MIB
                    peaks[name] = max(before[0], memory.rss / MIB), max(before[1], own)
            time.sleep(0.1)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield peaks
    finally:
        over.set()
        thread.join()


def title(process: psutil.Process) -> str:
    """What Ray calls it, without its number."""
    first = (process.cmdline() or [process.name()])[0]
    return first.rpartition("/")[2].partition("(")[0][:40]


def show(peaks: dict[str, tuple[float, float]], budget: int) -> None:
    """The processes that took most."""
    for name, (rss, own) in sorted(peaks.items(), key=lambda item: -item[1][0])[:6]:
        print(f"  {name:40} peak {rss:7,.0f} MiB, {rss / budget:.2f} of the budget; own {own:,.0f}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 2048)
