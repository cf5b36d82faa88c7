"""How far a job is."""

from __future__ import annotations

import io
from typing import Any

from rich.console import Console

from clray.job import JobSpec
from clray.report.leaderboard import job_page
from clray.report.reading import Job
from clray.report.stored import TrialLine


def _line(label: str, value: float | None, **others: Any) -> TrialLine:
    state = "diverged" if value is None else "completed"
    content = {"label": label, "number": 0, "keys": ["k"], "state": state, "value": value}
    return TrialLine.model_validate({**content, **others})


def _shown(spec: dict[str, Any], lines: list[TrialLine]) -> str:
    content = {"name": "a", "benchmark": "split-digits", "methods": ["er", "ewc"], **spec}
    job = Job("a", "results/jobs/a", JobSpec.model_validate(content), lines, None)
    text = io.StringIO()
    Console(file=text, width=80, markup=False, highlight=False).print(job_page(job, 80))
    shown = text.getvalue()
    assert max(map(len, shown.splitlines())) <= 80
    return shown


def _rows(shown: str, label: str) -> list[list[str]]:
    return [line.split()[1:] for line in shown.splitlines() if line.split()[:1] == [label]]


def test_one_board() -> None:
    lines = [
        _line("er", 0.7),
        _line("er", 0.8),
        _line("er", None),
        _line("er", 0.9, feasible=False),
    ]
    shown = _shown({}, lines)
    assert "a  not finished" in shown
    assert _rows(shown, "er") == [["4", "3", "0.800"]]
    assert _rows(shown, "ewc") == [["0", "0", "-"]]
    assert "chosen on test" not in shown


def test_less_may_be_better() -> None:
    lines = [_line("er", 40_000), _line("er", 20_000, state="stopped")]
    shown = _shown({"search": {"objective": "steps"}}, lines)
    assert _rows(shown, "er") == [["2", "1", "1", "20.0", "k"]]
    assert "best so far: steps" in shown


def test_a_board_for_each_protocol() -> None:
    spec = {"protocol": {"selection": ["end-of-training", "seen-tasks", "oracle"]}}
    lines = [
        _line("er", 0.7, board="end-of-training"),
        _line("er", 0.9, board="seen-tasks", task=0),
        _line("er", 0.6, board="seen-tasks", task=1),
        _line("er", 0.8, board="oracle"),
    ]
    shown = _shown(spec, lines)
    assert _rows(shown, "er") == [
        ["1", "1", "0.700"],
        ["2", "2", "2", "0.600"],
        ["1", "1", "0.800"],
    ]
    assert "oracle  chosen on test" in shown


def test_who_does_not_take_part_is_not_waited_for() -> None:
    spec = {
        "benchmark": None,
        "benchmarks": {"split": "split-digits", "permuted": "permuted-digits"},
        "methods": {"er": {}, "ewc": {"benchmarks": ["permuted"]}},
        "protocol": {"selection": ["end-of-training", "oracle"]},
    }
    shown = _shown(spec, [])
    assert _rows(shown, "er") == [["0", "0", "-"]] * 4
    assert _rows(shown, "ewc") == [["0", "0", "-"]] * 2


def test_benchmarks_and_stages() -> None:
    spec = {
        "benchmark": None,
        "benchmarks": {"split": "split-digits", "permuted": "permuted-digits"},
        "protocol": {"selection": [{"name": "two-stage", "then": "oracle"}]},
    }
    first = _line("finetune", 0.9, board="permuted", stage="first")
    shown = _shown(spec, [first, _line("ewc", 0.5, board="permuted")])
    assert "split  chosen on test" in shown
    assert "permuted  chosen on test" in shown
    assert _rows(shown, "finetune") == [["(first)", "1", "1", "0.900"]]
    assert _rows(shown, "ewc") == [["0", "0", "-"], ["1", "1", "0.500"]]
