"""What orders that begin with the same task cost together, against as many runs of their own.

    python tests/perf/shared_orders.py [METHOD] [ORDERS]

On Split-Digits, five tasks (halrp, four orders by default). Together, the orders lie in one results
folder, as those of a job do; alone, each has its own. Steps are those that were made.
"""

from __future__ import annotations

import itertools
import json
import sys
import tempfile
import time
from pathlib import Path

from clray import registry, trial
from clray.spec import TrialSpec
from clray.store import trial_folder


def spec(method: str, tasks: tuple[int, ...]) -> TrialSpec:
    """The trial of one order."""
    plain = {
        "method": method,
        "benchmark": {"name": "split-digits", "scenario": "task-incremental"},
        "model": {"name": "mlp", "hidden": [256, 256]},
        "protocol": {"epochs": 20},
        "optimizer": {"name": "adam", "lr": 0.001},
        "split": "test",
        "tasks": tasks,
    }
    return registry.complete(TrialSpec.model_validate(plain))


def steps_made(results: str) -> int:
    """By all trials that lie there."""
    found = Path(results).glob("trials/*/timing.json")
    return sum(json.loads(file.read_text())["steps"] for file in found)


def main(method: str, number: int) -> None:
    """Run and print."""
    orders = [(0, *rest) for rest in itertools.permutations((1, 2, 3, 4))][::5][:number]
    trial.run(spec(method, orders[0]), trial_folder(tempfile.mkdtemp(), "warm-up"))
    made: dict[str, tuple[int, float]] = {}
    for name in ("alone", "together"):
        one = tempfile.mkdtemp()
        roots = [one if name == "together" else tempfile.mkdtemp() for _ in orders]
        start = time.perf_counter()
        for root, order in zip(roots, orders, strict=True):
            own = spec(method, order)
            trial.run(own, trial_folder(root, own.key))
        seconds = time.perf_counter() - start
        made[name] = sum(steps_made(root) for root in dict.fromkeys(roots)), seconds
    print(f"{method}, {len(orders)} orders that begin with the same of five tasks")
    for name, (steps, seconds) in made.items():
        ratios = [now / before for now, before in zip((steps, seconds), made["alone"], strict=True)]
        print(f"{name:10}{steps:8} steps {ratios[0]:7.3f}{seconds:9.2f} s {ratios[1]:7.3f}")


if __name__ == "__main__":
    chosen = sys.argv[1] if len(sys.argv) > 1 else "halrp"
    main(chosen, int(sys.argv[2]) if len(sys.argv) > 2 else 4)
