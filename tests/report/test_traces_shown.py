"""Continual evaluation on the page, in the terminal and in the tables."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import vl_convert
from rich.console import Console

from clray.metrics import interval
from clray.report import facts, figures
from clray.report.exports import tables
from clray.report.figures import traced
from clray.report.figures.figure import Figure
from clray.report.leaderboard import leaderboard
from clray.report.page import job_page
from clray.report.reading import Job, read
from clray.report.stored import Trial
from clray.report.trial import trial_page
from clray.report.trial_traces import sparkline
from clray.report.view import views
from clray.traces import Trace, reference_metrics, reference_of, trace_metrics, traces_of

UPDATES = [0, 1, 2, 10, 40]
OLD = {"er": [90, 40, 60, 80, 80], "ewc": [95, 90, 90, 94, 95], "joint": [90] * 5}
NEW = [0, 20, 50, 80, 90]
EVALUATION = {"every": 10, "first": 2, "subset": 50}


def records_of(label: str, seed: int, records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The records with traces: of each old task, the method's curve, 95 before; but for joint
    training, in another seed 10 more at update 1."""
    found = []
    for t, record in enumerate(records):
        more = 10 * seed * (label != "joint")
        old = [right + more * (place == 1) for place, right in enumerate(OLD[label])]
        trace = {
            "examples": [100] * (t + 1),
            "before": [95] * t,
            "updates": UPDATES,
            "right": [[*[o] * t, n] for o, n in zip(old, NEW, strict=True)],
        }
        found.append({**record, "trace": trace})
    return found


def tell(folder: Path) -> None:
    """Put traces into all final runs of a job, and into its board what they say."""
    final = json.loads((folder / "final.json").read_text())
    [board] = final["boards"]
    for row in board["rows"]:
        told: list[dict[str, float | None]] = []
        for seed, key in enumerate(row["test_keys"]):
            file = folder.parent.parent / "trials" / key / "records.jsonl"
            plain = [json.loads(line) for line in file.read_text().splitlines()]
            records = records_of(row["label"], seed, plain)
            file.write_text("".join(json.dumps(record) + "\n" for record in records))
            references = [reference_of(one) for one in traces_of(records_of("joint", seed, plain))]
            traces = traces_of(records)
            told.append(trace_metrics(traces) | reference_metrics(traces, references))
        for name in told[0]:
            values = [one[name] for one in told]
            known = [value for value in values if value is not None]
            mean, half = interval(known) if known else (None, None)
            row["test"][name] = {"mean": mean, "interval": half, "values": values}
    board |= {"reference": "joint", "protocol": {"evaluation": EVALUATION}}
    (folder / "final.json").write_text(json.dumps(final))


@pytest.fixture
def job(stored: Any) -> Job:
    """Two methods and a bound, two seeds, three tasks, with traces."""
    folder = stored.job(methods=("er", "ewc"), trials=2, tasks=3, seeds=2)
    tell(folder)
    return _read(folder)


def _read(folder: Path) -> Job:
    found = read(str(folder))
    assert isinstance(found, Job)
    return found


def _made(job: Job) -> dict[str, Figure]:
    makers = figures.OF_A_BOARD[figures.CONTINUAL]
    return {figure.name: figure for make in makers for figure in make(views(job)[0])}


def _text(page: Any, width: int) -> str:
    text = io.StringIO()
    Console(file=text, width=width, markup=False, highlight=False).print(page)
    return " ".join(text.getvalue().split())


def test_the_stream_is_what_was_recorded(job: Job) -> None:
    made = _made(job)
    assert sorted(made) == ["traces", "traces-first", "traces.er", "traces.ewc", "traces.joint"]
    for figure in made.values():
        assert vl_convert.vegalite_to_vega(figure.picture())["marks"]
        assert all(len(row) == len(figure.table.heads) for row in figure.table.rows)
        assert "legend': {" not in str([panel.spec() for panel in figure.panels])
    old, new, every = made["traces"].panels
    assert [panel.title for panel in (old, new, every)] == [
        "old tasks",
        "the new task",
        "all tasks so far",
    ]
    starts, lines, reached, dips = old.sources
    assert starts.rows == [{"update": 40 * t, "task": f"task {t + 1}"} for t in range(3)]
    own = [row for row in lines.rows if row["row"] == "er"]
    assert [row["update"] for row in own] == [40 * t + u for t in (1, 2) for u in UPDATES]
    assert [row["mean"] for row in own[:3]] == [0.9, 0.45, 0.6]
    assert (own[1]["low"], own[1]["high"]) == (0.4, 0.5)
    assert {row["row"] for row in lines.rows} == {"er", "ewc"}, "joint training is a step"
    assert [(row["update"], row["end"], row["low"]) for row in reached.rows] == [
        (40, 80, 0.9),
        (80, 120, 0.9),
    ]
    [first] = [row for row in dips.rows if row["row"] == "er" and row["task"] == 2]
    assert [first[name] for name in ("update", "own", "mean")] == [41, 1, 0.45]
    assert [first[name] for name in ("found", "start", "end")] == [0.95, 0.9, 0.8]
    assert ["er", 2, 0.95, 0.9, 0.45, 1, 0.8] in made["traces"].table.rows
    assert [row["mean"] for row in new.sources[1].rows[:5]] == [0, 0.2, 0.5, 0.8, 0.9]
    assert len(every.sources[1].rows) == 2 * 15
    assert ("╌", "reached by joint training (joint)") in made["traces"].key.symbols


def test_the_first_updates_begin_at_what_was_found(job: Job) -> None:
    figure = _made(job)["traces-first"]
    assert [panel.title for panel in figure.panels] == ["mean over the tasks", "task 2", "task 3"]
    rows = [row for row in figure.panels[0].sources[1].rows if row["row"] == "er"]
    assert [row["update"] for row in rows] == list(range(31))
    assert [row["mean"] for row in rows[:3]] == [-0.05, -0.5, -0.35]
    assert rows[6]["mean"] == -0.25, "halfway between two points"
    scale = figure.panels[0].drawn["layer"][2]["encoding"]["y"]["scale"]["domain"]
    assert -0.6 < scale[0] < -0.55
    assert {row["row"] for row in figure.panels[0].sources[1].rows} == {"er", "ewc", "joint"}


def test_each_task_of_a_method_in_turn(job: Job) -> None:
    made = _made(job)
    assert [made[name].group for name in ("traces", "traces.er")] == ["", "er"]
    _, lines, dips = made["traces.er"].panels[0].sources
    assert [row["mean"] for row in lines.rows if (row["task"], row["while"]) == (1, 3)] == [
        0.9,
        0.45,
        0.6,
        0.8,
        0.8,
    ]
    assert [(row["task"], row["while"], row["update"]) for row in dips.rows] == [
        (1, 2, 41),
        (1, 3, 81),
    ]
    assert len(made["traces.er"].table.rows) == 3
    assert made["traces.er"].table.rows[0] == ["er", 1, 2, 0.95, 0.45, 1, 0.8]


def test_the_mean_is_over_points_that_all_runs_share() -> None:
    dense = Trace([10], [], [0, 1, 2], [[1], [2], [4]])
    sparse = Trace([10], [], [0, 2], [[3], [6]])
    unknown = Trace([10], [], [0, 2], [[None], [6]])
    traces = [dense, sparse, unknown]
    line = traced.mean_line(traces, [trace.of_task(0) for trace in traces])
    assert [(one.update, one.mean) for one in line] == [(0, 0.2), (2, 0.5)]
    assert traced.mean_line([unknown], [None]) == []


def test_a_long_line_keeps_its_beginning_its_end_and_its_lowest_point() -> None:
    line = [traced.Point(u, float(u != 777), 0.0, 1.0) for u in range(5001)]
    kept = [one.update for one in traced.thinned(line, 10)]
    assert kept[:31] == list(range(31))
    assert kept[-1] == 5000
    assert 777 in kept
    assert len(kept) < 140
    assert kept == sorted(set(kept))


def test_of_a_long_first_task_the_end_is_shown() -> None:
    assert traced.shown_from([0, 1500, 1600, 1720]) == 1380
    assert traced.left_out([0, 1500, 1600, 1720]) == " Of the first task, the last 120 updates."
    for starts in ([0, 300, 400], [0, 50], [0, 200, 200]):
        assert traced.shown_from(starts) == 0
        assert traced.left_out(starts) == ""


def test_measures_on_the_page(job: Job) -> None:
    falls, courses = facts.continual(views(job)[0])
    assert falls.heads[:4] == ["method", "depth", "depth after initialisation", "stability gap"]
    cells = {line.cells[0]: dict(zip(falls.heads, line.cells, strict=True)) for line in falls.lines}
    assert cells["er"]["depth"].startswith("0.500 ± ")
    assert cells["joint"]["stability gap"] == "0.000 ± 0.000"
    assert [line.kind for line in falls.lines][-1] == "bound"
    told = {
        line.cells[0]: dict(zip(courses.heads, line.cells, strict=True)) for line in courses.lines
    }
    assert told["er"]["updates to recover"] == "not reached"
    assert told["ewc"]["updates to recover"] == "10.0 ± 0.0"
    for piece in (
        "Graded after each of a task's first 2 updates, then every 10 updates",
        "on up to 50 examples of each class",
        "what joint training (joint) reaches",
    ):
        assert piece in courses.note
    html = job_page(job).html.decode()
    assert "Each task over updates: ewc" in html
    assert ">Continual evaluation</h2>" in html


def test_an_update_that_is_reached_now_and_then(job: Job) -> None:
    assert job.final is not None
    plain = job.final.model_dump()
    row = next(row for row in plain["boards"][0]["rows"] if row["label"] == "er")
    row["test"]["updates_to_recover"] = {"mean": 8.0, "interval": 25.4, "values": [4.0, 12.0]}
    row["test"]["recovered"] = {"mean": 0.75, "values": [0.5, 1.0]}
    changed = type(job.final).model_validate(plain)
    _, courses = facts.continual(views(Job("a", job.path, job.spec, job.trials, changed))[0])
    [line] = [line for line in courses.lines if line.label == "er"]
    # one task at update 4, and two at 12 in the mean
    assert line.cells[courses.heads.index("updates to recover")] == "9.3 (3 of 4)"


def test_measures_in_the_terminal(job: Job) -> None:
    assert job.final is not None
    wide, narrow = _text(leaderboard(job.final, 250), 250), _text(leaderboard(job.final, 80), 80)
    for text in (wide, narrow):
        assert "er 0.500" in text.partition("Continual evaluation")[2]
        assert "not reached" in text
        assert "joint training (joint)" in text
    assert "WC-ACC" in wide
    assert "WC-ACC" not in narrow, "what matters least has no room"
    assert "0.500 ± " in wide.partition("Continual evaluation")[2]


def test_without_a_reference_there_are_no_gaps(job: Job) -> None:
    assert job.final is not None
    plain = job.final.model_dump()
    plain["boards"][0]["reference"] = None
    for row in plain["boards"][0]["rows"]:
        row["test"] = {n: m for n, m in row["test"].items() if "gap" not in n and "_9" not in n}
    changed = Job("a", job.path, job.spec, job.trials, type(job.final).model_validate(plain))
    falls, courses = facts.continual(views(changed)[0])
    assert falls.heads == ["method", "depth", "depth after initialisation"]
    assert "No gaps: no bound" in courses.note
    old = _made(changed)["traces"].panels[0]
    assert {row["row"] for row in old.sources[1].rows} == {"er", "ewc", "joint"}


def test_a_job_without_traces_shows_none(stored: Any) -> None:
    job = _read(stored.job(methods=("er",), trials=2, tasks=2, seeds=2))
    assert _made(job) == {}
    assert facts.continual(views(job)[0]) == []
    assert "traces" not in tables(job)
    assert job.final is not None
    assert "Continual" not in _text(leaderboard(job.final, 100), 100)


def test_the_points_are_a_table(job: Job) -> None:
    rows = tables(job)["traces"].to_pylist()
    assert len(rows) == 3 * 2 * len(UPDATES) * (1 + 2 + 3)
    own = [row for row in rows if row["name"] == "er" and row["seed"] == 1]
    [dip] = [
        row for row in own if (row["task_learned"], row["update"], row["task_graded"]) == (2, 1, 0)
    ]
    assert (dip["board"], dip["order"], dip["examples"], dip["right"]) == ("", "", 100, 50)
    assert dip["right_before"] == 95
    assert [row["right"] for row in own if row["task_learned"] == 0] == NEW


def test_damaged_traces_are_passed_over(stored: Any) -> None:
    folder = stored.job(methods=("er",), trials=2, tasks=2, seeds=2)
    tell(folder)
    board = json.loads((folder / "final.json").read_text())["boards"][0]
    key = next(row["test_keys"][0] for row in board["rows"] if row["label"] == "er")
    file = folder.parent.parent / "trials" / key / "records.jsonl"
    records = [json.loads(line) for line in file.read_text().splitlines()]
    records[1]["trace"]["updates"] = [0, 1]
    file.write_text("".join(json.dumps(record) + "\n" for record in records))
    view = views(_read(folder))[0]
    assert len(view.runs["er"]) == 1


def test_a_note_on_a_row(job: Job) -> None:
    assert job.final is not None
    plain = job.final.model_dump()
    plain["boards"][0]["rows"][0]["warnings"] = ["the head was lost"]
    changed = type(job.final).model_validate(plain)
    label = changed.boards[0].rows[0].label
    assert f"{label} note the head was lost" in _text(leaderboard(changed, 100), 100)
    [sheet] = facts.standings(views(Job("a", job.path, None, [], changed))[0], ["forgetting"])
    assert f"{label}: the head was lost." in sheet.note


def _trial(**others: Any) -> Trial:
    plain: list[dict[str, Any]] = [{"task": t, "name": str(t), "accuracy": [1.0]} for t in range(3)]
    records = records_of("er", 0, plain)
    for record in records[1:]:
        record["facts"] = {"rank": 4, "warning": "old accuracy fell by 0.2"}
    measured = trace_metrics(traces_of(records))
    return Trial.model_validate(
        {
            "key": "k",
            "state": "completed",
            "spec": {"method": {"name": "er"}, "benchmark": {"name": "split-digits"}},
            "metrics": {"average_accuracy": 0.75, **measured},
            "records": records,
            "seconds": {"train": 2.0, "eval": 0.1, "trace": 0.5},
            **others,
        }
    )


def test_one_trial() -> None:
    shown = _text(trial_page(_trial(), 100), 100)
    block = shown.partition("continual evaluation")[2]
    assert "how deep old accuracy falls below what a task found 0.5500" in block
    assert "depth" not in shown.partition("continual evaluation")[0]
    assert "2 0.950 0.900 0.400 1 0.800 ▄▅▆▆▆▇" in block
    assert "continual evaluation 0.50 s (25 % of training)" in shown
    assert "tasks 2, 3: old accuracy fell by 0.2" in shown
    assert "task rank ──" in shown, "a warning is no column"
    alone = [
        {"task": 0, "name": "0", "accuracy": [1.0], "facts": {"warning": "it is lost"}},
    ]
    plain = _text(trial_page(_trial(records=alone, metrics={}, seconds={"train": 1.0}), 100), 100)
    assert "task 1: it is lost" in plain
    assert "continual" not in plain


def test_a_line_of_signs_loses_no_dip() -> None:
    assert sparkline([0.0, 0.5, 1.0]) == "▁▅█"
    flat = [0.9] * 1000
    assert sparkline([*flat[:500], 0.1, *flat[501:]], 10).count("▁") == 1
