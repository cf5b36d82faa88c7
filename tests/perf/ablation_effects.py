"""What each component of SGM does by itself: main effects and interactions of a 2^4 ablation.

    python -m tests.perf.ablation_effects [RESULTS]

Reads the final runs of the job ``sgm.ablation``, whose entries are named by what is on: M, class
means; T, soft targets; L, low-rank adapters; F, frozen rows; R, least squares in place of M. Shows
each entry, and then two designs: all without R, and all without M. An effect is the mean over the
entries with a component less the mean over those without; of two together, half of how much the
effect of one grows by the other. Effects are taken in each final run, with its order and its seed;
the interval is over these.
"""

from __future__ import annotations

import argparse
import json
from itertools import combinations
from pathlib import Path
from typing import Any

from clray.metrics import interval

DESIGNS = ("MTLF", "RTLF")
METRICS = (
    "average_accuracy",
    "depth",
    "stability_gap_early",
    "plasticity_gap",
    "continual_knowledge_gap",
)

Cell = tuple[float, float | None]


def effects(rows: dict[str, Any], components: str, metric: str) -> dict[str, Cell]:
    """Mean and interval of each main effect and each interaction of two."""
    values = {
        label: row["test"][metric]["values"]
        for label, row in rows.items()
        if label == "none" or set(label) <= set(components)
    }
    assert len(values) == 2 ** len(components)
    runs = range(len(values["none"]))
    found = {}
    for group in [*components, *map("".join, combinations(components, 2))]:
        each = []
        for run in runs:
            signs = {label: _sign(label, group) for label in values}
            total = sum(signs[label] * values[label][run] for label in values)
            each.append(total / (len(values) / 2))
        found[group] = interval(each)
    return found


def _sign(label: str, group: str) -> int:
    sign = 1
    for component in group:
        sign *= 1 if component in label.replace("none", "") else -1
    return sign


def _show(head: str, table: dict[str, dict[str, Cell]], form: str) -> None:
    """A line for each key, a column for each metric, in points."""
    print(head)
    print("      " + "".join(f"{metric.replace('_', ' '):>26}" for metric in table))
    for key in next(iter(table.values())):
        shown = []
        for metric in table:
            mean, half = table[metric][key]
            shown.append(f"{100 * mean:{form}.1f}" + (f" ± {100 * half:.1f}" if half else ""))
        print(f"  {key:<5}" + "".join(f"{cell:>26}" for cell in shown))


def main() -> None:
    """Print a table of entries and two of effects for each board."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("results", nargs="?", default="results", type=Path)
    folder = parser.parse_args().results / "jobs" / "sgm.ablation"
    final = json.loads((folder / "final.json").read_text())
    for board in final["boards"]:
        rows = {row["label"]: row for row in board["rows"] if not row["bound"]}
        entries = {
            metric: {
                label: (row["test"][metric]["mean"], row["test"][metric]["interval"])
                for label, row in rows.items()
            }
            for metric in METRICS
        }
        _show(f"{board['name']}: each entry, in points", entries, "")
        for components in DESIGNS:
            table = {metric: effects(rows, components, metric) for metric in METRICS}
            _show(f"{board['name']}: effects of {components}, in points", table, "+")


if __name__ == "__main__":
    main()
