"""What stopping early saves, and what it costs: 30 trials on Split-Digits with ASHA over epochs,
with the median rule, and to their ends; the winners' scores on validation examples, and the
training steps of the whole search.

Run: python tests/perf/early_stopping.py [SEEDS] [METHOD]
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from typing import Any

from clray import protocols, sweep
from clray.events import ignore
from clray.job import JobSpec
from clray.parsing import parse
from clray.protocols.boards import boards_of
from clray.protocols.choosing import static_plan, winners
from clray.protocols.views import views_of
from clray.ray_train import Slots
from clray.spec import Resources, Storing

TRIALS = 30
SCHEDULERS: dict[str, dict[str, Any]] = {
    "none": {"name": "none"},
    "asha by epoch": {"name": "asha", "by": "epoch"},
    "median by epoch": {"name": "median", "by": "epoch"},
    "asha by task": {"name": "asha", "by": "task"},
}


def searched(method: str, seed: int, scheduler: dict[str, Any], slots: Slots) -> tuple[float, int]:
    """The winner's score, and the training examples that the search passed over."""
    plain = {
        "name": "early",
        "benchmark": "split-digits",
        "model": {"name": "mlp", "hidden": [64]},
        "protocol": {"epochs": 10, "memory": 100, "batch_size": 32, "validation_fraction": 0.2},
        "optimizer": {"clip_norm": 1.0},
        "methods": [method],
        "search": {"trials": TRIALS, "seed": seed, "scheduler": scheduler},
    }
    [board] = boards_of(protocols.plan(parse(JobSpec, plain, "early")))
    plan = static_plan(board, board.contenders[0], views_of(board)[0])
    found, _ = sweep.search(plan, slots.results, lambda: slots, ignore)
    [best] = winners(found, plan.search)
    score = best.result.measures["average_accuracy"]
    assert score is not None
    return score, sum(one.examples_seen for one in found)


def main() -> None:
    seeds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    method = sys.argv[2] if len(sys.argv) > 2 else "er"
    whole: list[tuple[float, int]] = []
    for name, scheduler in SCHEDULERS.items():
        # A folder of its own: what one search has stored would be no cost to the next.
        with (
            tempfile.TemporaryDirectory() as results,
            Slots(Resources(slots=2), results, Storing(), ignore) as slots,
        ):
            found = [searched(method, seed, scheduler, slots) for seed in range(seeds)]
        whole = whole or found
        scores = [score for score, _ in found]
        shares = [cost / full for (_, cost), (_, full) in zip(found, whole, strict=True)]
        lost = [full - score for (score, _), (full, _) in zip(found, whole, strict=True)]
        print(
            f"{method}, {name}: winner {statistics.mean(scores):.4f} "
            f"({statistics.mean(lost):+.4f} below the whole search, per seed "
            f"{' '.join(f'{one:+.4f}' for one in lost)}), "
            f"training steps {statistics.mean(shares):.2f} times",
            flush=True,
        )


if __name__ == "__main__":
    main()
