"""What each component of SGM does by itself: main effects and interactions of a 2^4 ablation.

    python -m tests.perf.ablation_effects [RESULTS]

Reads the final runs of the job ``sgm.ablation``, whose entries are named by what is on: M, class
means; T, soft targets; L, low-rank adapters; F, frozen rows. An effect is the mean over the entries
with a component less the mean over those without; of two together, half of how much the effect of
one grows by the other. Effects are taken in each final run, with its order and its seed; the
interval is over these.
"""

from __future__ import annotations

import argparse
import json
from itertools import combinations
from pathlib import Path
from typing import Any

from clray.metrics import interval

COMPONENTS = "MTLF"
METRICS = (
    "depth",
    "stability_gap",
    "plasticity_gap",
    "continual_knowledge_gap",
    "continual_minimum_accuracy",
    "average_accuracy",
)


def effects(rows: dict[str, Any], metric: str) -> dict[str, tuple[float, float | None]]:
    """Mean and interval of each main effect and each interaction of two."""
    values = {label: row["test"][metric]["values"] for label, row in rows.items()}
    runs = range(len(next(iter(values.values()))))
    found = {}
    for group in [*COMPONENTS, *map("".join, combinations(COMPONENTS, 2))]:
        each = []
        for run in runs:
            signs = {label: _sign(label, group) for label in values}
            each.append(sum(signs[label] * values[label][run] for label in values) / 8)
        found[group] = interval(each)
    return found


def _sign(label: str, group: str) -> int:
    sign = 1
    for component in group:
        sign *= 1 if component in label.replace("none", "") else -1
    return sign


def main() -> None:
    """Print a table for each board."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("results", nargs="?", default="results", type=Path)
    folder = parser.parse_args().results / "jobs" / "sgm.ablation"
    final = json.loads((folder / "final.json").read_text())
    for board in final["boards"]:
        rows = {row["label"]: row for row in board["rows"] if not row["bound"]}
        print(f"{board['name']}: effect on, in points")
        known = [m for m in METRICS if all(m in row["test"] for row in rows.values())]
        table = {metric: effects(rows, metric) for metric in known}
        print("      " + "".join(f"{metric.replace('_', ' '):>28}" for metric in known))
        for group in table[known[0]]:
            cells = [table[metric][group] for metric in known]
            shown = [f"{100 * mean:+.1f} ± {100 * (half or 0):.1f}" for mean, half in cells]
            print(f"  {group:<4}" + "".join(f"{cell:>28}" for cell in shown))


if __name__ == "__main__":
    main()
