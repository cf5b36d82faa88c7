"""The stability gap on split digits: where SGM closes it, and where it hurts.

The setting is that of the behavioural test which SGM's thresholds were found with: an encoder that
has seen other samples of all ten digits, six classes first and then two and two, 100 updates on
each, five old examples of a class in the memory or all of them. Seeds are fresh: none of these was
used to choose a threshold.
"""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from clray import registry, trial
from clray.spec import TrialSpec
from clray.store import Folder
from clray.traces import (
    Reference,
    Trace,
    reference_metrics,
    reference_of,
    trace_metrics,
    traces_of,
    updates_to_reach,
)

pytestmark = pytest.mark.slow

SEEDS = range(8, 16)
UPDATES = 100
SMALL, ALL = 40, 1_100
"""Examples in the memory: five of each class at the end, or every one."""

OFF = {"class_means": False, "soft_targets": "none", "lora": "off", "freeze_old": "none"}
METHODS: dict[str, dict[str, Any]] = {
    "vanilla": {"name": "er"},
    "vanilla, onecycle": {"name": "er", "schedule": "onecycle", "peak": 1.5},
    "class means alone": {"name": "er", "class_means": True},
    "sgm": {"name": "sgm", "lora": "on", "lora_rank": 16},
    "sgm without class means": {
        "name": "sgm",
        "lora": "on",
        "lora_rank": 16,
        "class_means": False,
    },
}


def spec(method: dict[str, Any], seed: int, memory: int, model: Any) -> TrialSpec:
    rehearses = method["name"] != "joint"
    storing = {"storage": "class-balanced", "memory_batch": 32} if rehearses else {}
    plain = {
        "method": {**storing, **method},
        "benchmark": {
            "name": "split-digits",
            "dataset": "digits-rest",
            "task_sizes": [6, 2, 2],
            "class_order": "trial-seed",
        },
        "model": model,
        "protocol": {
            "updates": UPDATES if rehearses else 800,
            "first_updates": 300 if rehearses else 800,
            "batch_size": 32,
            "memory": memory,
            "evaluation": {"every": 1 if rehearses else 800, "first": 0, "subset": 1_000},
        },
        "optimizer": {"name": "adamw", "lr": 0.001, "weight_decay": 0.05, "reset": True},
        "split": "test",
        "seed": seed,
    }
    return registry.complete(TrialSpec.model_validate(plain))


@cache
def traced(method: str, seed: int, memory: int, model: str) -> list[Trace]:
    known = {"joint": {"name": "joint", "restart": True}, **METHODS}[method]
    with TemporaryDirectory() as folder:
        networks: dict[str, Any] = {
            "transferable": "digits_mlp",
            "weak": {"name": "digits_mlp", "classes": [0, 1, 2, 3, 4, 5]},
            "without a norm": {"name": "digits_mlp", "norm": "none"},
        }
        one = spec(known, seed, memory if method != "joint" else 0, networks[model])
        outcome = trial.run(one, Folder(str(Path(folder) / "trial")))
    assert outcome.state == "completed"
    return traces_of(outcome.records)


@cache
def measured(method: str, memory: int, model: str = "transferable") -> dict[str, float]:
    """Means over seeds."""
    found: dict[str, list[float]] = {}
    for seed in SEEDS:
        traces = traced(method, seed, memory, model)
        joint = [reference_of(trace) for trace in traced("joint", seed, memory, model)]
        values = {**trace_metrics(traces), **reference_metrics(traces, joint)}
        values["minimum_old"] = _mean([min(t.of_group("old") or []) for t in traces[1:]])
        values["final_all"] = (traces[-1].of_group("all") or [])[-1]
        values["steps_97"] = _steps_97(traces, joint)
        for name, value in values.items():
            found.setdefault(name, []).append(math.nan if value is None else value)
    return {name: _mean(values) for name, values in found.items()}


def _steps_97(traces: list[Trace], joint: list[Reference]) -> float:
    """Mean updates to 97 % of joint training, of those that never reach it one more than all."""
    pairs = list(zip(traces, joint, strict=True))[1:]
    found = [updates_to_reach(trace, reference, 0.97) for trace, reference in pairs]
    return _mean([UPDATES + 1 if update is None else update for update in found])


def _mean(values: list[float]) -> float:
    return math.fsum(values) / len(values)
