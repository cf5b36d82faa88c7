"""What does linearised learning cost, against ordinary fine-tuning of the same network?

Printed: the time of a training step (two rounds of each in turn, medians, and their ratio), of a
task's curvature against learning that task, and what is kept of it, for each structure.

    python tests/perf/linearised_cost.py [MODEL] [BATCH] [EXAMPLES] [EPOCHS]

MODEL: a name of timm (mobilenetv1_100), with random weights, on 32 x 32 images of 10 classes.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from clray import registry
from clray.distributed import Distributed
from clray.learner import Learner, Setup
from clray.spec import Component
from clray.streams.examples import TensorExamples
from clray.task import Task

KINDS = ("diag", "kfac", "tkfac", "ekfac")
STEPS = 8


def prepare(x: Tensor) -> Tensor:
    return x / 127.5 - 1


def unchanged(x: Tensor) -> Tensor:
    return x


def adam(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, 1e-4)


def learner_of(
    method: str, model: str, batch: int, epochs: int, task: Task, **knobs: Any
) -> Learner:
    torch.manual_seed(0)
    network = registry.configure("model", Component(name=f"timm/{model}"))
    setup = Setup(
        model=network.build(model, (3, 32, 32), 10),
        optimizer=adam,
        clip_norm=None,
        scenario="data-incremental",
        num_classes=10,
        num_tasks=2,
        num_examples=2 * len(task.train),
        largest_task=10,
        image_shape=(3, 32, 32),
        epochs=epochs,
        batch_size=batch,
        memory=0,
        prepare=prepare,
        augment=unchanged,
        generator=torch.Generator().manual_seed(0),
        distributed=Distributed(),
        device=torch.device("cpu"),
    )
    config = registry.configure("method", Component(name=method, **knobs))
    return registry.find("method", method).learner(config, setup)


def timed(action: Callable[[], object]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model", nargs="?", default="mobilenetv1_100")
    parser.add_argument("batch", nargs="?", type=int, default=128)
    parser.add_argument("examples", nargs="?", type=int, default=2560)
    parser.add_argument("epochs", nargs="?", type=int, default=10)
    model, batch, examples, epochs = vars(parser.parse_args()).values()
    torch.set_num_threads(1)
    images = torch.randint(256, (examples, 3, 32, 32), dtype=torch.uint8)
    part = TensorExamples(images, torch.randint(10, (examples,)), torch.arange(examples))
    task = Task(0, "0", tuple(range(10)), part, part).for_learning()
    x, y = next(iter(part.batches(batch)))

    def step(learner: Learner) -> float:
        return timed(lambda: learner.observe(x, y, task))

    ordinary = learner_of("finetune", model, batch, epochs, task)
    linear = learner_of("dlcft", model, batch, epochs, task, curvature="none", ridge=0)
    for learner in (ordinary, linear):
        learner.train_mode(True)
        learner.begin_task(task)
        step(learner)
    pairs = [(step(ordinary), step(linear)) for _ in range(STEPS)]
    plain, tangent = (statistics.median(column) for column in zip(*pairs, strict=True))
    print(f"{model}, batches of {batch}, one thread")
    print(
        f"ordinary step {plain:.3f} s, linearised step {tangent:.3f} s: {tangent / plain:.2f} times"
    )
    num_steps = epochs * -(-examples // batch)
    columns = ["curvature", "step", "of an ordinary one", "time of it", "of the task's", "kept"]
    print(f"| {' | '.join(columns)} |")
    print("|---|---|---|---|---|---|")
    for kind in KINDS:
        learner = learner_of("dlcft", model, batch, epochs, task, curvature=kind)
        before = learner.footprint()["bytes"]
        learner.begin_task(task)
        took = timed(lambda learner=learner: learner.end_task(task))  # type: ignore[misc]
        kept = (learner.footprint()["bytes"] - before) / 2**20
        pulled = statistics.median(step(learner) for _ in range(STEPS))
        share = took / (num_steps * pulled)
        print(
            f"| {kind} | {pulled:.3f} s | {pulled / plain:.2f} | {took:.1f} s | {share:.0%} "
            f"| {kept:.0f} MiB |"
        )


if __name__ == "__main__":
    main()
