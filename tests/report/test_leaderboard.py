"""The leaderboard, from a final.json made by hand."""

from __future__ import annotations

import copy
import io
import subprocess
import sys
from typing import Any

import pytest
from rich.console import Console

from clray.report.leaderboard import bounds, failures, leaderboard, ranked
from clray.report.reading import Final


def _row(label: str, mean: float | None, **others: Any) -> dict[str, Any]:
    half = 0.0123 if mean is not None else None
    return {
        "label": label,
        "method": label.partition(".")[0],
        "bound": False,
        "values": {"optimizer.lr": 0.0312345},
        "trials": {"completed": 16, "diverged": 0, "stopped": 0, "failed": 0},
        "validation": 0.9,
        "test": {
            "average_accuracy": {"mean": mean, "interval": half, "values": [mean] * 5},
            "forgetting": {"mean": 0.0987, "interval": 0.0011, "values": [0.0987] * 5},
            "learning_accuracy": {"mean": 0.99, "interval": 0.0011, "values": [0.99] * 5},
        },
        "seeds": 5,
        "parameters": 1_234_567,
        "examples": 200,
        "bytes": 4_938_268,
        "train_seconds": 200.4,
        "key": "0123456789abcdef0123",
        "test_keys": ["k"] * 5,
        "error": None,
        **others,
    }


FINAL: dict[str, Any] = {
    "job": "quickstart",
    "benchmark": {"name": "split-digits", "scenario": "class-incremental"},
    "model": {"name": "mlp"},
    "objective": "average_accuracy",
    "selection": "end-of-training",
    "deterministic": True,
    "num_tasks": 5,
    "results": "results/jobs/quickstart",
    "rows": [
        _row("finetune", 0.19),
        _row("ewc", 0.45678, values={"method.strength": 100.0, "optimizer.lr": 0.05}),
        _row("er", 0.81234),
        _row("joint", 0.95, bound=True),
        _row("gem", None, error="none of 16 trials completed", seeds=0, test_keys=[], key=None),
    ],
    "seconds": {"this_run": 100.0},
}


def _shown(content: dict[str, Any], width: int) -> str:
    text = io.StringIO()
    console = Console(file=text, width=width, markup=False, highlight=False)
    console.print(leaderboard(Final.model_validate(content), width))
    return text.getvalue()


def test_ranks_by_mean_with_bounds_and_failures_apart() -> None:
    final = Final.model_validate(FINAL)
    assert [row.label for row in ranked(final)] == ["er", "ewc", "finetune"]
    assert [row.label for row in bounds(final)] == ["joint"]
    assert [row.label for row in failures(final)] == ["gem"]


@pytest.mark.parametrize("width", [80, 120])
def test_shows_everything_that_matters(width: int) -> None:
    shown = _shown(FINAL, width)
    assert max(map(len, shown.splitlines())) <= width
    for piece in (
        "split-digits",
        "class-incremental, 5 tasks",
        "0.812 ± 0.012",
        "0.099 ± 0.001",
        "1.23 M",
        "200",
        "3 min 20 s",
        "strength\u00a0100, lr\u00a00.05",
        "none of 16 trials completed",
        "mean ± 95 % interval over 5 fresh seeds",
        "end of training",
        "average accuracy on validation examples",
        "deterministic sweep",
        "Bounds stand below the rule",
    ):
        assert piece in " ".join(shown.split()) or piece in shown, piece


def test_bounds_stand_below_a_rule_without_a_rank() -> None:
    lines = _shown(FINAL, 100).splitlines()
    joint = next(i for i, line in enumerate(lines) if line.split()[:1] == ["joint"])
    assert set(lines[joint - 1].strip()) == {"─"}
    first = next(i for i, line in enumerate(lines) if line.split()[:2] == ["1", "er"])
    assert "0.812" in lines[first]
    assert first < joint


def test_one_seed_has_no_interval() -> None:
    content = copy.deepcopy(FINAL)
    for row in content["rows"]:
        row["seeds"], row["test_keys"] = 1, ["k"]
        for metric in row["test"].values():
            metric["interval"] = None
    content["rows"] = content["rows"][:4]
    shown = _shown(content, 80)
    assert "±" not in shown
    assert "from 1 fresh seed," in shown


def test_a_mean_over_survivors_is_not_ranked() -> None:
    content = copy.deepcopy(FINAL)
    content["rows"][2] |= {"seeds": 3, "error": "2 of 5 test runs did not complete: diverged"}
    final = Final.model_validate(content)
    assert [row.label for row in ranked(final)] == ["ewc", "finetune"]
    assert "2 of 5 test runs did not complete" in _shown(content, 100)


def test_a_failed_trial_of_a_ranked_row_is_noted() -> None:
    content = copy.deepcopy(FINAL)
    content["rows"][2] |= {"error": "1 of 16 trials failed; trial 3: boom"}
    content["rows"][2]["trials"] = {"completed": 15, "failed": 1}
    final = Final.model_validate(content)
    assert ranked(final)[0].label == "er"
    shown = _shown(content, 100)
    assert "1 of 16 trials failed; trial 3: boom" in shown
    assert "er 1 failed" in shown


def test_another_objective_ranks_and_is_shown() -> None:
    content = {**FINAL, "objective": "learning_accuracy", "deterministic": False}
    shown = _shown(content, 120)
    assert "0.990 ± 0.001" in shown
    assert "ranked by learning accuracy" in shown
    assert "timing may change this sweep" in shown


def test_nothing_but_failures() -> None:
    content = {**FINAL, "rows": FINAL["rows"][-1:]}
    shown = _shown(content, 80)
    assert "none of 16 trials completed" in shown
    assert "forgetting" not in shown


def test_reading_imports_nothing_heavy() -> None:
    code = (
        "import sys, clray.report.reading, clray.report.leaderboard, clray.report.trial\n"
        "heavy = {'torch', 'ray', 'optuna', 'sklearn'} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
