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
KNOBS: dict[str, dict[str, Any]] = {
    "coda_prompt": {"components": 50, "num_layers": 4},
    "dkvb": {"codebooks": 32, "pairs": 64, "key_dim": 8, "key_epochs": 2},
    "gdumb": {"passes": 4},
    "ranpac": {"dimension": 2000},
}
"""What a method needs to suit the small network, or to end in a while."""
EXPECTED: dict[str, Expected] = {
    "finetune": Expected(1, "the yardstick"),
    "joint": Expected(1, "the same step, on all tasks' examples"),
    "separate": Expected(1, "the same step, on a network of the task's own"),
    "ewc": Expected(1.3, "five more passes over the weights, none over examples"),
    "mas": Expected(1.3, "as ewc; its importances are one backward pass for each example"),
    "si": Expected(1.5, "as ewc, and a copy, a difference and a product of all weights"),
    "rwalk": Expected(1.6, "as si, and the square of each gradient"),
    "lwf": Expected(1.33, "the old network's forward pass: 4/3"),
    "er": Expected(2, "64 old examples beside 64 new ones"),
    "er_ace": Expected(2, "the same"),
    "agem": Expected(5, "a gradient on 256 old examples beside 64 new ones"),
    "der": Expected(2, "64 old examples, with their logits"),
    "derpp": Expected(3, "two draws of 64 old examples"),
    "sgm": Expected(2, "as er, and soft targets; its rows are set before the task"),
    "gdumb": Expected(0, "only stores; 4 passes over 500 examples after the task"),
    "icarl": Expected(2.67, "64 old examples and the old network's forward pass on all"),
    "bic": Expected(2.67, "the same"),
    "gpm": Expected(3.3, "g - g M M' with K of 785 directions: K / 96 more, K some 220"),
    "packnet": Expected(1.3, "weights put together from what is claimed and what learns"),
    "hat": Expected(1.4, "gates, and a factor for each gradient"),
    "apd": Expected(4, "ten passes over the weights, and as many for each earlier task"),
    "supsup": Expected(1.6, "the largest scores of each layer are found anew"),
    "ssnet": Expected(1.4, "half as supsup, half on the mask's weights"),
    "exssnet": Expected(1.4, "the same"),
    "halrp": Expected(1.5, "theta = R (W + U V) S: put together from thin factors"),
    "laplace": Expected(6, "curvature in Kronecker factors: 785 x 785 times each layer's weights"),
    "dlcft": Expected(8, "the same, and a step with tangents, two to three plain ones"),
    "joint_linear": Expected(2.7, "forward with tangents, and backward through them"),
    "linear_probe": Expected(1.3, "on pixels a step is overhead; features are standardised"),
    "two_layer_probe": Expected(4, "a hidden layer of 128 over 784 pixels, where there was none"),
    "ncm": Expected(0.1, "sums of features by class, no gradient"),
    "knn": Expected(0.1, "stores features, no gradient"),
    "slda": Expected(3, "the covariance of 784 pixels in place of a 10 x 784 gradient"),
    "ridge_probe": Expected(3, "the same"),
    "ranpac": Expected(15, "2,000 random features and their covariance; solved after the task"),
    "dkvb": Expected(5, "the nearest of 64 keys in 32 codebooks"),
    "l2p": Expected(6, "forward alone is 1 here; a query, and 17 + 25 tokens there and back"),
    "coda_prompt": Expected(4.5, "a query, and prefixes in all blocks, there and back"),
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
