"""Stored jobs that changed, or were damaged or edited; results that cannot be written; and reports
of what is not there."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from clray import protocols
from clray import sweep as sweeping
from clray.events import ignore
from clray.job import JobSpec
from clray.parsing import parse
from clray.protocols import running
from tests.cli.conftest import Clray
from tests.cli.refusing import JOB, assert_refused, contents, write
from tests.protocols.conftest import Here

Change = Callable[[Any], Any]


@pytest.fixture(autouse=True)
def _nothing_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(*arguments: Any) -> None:
        raise AssertionError("slots were started")

    monkeypatch.setattr(running, "Slots", start)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of results with the job, finished."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(running, "Slots", Here)
        patch.setattr(sweeping, "run_tune", sweeping._directly)
        protocols.run_job(protocols.plan(parse(JobSpec, JOB, "job")), str(folder), ignore)
    return folder


@pytest.fixture
def stored(finished: Path, here: Path) -> Path:
    """A copy of it, with the job's file beside."""
    shutil.copytree(finished, here / "results")
    write(here / "job.yaml", JOB)
    return here / "results" / "jobs" / "a"


@pytest.mark.parametrize(
    ("overrides", "lines"),
    [
        (["search.trials=3"], ["search.trials: 2 -> 3", "methods.finetune.trials: 2 -> 3"]),
        (["protocol.selection={name: first-k, k: 1}"], ["protocol.selection.0.k: nothing -> 1"]),
        (["benchmark.scenario=task-incremental"], ['"class-incremental" -> "task-incremental"']),
    ],
)
def test_a_changed_job_is_refused(
    overrides: list[str], lines: list[str], clray: Clray, stored: Path, here: Path
) -> None:
    before = contents(here)
    said = clray("sweep", "job.yaml", *overrides)
    assert_refused(
        said, "jobs/a holds another job of that name:", "or --anew, which starts", *lines
    )
    assert contents(here) == before
    assert clray("sweep", "job.yaml", *overrides, "--dry-run") == said
    again = clray("sweep", "job.yaml", *overrides, "--anew", "--dry-run")
    assert (again.code, again.err) == (0, "")


def _first_row(change: Change) -> Change:
    def edit(board: Any) -> Any:
        change(board["boards"][0]["rows"][0])
        return board

    return edit


DAMAGED: dict[str, tuple[str, Any, str]] = {
    "job cut short": ("jobs/a/job.yaml", "name: [", "job.yaml is damaged"),
    "job of another version": ("jobs/a/job.yaml", {"name": "a", "foo": 1}, "another version of cl"),
    "trials cut short": (
        "jobs/a/trials.jsonl",
        '{"label": "fin',
        "jobs/a/trials.jsonl: got 'damaged content'; accepted: one JSON value a line",
    ),
    "trials of another kind": (
        "jobs/a/trials.jsonl",
        "[1]",
        "jobs/a/trials.jsonl: got 'damaged content'; accepted: lines as clray wrote them",
    ),
    "leaderboard cut short": (
        "jobs/a/leaderboard.json",
        "{",
        "jobs/a/leaderboard.json: got 'damaged content'; accepted: JSON as clray wrote it",
    ),
    "leaderboard of another kind": (
        "jobs/a/leaderboard.json",
        "[]",
        "jobs/a/leaderboard.json: got 'damaged content'; accepted: a leaderboard as clray wrote it",
    ),
    "leaderboard without rows": (
        "jobs/a/leaderboard.json",
        {"boards": [{}]},
        "jobs/a/leaderboard.json: got 'damaged content'; accepted: a leaderboard as clray wrote it",
    ),
    "winner edited by hand": (
        "jobs/a/leaderboard.json",
        _first_row(lambda row: row["values"].update({"optimizer.lr": 0.123})),
        "finetune: chosen hyperparameters: got {'optimizer.lr': 0.123}; accepted: {'optimizer.lr':",
    ),
    "winner's trial edited by hand": (
        "jobs/a/leaderboard.json",
        _first_row(lambda row: row.update(key="0" * 20)),
        "as the stored trials say: winners may not be edited by hand",
    ),
    "trial's records cut short": (
        "trials/*/records.jsonl",
        '{"task',
        "records.jsonl: got 'damaged",
    ),
    "trial's result cut short": ("trials/*/result.json", "{", "result.json: got 'damaged content'"),
}


LIVE = {f"results/jobs/a/{name}": b"" for name in (".lock", "provenance.json")}
"""Files that every start writes."""


@pytest.mark.parametrize("name", DAMAGED)
def test_what_was_damaged_or_edited_is_refused(
    name: str, clray: Clray, stored: Path, here: Path
) -> None:
    pattern, content, piece = DAMAGED[name]
    for path in (here / "results").glob(pattern):
        write(path, content(json.loads(path.read_text())) if callable(content) else content)
    before = contents(here)
    assert_refused(clray("sweep", "job.yaml"), piece)
    assert {**contents(here), **LIVE} == {**before, **LIVE}


@pytest.mark.parametrize(
    ("results", "piece"),
    [
        ("job.yaml", "results: got 'job.yaml'; accepted: a folder, not a file"),
        ("job.yaml/x", "results: got 'job.yaml/x'; accepted: a folder that can be written (/"),
        ("/proc/x", "results: got '/proc/x/jobs/a'; accepted: a folder that can be written"),
        ("", "results: got ''; accepted: a folder, s3://… or gs://…"),
        ("ftp://x/y", "results: got 'ftp://x/y'; accepted: a folder, s3://… or gs://…"),
    ],
)
def test_results_that_cannot_be_written(results: str, piece: str, clray: Clray, here: Path) -> None:
    write(here / "job.yaml", JOB)
    before = contents(here)
    assert_refused(clray("sweep", "job.yaml", "--results", results), piece)
    assert contents(here) == before


REPORTS: dict[str, tuple[list[str], str]] = {
    "nothing": (["nowhere"], "nowhere: got 'no such folder'; accepted: a folder of results, or of"),
    "a file": (["job.yaml"], "got 'job.yaml'; accepted: a folder, not a file"),
    "an empty folder of another's": (["my_lab"], "my_lab: got 'nothing that clray wrote'"),
    "one of two": (["results/jobs/a", "nowhere"], "nowhere: got 'no such folder'"),
    "one of two damaged": (["results/jobs/a", "results/jobs/b"], "jobs/b/final.json: got 'damaged"),
    "all of them": (["results"], "jobs/b/final.json: got 'damaged content'"),
    "a trial beside a job": (["results/jobs/a", "TRIAL"], "got 'a trial'; accepted: jobs, or fold"),
    "to a file": (
        ["results/jobs/a", "--to", "job.yaml"],
        "--to: got 'job.yaml'; accepted: a folder",
    ),
    "to nowhere": (["results/jobs/a", "--to", "s4://x"], "--to: got 's4://x'; accepted: a folder"),
    "below a file": (["results/jobs/a", "--to", "job.yaml/x"], "accepted: a folder that can be wr"),
    "to and no page": (["results", "--to", "x", "--no-page"], "accepted: either --to or --no-page"),
    "a trial to somewhere": (["TRIAL", "--to", "x"], "--to: got 'x'; accepted: a job's folder to"),
    "results of another version": (["results/jobs/old"], "got 'the format of an older clray'"),
    "too many values": (["results/jobs/odd"], "as many values of average_accuracy as final runs"),
}


@pytest.mark.parametrize("name", REPORTS)
def test_a_report_of_what_is_not_there(name: str, clray: Clray, stored: Path, here: Path) -> None:
    arguments, piece = REPORTS[name]
    write(here / "my_lab/notes.txt", "hello")
    final = json.loads((stored / "final.json").read_text())
    final["boards"][0]["rows"][0]["test_keys"] = []
    write(stored.parent / "odd/final.json", final)
    write(stored.parent / "old/final.json", {"job": "old", "rows": []})
    write(stored.parent / "b/final.json", '{"job": "b", "boards": [')
    trial = next(path for path in (here / "results/trials").iterdir())
    before = contents(here)
    assert_refused(clray("report", *(a.replace("TRIAL", str(trial)) for a in arguments)), piece)
    assert contents(here) == before
