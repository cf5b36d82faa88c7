"""How much of what an old task loses does its kept curvature know of?

A network with pre-trained weights learns the first two tasks of class-incremental CIFAR-10 by
DLCFT, a tenth of the training images each. Printed, after the second: the change of the first
task's outputs, as half the mean squared distance; what is predicted of it by the curvature that
was kept; and the sum of the changes that each layer's steps make alone, which is what an exact
block for each layer would predict.

    CLRAY_DATA=... python tests/perf/curvature_error.py WEIGHTS

WEIGHTS: a file for timm's mobilenetv1_100. Needs CIFAR-10's Parquet files in $CLRAY_DATA/cifar10.
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor

from clray import assembly, registry
from clray.grading import Grader
from clray.methods.dlcft import Dlcft
from clray.models.curved_penalty import Part
from clray.spec import Resources, TrialSpec

CPU = torch.device("cpu")
CASES = [
    ("bilinear", "kfac", 1),
    ("bilinear", "kfac", 30),
    ("linearised", "kfac", 1),
    ("linearised", "kfac", 30),
    ("linearised", "diag", 1),
    ("linearised", "diag", 100),
]


def spec_of(weights: str, **knobs: object) -> TrialSpec:
    plain = {
        "method": {"name": "dlcft", **knobs},
        "benchmark": {
            "name": "split-cifar10",
            "dataset": "parquet:$CLRAY_DATA/cifar10",
            "train_fraction": 0.1,
            "augment": "none",
            "mean": [],
            "std": [],
        },
        "model": {
            "name": "timm/mobilenetv1_100",
            "weights": weights,
            "options": {"pad_type": "same"},
        },
        "protocol": {"epochs": 5, "batch_size": 128, "validation_fraction": 0.2},
        "optimizer": {"name": "adam", "lr": 0.001, "reset": True},
    }
    return registry.complete(TrialSpec.model_validate(plain))


def measure(spec: TrialSpec) -> tuple[float, float, float]:
    """The change, what is predicted of it, and the sum over layers."""
    stream = assembly.build_stream(spec, CPU, Resources())
    learner = assembly.build_learner(spec, stream, CPU)
    assert isinstance(learner, Dlcft)
    grader = Grader(stream, spec.protocol.head, CPU, spec.graded)
    first, second = (task.for_learning() for task in stream.tasks[:2])
    x, y = next(iter(first.train.batches(256)))
    for index, task in enumerate((first, second)):
        grader.set_rivals(learner, index)
        learner.optimizer.state.clear()
        learner.begin_task(task)
        if index == 1:
            with torch.no_grad():
                before = learner.forward(x)
        for epoch in range(spec.protocol.epochs):
            for images, labels in task.train.batches(spec.protocol.batch_size, 0, epoch):
                learner.observe(images, labels, task)
        if index == 0:
            learner.end_task(task)

    @torch.no_grad()
    def change() -> float:
        gap = (learner.forward(x) - before) * learner.competing(y)
        return float(gap.square().sum(1).mean() / 2)

    penalty, whole = learner.penalty, change()
    ends = {
        name: [p.detach().clone() for p in part.parameters] for name, part in penalty.parts.items()
    }
    predicted = alone = 0.0
    for name, part in penalty.parts.items():
        step = part.pack([p - c for p, c in zip(ends[name], penalty.centres[name], strict=True)])
        predicted += float((step * penalty.blocks[name].times(step)).sum() / 2)
    for name in penalty.parts:
        for other, rest in penalty.parts.items():
            put(rest, ends[other] if other == name else penalty.centres[other])
        alone += change()
    return whole, predicted, alone


@torch.no_grad()
def put(part: Part, values: list[Tensor]) -> None:
    for p, value in zip(part.parameters, values, strict=True):
        p.copy_(value)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("weights")
    weights = parser.parse_args().weights
    print("| head | curvature | past_weight | change | predicted | sum of each layer's alone |")
    print("|---|---|---|---|---|---|")
    for head, curvature, past_weight in CASES:
        torch.manual_seed(0)
        spec = spec_of(weights, head=head, curvature=curvature, past_weight=past_weight)
        told = " | ".join(f"{value:.2f}" for value in measure(spec))
        print(f"| {head} | {curvature} | {past_weight} | {told} |", flush=True)


if __name__ == "__main__":
    main()
