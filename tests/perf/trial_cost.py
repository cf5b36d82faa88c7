"""What a trial costs above a bare PyTorch loop of the same work: same model, data and batches.

    python tests/perf/trial_cost.py

Runs both in turn in one process, and prints medians and the ratio, pair by pair.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clray import registry, trial
from clray.spec import TrialSpec
from clray.store import Folder
from clray.task import Stream

PAIRS = 9
EPOCHS, BATCH, LR = 3, 64, 0.1


def spec(benchmark: dict[str, Any], head: str) -> TrialSpec:
    plain = {
        "method": "finetune",
        "benchmark": benchmark,
        "model": {"name": "mlp", "hidden": [256, 256]},
        "protocol": {"epochs": EPOCHS, "batch_size": BATCH, "head": head},
        "optimizer": {"lr": LR},
        "split": "test",
    }
    return registry.complete(TrialSpec.model_validate(plain))


def tensors(stream: Stream) -> list[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """The stream as plain tensors, cut beforehand: the bare loop pays for no data handling."""
    parts = []
    for task in stream.tasks:
        (x, y), (test_x, test_y) = (
            next(iter(examples.batches(10**9))) for examples in (task.train, task.eval)
        )
        parts.append((x, y, test_x, test_y))
    return parts


def bare(stream: Stream, parts: list[tuple[Tensor, Tensor, Tensor, Tensor]]) -> float:
    """Seconds of the loop that one would write by hand."""
    start = time.perf_counter()
    pixels = parts[0][0][0].numel()
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(pixels, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(),
        nn.Linear(256, stream.num_classes),
    )  # fmt: skip
    optimizer = torch.optim.SGD(model.parameters(), lr=LR)
    for index, (x, y, _, _) in enumerate(parts):
        for _ in range(EPOCHS):
            order = torch.randperm(len(x))
            for rows in torch.tensor_split(order, -(-len(x) // BATCH)):
                loss = F.cross_entropy(model(x[rows].float() / 255), y[rows])
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
        with torch.no_grad():
            for _, _, test_x, test_y in parts[: index + 1]:
                for rows in torch.split(torch.arange(len(test_x)), 512):
                    hits = model(test_x[rows].float() / 255).argmax(1) == test_y[rows]
                    float(hits.float().mean())
    return time.perf_counter() - start


def main() -> None:
    torch.set_num_threads(1)
    dataset = "split-mnist10k" if "CLRAY_DATA" in os.environ else "split-digits"
    for head in ("fixed", "growing"):
        one = spec({"name": dataset}, head)
        stream = registry.configure("benchmark", one.benchmark).build(
            "test", 0.1, 0, torch.device("cpu")
        )
        parts = tensors(stream)
        frame, loop, ratios = [], [], []
        for pair in range(PAIRS + 1):
            with tempfile.TemporaryDirectory() as folder:
                outcome = trial.run(one.model_copy(update={"seed": pair}), Folder(folder))
            spent = outcome.seconds["train"] + outcome.seconds["eval"]
            stored = outcome.seconds["store"]
            alone = bare(stream, parts)
            if pair:  # the first one warms up
                frame.append(spent + stored)
                loop.append(alone)
                ratios.append((spent + stored) / alone)
        print(
            f"{dataset}, {head} head: trial {statistics.median(frame):.3f} s "
            f"(checkpoints {stored:.3f} s), bare loop {statistics.median(loop):.3f} s, "
            f"ratio {statistics.median(ratios):.3f} "
            f"({min(ratios):.3f} to {max(ratios):.3f}, {PAIRS} pairs)"
        )


if __name__ == "__main__":
    main()
