"""One trial as a page."""

from __future__ import annotations

import io
from typing import Any

from rich.console import Console

from clray.report.stored import Trial
from clray.report.trial import trial_page


def _shown(**others: Any) -> str:
    footprint = {"parameters": 12_000.0, "examples": 100.0, "bytes": 48_000.0}
    record = {"steps": 40, "examples_seen": 640, "footprint": footprint}
    trial = Trial.model_validate(
        {
            "key": "k",
            "state": "completed",
            "spec": {"method": {"name": "ewc"}, "benchmark": {"name": "split-digits"}, "seed": 4},
            "metrics": {
                "average_accuracy": 0.75,
                "growth": 0.2,
                "steps": 80,
                "minimum_accuracy": 0.5,
            },
            "records": [
                {"task": 0, "name": "0-1", "accuracy": [1.0, None], **record},
                {"task": 1, "name": "2-3", "accuracy": [0.5, 1.0], **record},
            ],
            "seconds": {"train": 2.0},
            "path": "results/trials/k",
            **others,
        }
    )
    text = io.StringIO()
    Console(file=text, width=80, markup=False, highlight=False).print(trial_page(trial, 80))
    return " ".join(text.getvalue().split())


def test_metrics_and_costs() -> None:
    shown = _shown()
    assert "ewc on split-digits with , seed 4 completed, graded on validation examples" in shown
    for piece in ("average accuracy 0.7500", "minimum accuracy 0.5000", "growth 0.200"):
        assert piece in shown
    assert "parameters 12.0 k" in shown
    assert "examples seen 1.28 k" in shown
    assert shown.count("steps") == 1


def test_which_part_of_the_stream() -> None:
    spec = {"tasks": [3, 1, 2], "until": 2, "graded": "current", "split": "test"}
    shown = _shown(spec={**spec, "changes": [{"task": 1, "method": {"name": "ewc"}}]})
    assert "graded on test examples of the current task" in shown
    assert "tasks 4, 2, 3 of the benchmark; the first 2 tasks alone; other" in shown
    assert "hyperparameters from task 2 on" in shown
    assert "the first task alone" in _shown(spec={"until": 1})
