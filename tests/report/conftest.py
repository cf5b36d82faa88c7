"""Contents of a ``final.json``, made by hand, and whole folders of results, drawn."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from clray import metrics
from clray.metrics import interval

STATES = ("completed", "stopped", "diverged", "failed")
SPACE = {
    "optimizer": {"lr": {"range": [1e-3, 1.0], "log": True}, "momentum": {"range": [0, 0.95]}},
    "method": {"strength": {"range": [1, 1e4], "log": True}},
    "protocol": {"batch_size": {"choice": [16, 32, 64]}},
}


class Made:
    """Makes rows, boards and finals."""

    def estimate(self, values: Sequence[float | None]) -> dict[str, Any]:
        """As stored: mean and interval over the runs that completed."""
        known = [value for value in values if value is not None]
        mean, half = interval(known) if known else (None, None)
        return {"mean": mean, "interval": half, "values": list(values)}

    def row(self, label: str, accuracies: Sequence[float | None], **others: Any) -> dict[str, Any]:
        """An entry with these average accuracies on test, one for each final run."""
        forgetting = [None if value is None else (1 - value) / 2 for value in accuracies]
        return {
            "label": label,
            "method": label.partition(".")[0],
            "values": {"optimizer.lr": 0.0312345},
            "trials": {"completed": 16, "diverged": 0, "stopped": 0, "failed": 0},
            "validation": {"average_accuracy": 0.9},
            "test": {
                "average_accuracy": self.estimate(accuracies),
                "forgetting": self.estimate(forgetting),
                "learning_accuracy": self.estimate([0.99] * len(accuracies)),
            },
            "seeds": len(accuracies),
            "parameters": 1_234_567,
            "examples": 200,
            "bytes": 4_938_268,
            "train_seconds": 200.4,
            "key": f"{label}-chosen",
            "test_keys": [f"{label}-{run}" for run in range(len(accuracies))],
            "budget": {
                "trials": 16,
                "task_trainings": 80,
                "examples_seen": 160_000,
                "seconds": 90.5,
            },
            **others,
        }

    def board(self, rows: Sequence[dict[str, Any]], **others: Any) -> dict[str, Any]:
        """A board with these rows."""
        return {
            "benchmark": {"name": "split-digits", "scenario": "class-incremental"},
            "model": {"name": "mlp"},
            "selection": {"name": "end-of-training"},
            "title": "end-of-training",
            "chosen_on": "validation examples of the whole stream, at its end",
            "objectives": ["average_accuracy"],
            "num_tasks": 5,
            "rows": list(rows),
            **others,
        }

    def final(self, *boards: dict[str, Any]) -> dict[str, Any]:
        """A finished job with these boards."""
        return {"job": "quickstart", "results": "results/jobs/quickstart", "boards": list(boards)}


@pytest.fixture
def made() -> Made:
    """Makes rows, boards and finals."""
    return Made()


class Stored:
    """Writes believable results: a job's folder, and the trials beside it.

    Args:
        results: the folder of results.
        seed: of all numbers.
    """

    def __init__(self, results: Path, seed: int = 0) -> None:
        self.results = results
        self.draw = np.random.default_rng(seed)

    def job(
        self,
        name: str = "quickstart",
        *,
        methods: Sequence[str] = ("er", "ewc", "finetune"),
        trials: int = 12,
        tasks: int = 5,
        seeds: int = 3,
        selections: Sequence[str] = ("end-of-training",),
        arenas: Sequence[str] = (),
        objectives: Sequence[str] = ("average_accuracy",),
        orders: Sequence[str] = (),
        finished: bool = True,
    ) -> Path:
        """Write a job with its final runs; its folder.

        Args:
            name: of the job.
            methods: labels; joint is added as a bound.
            trials: of the search, for each method and board.
            tasks: of the stream.
            seeds: final runs of each row, in each order.
            selections: protocols, each a board.
            arenas: labels of benchmarks, each with a board for each protocol.
            objectives: of the search; several give fronts.
            orders: names of the final runs' task orders.
            finished: whether there is a final.json.
        """
        folder = self.results / "jobs" / name
        folder.mkdir(parents=True)
        spec = {
            "name": name,
            "protocol": {"selection": list(selections), "memory": 200},
            "methods": {
                label: {"space": SPACE, "trials": trials, "bound": label == "joint"}
                for label in (*methods, "joint")
            },
            "search": {"objective": list(objectives), "trials": trials},
            "final": {"seeds": seeds},
        }
        spec |= {"benchmarks": dict.fromkeys(arenas, "split-digits")} if arenas else {}
        spec |= {} if arenas else {"benchmark": "split-digits"}
        (folder / "job.yaml").write_text(yaml.safe_dump(spec, sort_keys=False))
        lines, boards = [], []
        several = len(selections) * max(1, len(arenas)) > 1
        for arena in arenas or ("",):
            for selection in selections:
                title = "/".join(filter(None, (arena, selection))) if several else ""
                rows = []
                for place, label in enumerate((*methods, "joint")):
                    found = self._search(title, label, place, trials, tasks, objectives, selection)
                    lines += found
                    rows += self._rows(found, label, place, tasks, seeds, orders, selection)
                boards.append(
                    {
                        "name": title,
                        "arena": arena,
                        "benchmark": {"name": "split-digits", "scenario": "class-incremental"},
                        "model": {"name": "mlp"},
                        "selection": {"name": selection},
                        "title": selection,
                        "chosen_on": "test" if selection == "oracle" else "validation examples",
                        "leak": "chosen on test" if selection == "oracle" else None,
                        "objectives": list(objectives),
                        "num_tasks": tasks,
                        "rows": rows,
                    }
                )
        (folder / "trials.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        start = {
            "started": "2026-03-01T10:00:00",
            "clray": "0.1.0",
            "versions": {"torch": "2.15.0", "ray": "2.60.0", "optuna": "5.0.0"},
            "git": "c0ffee1",
            "machine": {"host": "laptop", "cpus": 8, "gpus": 0},
            "command": ["clray", "sweep", f"jobs/{name}.yaml"],
        }
        (folder / "provenance.json").write_text(json.dumps([start]))
        if finished:
            final = {"job": name, "results": str(folder), "boards": boards}
            content = {**final, "seconds": {"this_run": 754.2}}
            (folder / "final.json").write_text(json.dumps(content))
        return folder

    def _search(
        self,
        board: str,
        label: str,
        place: int,
        trials: int,
        tasks: int,
        objectives: Sequence[str],
        selection: str,
    ) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        for number in range(1 if label == "joint" else trials):
            lr, strength = (
                float(10 ** self.draw.uniform(-3, 0)),
                float(10 ** self.draw.uniform(0, 4)),
            )
            values = {
                "optimizer.lr": lr,
                "method.strength": strength,
                "protocol.batch_size": int(self.draw.choice([16, 32, 64])),
                "optimizer.momentum": float(self.draw.uniform(0, 0.95)),
            }
            miss = (np.log10(lr) + 1.2) ** 2 / 6 + (np.log10(strength) - 2) ** 2 / 20
            value = float(np.clip(0.86 - 0.08 * place - miss + self.draw.normal(0, 0.015), 0.05, 1))
            value = 0.97 if label == "joint" else value
            measures = {
                "average_accuracy": value,
                "forgetting": float(np.clip((1 - value) * strength**-0.1, 0, 1)),
                "bytes": 1e5 * (1 + place) * (1 + strength / 1e4),
            }
            state = str(self.draw.choice(STATES, p=(0.8, 0.14, 0.04, 0.02)))
            state = "completed" if number == 0 or label == "joint" else state
            done = state == "completed"
            found.append(
                {
                    "board": board,
                    "label": label,
                    "number": number,
                    "task": number * tasks // trials if selection == "seen-tasks" else None,
                    "keys": [self._key()],
                    "values": {} if label == "joint" else values,
                    "state": state,
                    "value": measures[objectives[0]] if done else None,
                    "measures": measures if done else {},
                    "trace": [value] * int(self.draw.integers(2, tasks))
                    if not done and tasks > 2
                    else [],
                    "error": None if done else "boom",
                }
            )
        completed = [line for line in found if line["state"] == "completed"]
        best = sorted(completed, key=lambda line: -line["measures"]["average_accuracy"])
        for line in best[: 2 if len(objectives) > 1 else 1]:
            line["chosen"] = True
        return found

    def _rows(
        self,
        found: list[dict[str, Any]],
        label: str,
        place: int,
        tasks: int,
        seeds: int,
        orders: Sequence[str],
        selection: str,
    ) -> list[dict[str, Any]]:
        rows = []
        shift = float(self.draw.normal(0, 0.04))
        for line in (line for line in found if line.get("chosen")):
            runs = [
                self._run(label, place, tasks, shift) for _ in range(seeds * max(1, len(orders)))
            ]
            measured = [metrics.all_metrics(R) for _, R in runs]
            test = {
                name: Made().estimate([one[name] for one in measured])
                for name in ("average_accuracy", "forgetting", "learning_accuracy")
            }
            shares = {"optimizer.lr": 0.61, "method.strength": 0.27, "optimizer.momentum": 0.12}
            several = sum(bool(other.get("chosen")) for other in found) > 1
            dynamic = selection == "seen-tasks" and label != "joint"
            rows.append(
                {
                    "label": label,
                    "method": label,
                    "bound": label == "joint",
                    "values": line["values"],
                    "trajectory": [
                        {**line["values"], "optimizer.lr": 0.1 / (t + 1)} for t in range(tasks)
                    ]
                    if dynamic
                    else None,
                    "number": line["number"] if several else None,
                    "trials": {s: sum(o["state"] == s for o in found) for s in STATES},
                    "validation": line["measures"],
                    "test": test,
                    "order_disparity": [0.04 + 0.01 * place, 0.12] if orders else None,
                    "seeds": len(runs),
                    "orders": list(orders),
                    "parameters": 89_610,
                    "examples": 200,
                    "bytes": 358_440,
                    "train_seconds": 12.5 * (place + 1),
                    "key": line["keys"][0],
                    "test_keys": [key for key, _ in runs],
                    "budget": {
                        "trials": len(found),
                        "task_trainings": len(found) * (3 if selection == "first-k" else tasks),
                        "examples_seen": 1000 * tasks * len(found),
                        "seconds": 60.5,
                    },
                    "transfer": {"configurations": 8, "rank_correlation": 0.71, "regret": 0.013}
                    if selection == "gtep"
                    else None,
                    "importances": {"average_accuracy": shares} if label != "joint" else {},
                }
            )
        return rows

    def _run(
        self, label: str, place: int, tasks: int, shift: float
    ) -> tuple[str, list[list[float | None]]]:
        """Store one final run; its key and its accuracy matrix."""
        key, loss = self._key(), 0.0 if label == "joint" else 0.04 + 0.05 * place
        R: list[list[float | None]] = [
            [
                float(np.clip(0.97 + shift - loss * (t - i) + self.draw.normal(0, 0.02), 0, 1))
                for i in range(t + 1)
            ]
            for t in range(tasks)
        ]
        folder = self.results / "trials" / key
        folder.mkdir(parents=True)
        records = [
            {
                "task": t,
                "name": f"{2 * t}-{2 * t + 1}" if tasks <= 20 else f"permutation {t}",
                "accuracy": row,
                "footprint": {
                    "parameters": 89_610 + 650 * t * place,
                    "bytes": 358_440 * (1 + t * place / 4),
                    "examples": min(200, 50 * (t + 1)) if label == "er" else 0,
                },
                "steps": 40,
                "examples_seen": 2560,
                "metrics": metrics.all_metrics(R[: t + 1]),
            }
            for t, row in enumerate(R)
        ]
        (folder / "records.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
        ended = {"state": "completed", "metrics": records[-1]["metrics"]}
        seconds = [float(0.4 + 0.1 * place + self.draw.uniform(0, 0.1)) for _ in range(tasks)]
        spec = {"method": {"name": label}, "benchmark": {"name": "split-digits"}, "split": "test"}
        for name, content in (
            ("spec", spec),
            ("result", ended),
            ("timing", {"train": sum(seconds), "eval": 0.1, "store": 0.1, "tasks": seconds}),
        ):
            (folder / f"{name}.json").write_text(json.dumps(content))
        return key, R

    def _key(self) -> str:
        return self.draw.bytes(10).hex()


@pytest.fixture
def stored(tmp_path: Path) -> Stored:
    """Writes believable results into a folder of their own."""
    return Stored(tmp_path / "results")
