"""What lies on disk, and one clear error where it is not what clray wrote."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from clray.errors import BadData
from clray.report import reading
from clray.report.reading import Job, Results, read
from clray.report.stored import Board, Row, Trial

JOB = {"name": "a", "benchmark": "split-digits", "methods": ["ewc"]}
LINE = {"label": "ewc", "number": 0, "keys": ["k"], "state": "completed", "value": 0.5}
OLD_FINAL = {"job": "a", "objective": "average_accuracy", "rows": [], "results": "results"}
OLD_LINE = {"label": "ewc", "number": 0, "key": "k", "values": {}, "state": "completed"}


def _write(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))


def _one_run_too_few(made: Any) -> Any:
    row = made.row("er", [0.8, 0.9])
    row["test_keys"] = ["a"]
    return made.final(made.board([row]))


def _two_alike(made: Any) -> Any:
    return made.final(made.board([made.row("er", [0.8]), made.row("er", [0.9])]))


def _uneven_orders(made: Any) -> Any:
    row = made.row("er", [0.8, 0.9, 0.7], orders=["natural", "7"])
    return made.final(made.board([row]))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("final.json", "{", r"a/final\.json.*damaged content"),
        ("final.json", "[]", r"a/final\.json.*a mapping, as clray wrote it"),
        ("final.json", OLD_FINAL, r"a/final\.json.*older clray.*sweep again"),
        ("final.json", {"job": "a", "results": "r"}, r"a/final\.json: boards.*required"),
        ("final.json", '{"boards": [], "job": 3, "results": ""}', r"final\.json: job: got 3"),
        ("final.json", _one_run_too_few, r"rows\.0.*as many values of average_accuracy .* \(1\)"),
        ("final.json", _two_alike, r"boards\.0.*rows that differ in label or number"),
        ("final.json", _uneven_orders, r"rows\.0.*as many final runs in each of 2 orders"),
        ("job.yaml", "a: [", r"a/job\.yaml.*damaged content"),
        ("job.yaml", "name: a", r"a/job\.yaml: methods.*required"),
        ("trials.jsonl", '{"label"', r"a/trials\.jsonl.*damaged content"),
        ("trials.jsonl", OLD_LINE, r"a/trials\.jsonl:1.*older clray.*sweep again"),
        ("trials.jsonl", "3", r"a/trials\.jsonl:1: got 3"),
        ("trials.jsonl", json.dumps(LINE) + "\n{}", r"a/trials\.jsonl:2: label.*required"),
        ("trials.jsonl", {**LINE, "value": float("nan")}, r"a/trials\.jsonl:1: value.*finite"),
        ("provenance.json", {"started": 0}, r"a/provenance\.json.*a list of starts"),
    ],
)
def test_a_damaged_job(name: str, content: Any, message: str, tmp_path: Path, made: Any) -> None:
    folder = tmp_path / "jobs" / "a"
    _write(folder / "job.yaml", JOB)
    _write(folder / name, content(made) if callable(content) else content)
    with pytest.raises(BadData, match=message):
        read(str(folder))
    with pytest.raises(BadData, match=message):
        read(str(tmp_path))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("spec.json", "{", r"x/spec\.json.*damaged content"),
        ("spec.json", "[]", r"x: spec: got \[\]"),
        ("result.json", "3", r"x/result\.json.*a mapping"),
        ("result.json", {"state": 3}, r"x: state: got 3"),
        ("records.jsonl", "{}", r"x/records\.jsonl:1: task.*required"),
        (
            "records.jsonl",
            '{"task": 0, "name": "a", "accuracy": ["b"]}',
            r"1: accuracy\.0: got 'b'",
        ),
        ("timing.json", "[]", r"x: seconds: got \[\]"),
    ],
)
def test_a_damaged_trial(name: str, content: Any, message: str, tmp_path: Path) -> None:
    _write(tmp_path / "x" / "spec.json", {})
    _write(tmp_path / "x" / name, content)
    with pytest.raises(BadData, match=message):
        read(str(tmp_path / "x"))


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(BadData, match="no such folder"):
        read(str(tmp_path / "nothing"))
    _write(tmp_path / "b" / "notes.txt", "")
    with pytest.raises(BadData, match="nothing that clray wrote"):
        read(str(tmp_path / "b"))
    _write(tmp_path / "c" / "trials.jsonl", "")
    with pytest.raises(BadData, match=r"job\.yaml.*no such file"):
        read(str(tmp_path / "c"))
    _write(tmp_path / "d" / "records.jsonl", "")
    with pytest.raises(BadData, match=r"spec\.json.*no such file"):
        read(str(tmp_path / "d"))


def test_what_is_there(tmp_path: Path, made: Any) -> None:
    _write(tmp_path / "jobs/a/job.yaml", JOB)
    _write(tmp_path / "jobs/a/trials.jsonl", LINE)
    _write(tmp_path / "jobs/a/provenance.json", [{"clray": "1"}])
    _write(tmp_path / "jobs/b/final.json", made.final(made.board([made.row("er", [0.8])])))
    _write(tmp_path / "trials/er-0/spec.json", {"seed": 3})
    _write(tmp_path / "trials/er-0/error.txt", "Traceback\nValueError: boom\n")
    found = read(str(tmp_path))
    assert isinstance(found, Results)
    assert [job.path.rpartition("/")[2] for job in found.jobs] == ["a", "b"]
    assert found.num_trials == 1
    unfinished, finished = found.jobs
    assert unfinished.final is None
    assert unfinished.trials[0].keys == ["k"]
    assert unfinished.starts == [{"clray": "1"}]
    assert len(unfinished.runs) == 0
    assert list(finished.runs) == ["er-0"]
    trial = read(str(tmp_path / "trials/er-0"))
    assert isinstance(trial, Trial)
    assert trial == finished.runs["er-0"]
    assert (trial.state, trial.error, trial.spec) == ("failed", "ValueError: boom", {"seed": 3})
    assert isinstance(read(str(tmp_path / "jobs/b")), Job)


def test_names_of_rows(made: Any) -> None:
    rows = [made.row(label, [0.5], number=i) for i, label in enumerate(["ewc", "ewc", "er"])]
    board = Board.model_validate(made.board(rows))
    assert [row.name for row in board.rows] == ["ewc #0", "ewc #1", "er"]


def test_places_of_final_runs(made: Any) -> None:
    several = Row.model_validate(made.row("er", [0.5] * 4, orders=["natural", "A"]))
    assert several.places == [("natural", 0), ("natural", 1), ("A", 0), ("A", 1)]
    assert Row.model_validate(made.row("er", [0.5] * 2)).places == [("", 0), ("", 1)]


@pytest.mark.parametrize(
    ("others", "stamp"),
    [
        ({}, None),
        ({"leak": "the first tasks are reported again"}, "leak"),
        ({"chosen_on": "test"}, "chosen on test"),
        ({"selection": {"name": "oracle"}, "leak": "x"}, "chosen on test"),
        ({"selection": {"name": "two-stage", "then": {"name": "oracle"}}}, "chosen on test"),
        ({"selection": {"name": "two-stage", "then": {"name": "chf"}}}, None),
    ],
)
def test_stamps(others: dict[str, Any], stamp: str | None, made: Any) -> None:
    assert Board.model_validate(made.board([], **others)).stamp == stamp


def test_trials_far_away_are_read_at_once_whoever_asks_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Far:
        is_local = False

        def __truediv__(self, key: str) -> str:
            return key

    monkeypatch.setattr(reading, "read_trial", lambda folder: folder)
    keys = [str(i) for i in range(300)]
    for _ in range(10):
        runs = reading._Runs(Far(), keys)  # type: ignore[arg-type]
        with ThreadPoolExecutor(8) as threads:
            found: list[object] = list(threads.map(runs.__getitem__, keys))
        assert found == keys
