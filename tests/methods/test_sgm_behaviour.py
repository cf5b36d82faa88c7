"""The stability gap on split digits: where SGM closes it, and where it hurts.

An encoder has seen other samples of all ten digits, a head is fitted to six classes, and then come
two and two, with 100 updates on each and five old examples of a class in the memory, or all of
them. The thresholds were found on other seeds, in an independent program.
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

SGM = {"name": "sgm", "lora": "on", "lora_rank": 16}
METHODS: dict[str, dict[str, Any]] = {
    "vanilla": {"name": "er"},
    "vanilla, onecycle": {"name": "er", "schedule": "onecycle", "peak": 1.5},
    "class means alone": {"name": "er", "new_rows": "class-means"},
    "sgm": SGM,
    "sgm without class means": {**SGM, "new_rows": "random"},
    "sgm without soft targets": {**SGM, "soft_targets": "none"},
    "sgm without adapters": {**SGM, "lora": "off"},
    "sgm without freezing": {**SGM, "freeze_old": "none"},
}
NETWORKS: dict[str, dict[str, Any]] = {
    "transferable": {"name": "digits_mlp"},
    "weak": {"name": "digits_mlp", "classes": [0, 1, 2, 3, 4, 5]},
    "without a norm": {"name": "digits_mlp", "norm": "none"},
}


def spec(method: dict[str, Any], seed: int, memory: int, network: str) -> TrialSpec:
    rehearses = method["name"] != "joint"
    storing = {"storage": "class-balanced", "memory_batch": 32} if rehearses else {}
    plain = {
        "method": {**storing, **method},
        "benchmark": {
            "name": "split-digits",
            "dataset": "digits-rest",
            "task_sizes": [6, 2, 2],
            "class_order": "natural" if network == "weak" else "trial-seed",
        },
        "model": NETWORKS[network],
        "protocol": {
            "updates": UPDATES if rehearses else 800,
            "first_updates": 1_500 if rehearses else 800,
            "first_learns": "head" if rehearses else "all",
            "batch_size": 32,
            "memory": memory,
            "evaluation": {"every": 100, "first": UPDATES if rehearses else 0, "subset": 1_000},
        },
        "optimizer": {"name": "adamw", "lr": 0.001, "weight_decay": 0.05, "reset": True},
        "split": "test",
        "seed": seed,
    }
    return registry.complete(TrialSpec.model_validate(plain))


@cache
def traced(method: str, seed: int, memory: int, network: str) -> list[Trace]:
    known = {"joint": {"name": "joint", "restart": True}, **METHODS}[method]
    with TemporaryDirectory() as folder:
        one = spec(known, seed, memory, network)
        outcome = trial.run(one, Folder(str(Path(folder) / "trial")))
    assert outcome.state == "completed"
    return traces_of(outcome.records)


@cache
def measured(method: str, memory: int, network: str = "transferable") -> dict[str, float]:
    """Means over seeds."""
    found: dict[str, list[float]] = {}
    for seed in SEEDS:
        traces = traced(method, seed, memory, network)
        joint = [reference_of(trace) for trace in traced("joint", seed, 0, network)]
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


def test_with_few_old_examples_sgm_closes_most_of_the_gap() -> None:
    sgm, vanilla = measured("sgm", SMALL), measured("vanilla", SMALL)
    cycle = measured("vanilla, onecycle", SMALL)
    assert sgm["stability_gap"] < 0.75 * vanilla["stability_gap"]
    assert sgm["stability_gap"] < 0.85 * cycle["stability_gap"]
    assert sgm["continual_knowledge_gap"] < 0.7 * vanilla["continual_knowledge_gap"]
    assert sgm["final_all"] >= vanilla["final_all"]
    assert sgm["steps_97"] < 0.5 * vanilla["steps_97"]
    assert sgm["minimum_old"] > vanilla["minimum_old"] + 0.04


def test_with_all_old_examples_it_dips_less_and_learns_at_once() -> None:
    """It ends a little lower, the price of less plasticity; and without class means it is as
    stable, but does not learn the new classes."""
    sgm, vanilla = measured("sgm", ALL), measured("vanilla", ALL)
    without = measured("sgm without class means", ALL)
    assert sgm["depth"] < 0.5 * vanilla["depth"]
    assert sgm["minimum_old"] > vanilla["minimum_old"] + 0.03
    assert sgm["continual_knowledge_gap"] < vanilla["continual_knowledge_gap"]
    assert without["plasticity_gap"] > 0.1 > sgm["plasticity_gap"]
    assert vanilla["final_all"] - 0.02 < sgm["final_all"] < vanilla["final_all"]


def test_an_encoder_that_saw_the_first_classes_alone_is_hurt_by_sgm_and_helped_by_class_means() -> (
    None
):
    """Frozen hidden layers cannot make features for new classes."""
    sgm, vanilla, rows = (
        measured(name, ALL, "weak") for name in ("sgm", "vanilla", "class means alone")
    )
    assert sgm["continual_knowledge_gap"] > vanilla["continual_knowledge_gap"]
    assert sgm["final_all"] < vanilla["final_all"]
    assert rows["plasticity_gap"] < vanilla["plasticity_gap"]


def test_features_behind_a_relu_alone_are_drowned_by_class_means() -> None:
    sgm, vanilla = (measured(name, ALL, "without a norm") for name in ("sgm", "vanilla"))
    assert sgm["stability_gap"] > 2 * vanilla["stability_gap"]
    assert sgm["depth"] - sgm["depth_after_initialisation"] > 0.3


def test_what_carries_sgm_here_are_class_means_and_adapters() -> None:
    """Freezing rows and softening targets change little."""
    whole = measured("sgm", ALL)
    for left_out in ("freezing", "soft targets"):
        less = measured(f"sgm without {left_out}", ALL)
        assert abs(less["stability_gap"] - whole["stability_gap"]) < 0.005
        assert abs(less["final_all"] - whole["final_all"]) < 0.01
    assert measured("sgm without adapters", ALL)["depth"] > 1.5 * whole["depth"]
    assert measured("sgm without class means", ALL)["plasticity_gap"] > 0.1
