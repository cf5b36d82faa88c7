"""What a training step of each method costs, beside one of fine-tuning.

    python -m tests.perf.step_cost [METHOD]... [--rounds N]

Images of 1 x 28 x 28, five tasks of two classes, 80 steps of 64 examples each, SGD, one thread, an
MLP 256-256 (the identity for methods on frozen encoders, a ViT of 4 blocks for prompts). In each
round the method and fine-tuning, with the same network and in the same scenario, learn the stream
task by task in turns, so that what else the machine does falls on both; ratios are medians over
rounds and tasks from the second on. What a method does around a task (importances, exemplars,
training on its memory) is timed apart, and shown in plain steps. ``expected`` is what a method's
arithmetic lets one expect of its step, counted in passes (forward 1, backward 2: a plain step is 3)
over this network.
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import dataclass
from typing import Any

import torch

from clray import assembly, registry
from clray.grading import Grader
from clray.learner import Learner
from clray.spec import Resources, TrialSpec
from clray.task import Stream

PER_CLASS = 640
"""Examples: 20 steps an epoch."""
EPOCHS = 4
PLAIN = "finetune"
CPU = torch.device("cpu")
IDENTITY = {"name": "mlp", "hidden": []}
VIT = {
    "name": "timm/vit_tiny_patch16_224",
    "frozen": True,
    "options": {"img_size": 28, "patch_size": 7, "embed_dim": 64, "depth": 4, "num_heads": 4},
}


@dataclass(frozen=True)
class Expected:
    """A step in multiples of a plain one, and why."""

    factor: float
    reason: str


NETWORK = {"name": "mlp", "hidden": [256, 256]}
MODELS: dict[str, dict[str, Any]] = {"l2p": VIT, "coda_prompt": VIT}
KNOBS: dict[str, dict[str, Any]] = {}
"""What a method needs to suit the small network."""
EXPECTED: dict[str, Expected] = {
    "finetune": Expected(1, "the yardstick"),
}
"""Every method has its line here."""


def spec_of(method: str, like: str, model: dict[str, Any]) -> TrialSpec:
    """The trial of a method, in the scenario and with the network that ``like`` is given."""
    learner = registry.find("method", like).learner
    wanted = ("class-incremental", "task-incremental", "domain-incremental")
    scenario = next(name for name in wanted if name in learner.scenarios)
    plain = {
        "method": {"name": method, **KNOBS.get(method, {})},
        "benchmark": {
            "name": "synthetic",
            "dataset": f"synthetic/10x{PER_CLASS}",
            "image_size": 28,
            "channels": 1,
            "scenario": scenario,
        },
        "model": model,
        "protocol": {"batch_size": 64, "memory": 500, "epochs": EPOCHS},
        "optimizer": {"lr": 0.01},
    }
    return registry.complete(TrialSpec.model_validate(plain))


class Course:
    """A learner on its way through the stream, task by task."""

    def __init__(self, spec: TrialSpec, stream: Stream) -> None:
        self.stream = stream
        self.learner: Learner = assembly.build_learner(spec, stream, CPU)
        self.grader = Grader(stream, "fixed", CPU)

    def learn(self, index: int) -> tuple[float, float]:
        """Seconds of a step of the task, and of all that is done before its first and after its
        last one."""
        task = self.stream.tasks[index].for_learning()
        learner = self.learner
        self.grader.set_rivals(learner, index)
        learner.train_mode(True)
        start = time.perf_counter()
        learner.begin_task(task)
        around, inside, steps = time.perf_counter() - start, 0.0, 0
        for epoch in range(EPOCHS):
            learner.train_mode(True)
            learner.begin_epoch(task, epoch, EPOCHS)
            for x, y in task.train.batches(64, 0, epoch):
                start = time.perf_counter()
                learner.observe(x, y, task)
                inside += time.perf_counter() - start
                steps += 1
        start = time.perf_counter()
        learner.end_task(task)
        return inside / steps, around + time.perf_counter() - start


def compare(method: str, rounds: int) -> tuple[float, float, float]:
    """Medians: a step and a plain one in ms, their ratio, and what is done around a task in plain
    steps."""
    found = registry.find("method", method)
    model = MODELS.get(method, IDENTITY if found.learner.frozen_encoder else NETWORK)
    specs = [spec_of(name, method, model) for name in (method, PLAIN)]
    streams = [assembly.build_stream(spec, CPU, Resources()) for spec in specs]
    own, plain, ratios, around = [], [], [], []
    for _ in range(rounds):
        courses = [Course(spec, stream) for spec, stream in zip(specs, streams, strict=True)]
        for index in range(len(streams[0].tasks)):
            (step, aside), (yardstick, _) = (course.learn(index) for course in courses)
            if index:
                own.append(step)
                plain.append(yardstick)
                ratios.append(step / yardstick)
                around.append(aside / yardstick)
    medians = [statistics.median(values) for values in (own, plain, ratios, around)]
    return 1e3 * medians[0], medians[2], medians[3]


def main() -> None:
    """Print a row for each method."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("methods", nargs="*")
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    if unknown := set(registry.names("method")) - set(EXPECTED):
        parser.error(f"no expectation of {', '.join(sorted(unknown))}")
    print(f"{'method':<18}{'step':>9}{'ratio':>7}{'expected':>10}{'around a task':>22}  reason")
    for method in asked.methods or EXPECTED:
        step, ratio, around = compare(method, asked.rounds)
        expected = EXPECTED[method]
        row = f"{method:<18}{step:>6.2f} ms{ratio:>7.2f}{expected.factor:>10.2f}"
        print(f"{row}{around:>9.1f} plain steps  {expected.reason}", flush=True)


if __name__ == "__main__":
    main()
