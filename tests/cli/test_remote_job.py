"""A job that runs elsewhere looks as if it ran here."""

from __future__ import annotations

import io
import json

import pytest
from rich.console import Console

from clray.cli.remote_job import RemoteJob
from clray.event_lines import MARK, as_line
from clray.events import BoardStarted, Event, JobStarted, TrialEnded, TrialStarted

EVENTS: list[tuple[float, Event]] = [
    (1000.0, JobStarted("far", "s3://bucket/clray", ("",))),
    (1001.0, BoardStarted("", 5, {("er", "search"): 2})),
    (1002.0, TrialStarted("er", "search", 0, {"optimizer.lr": 0.1}, 1, 5)),
    (1014.5, TrialEnded("er", "search", 0, "completed", 0.75)),
]
LINES = [
    "2026-01-01 00:00:00,000\tINFO job_manager.py:581 -- Runtime env is setting up.",
    *(
        MARK + json.dumps(json.loads(as_line(e).removeprefix(MARK)) | {"at": at})
        for at, e in EVENTS
    ),
    "my method says hello",
]


def _shown(**others: bool) -> str:
    target = io.StringIO()
    console = Console(file=target, width=90, height=30, **others)  # type: ignore[arg-type]
    with RemoteJob(console, "far is pending") as shown:
        shown.show(LINES)
        shown.show([None])
    return target.getvalue()


def test_line_by_line_with_the_times_over_there() -> None:
    text = _shown(force_terminal=False)
    assert "far: results in s3://bucket/clray" in text
    assert "er search 1/2: #0 completed, 0.750 (12.5 s)" in text
    assert "my method says hello" in text
    assert "clray-event" not in text
    assert "job_manager" not in text


def test_as_a_table_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    text = _shown(force_terminal=True)
    assert "my method says hello" in text
    assert "best is highest average accuracy" in text
    assert "0.750" in text
