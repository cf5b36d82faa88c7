"""How far from joint training is what is learned task by task, where nothing is approximate?

A linearised network of 89 weights learns three tasks of 25, 40 and 60 examples, each to its very
minimum, in float64. Printed is the distance of its steps from those of joint training, relative to
their length: in data-incremental streams, and in class-incremental ones.

    python -m tests.perf.exact_case
"""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import Tensor

from clray.models.linearised_learner import LinearisedLearner
from clray.task import Task
from tests.methods.conftest import small_learner
from tests.methods.exact_learning import SHAPE, joined, learn, tasks_of

SIZES = [25, 40, 60]
STREAMS = {"data-incremental": None, "class-incremental": [(0, 1), (2,), (3,)]}


def learner_of(method: str, scenario: str, **knobs: Any) -> LinearisedLearner:
    setting = {"image_shape": SHAPE, "num_examples": sum(SIZES), "scenario": scenario}
    own = {"head": "linearised", "ridge": 1e-2, "slope": 0.1, **knobs}
    learner = small_learner(method, hidden=(5, 5), setting=setting, **own)
    assert isinstance(learner, LinearisedLearner)
    return learner


def distance(scenario: str, order: list[Task], joint: Tensor, **knobs: Any) -> float:
    found = learn(learner_of("dlcft", scenario, **knobs), order)
    return float((found - joint).norm() / joint.norm())


def main() -> None:
    torch.set_default_dtype(torch.float64)
    print("| curvature | order | " + " | ".join(STREAMS) + " |")
    print("|---|---|" + "---|" * len(STREAMS))
    streams = {name: tasks_of(SIZES, classes=classes) for name, classes in STREAMS.items()}
    joint = {
        name: learn(learner_of("joint_linear", name), [joined(tasks)])
        for name, tasks in streams.items()
    }
    orders = list(itertools.permutations(range(3)))
    rows = [("full", order) for order in orders]
    rows += [(kind, orders[0]) for kind in ("ekfac", "tkfac", "kfac", "diag", "none")]
    for kind, order in rows:
        found = [
            distance(name, [tasks[i] for i in order], joint[name], curvature=kind, noise="exact")
            for name, tasks in streams.items()
        ]
        told = " ".join(str(i + 1) for i in order)
        print(f"| {kind} | {told} | " + " | ".join(f"{value:.1e}" for value in found) + " |")


if __name__ == "__main__":
    main()
