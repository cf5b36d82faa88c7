"""Submissions that cannot be: one message, exit code 2, nothing sent, started or written."""

from __future__ import annotations

from pathlib import Path

import pytest

from clray.parsing import merge
from tests.cli.conftest import Clray
from tests.cli.refusing import JOB, assert_refused, contents, write

NOWHERE = ("--address", "http://127.0.0.1:1")
THERE = ("--results", "s3://bucket/clray")
CASES: dict[str, tuple[tuple[str, ...], str]] = {
    "no cluster": ((), "submit: got 'no cluster'; accepted: --address URL, --cluster FILE"),
    "two clusters": ((*NOWHERE, "--cluster", "cluster.yaml"), "either --address or --cluster"),
    "up without a file": ((*NOWHERE, "--up"), "--up: got 'given'; accepted: --cluster FILE"),
    "down and away": (("--cluster", "c.yaml", "--down", "--detach"), "who leaves cannot tear down"),
    "no such file": (("--cluster", "c.yaml"), "c.yaml"),
    "no address": (("--address", "ftp://x", *THERE), "such as http://127.0.0.1:8265"),
    "nobody there": ((*NOWHERE, *THERE), "http://127.0.0.1:1"),
    "no results": (NOWHERE, "results: got ''; accepted: s3://…, gs://… or the absolute path"),
    "results of this machine": ((*NOWHERE, "--results", "results"), "results: got 'results'"),
    "a password": ((*NOWHERE, "--results", "s3://key:word@b/c"), "without credentials"),
    "a secret": ((*NOWHERE, *THERE, "--include", "key.pem"), "named like a secret"),
    "a missing file": ((*NOWHERE, *THERE, "--include", "no.csv"), "--include: got 'no.csv'"),
    "a knob": ((*NOWHERE, *THERE, "search.trails=3"), "trials"),
    "a pod without storage": (("--kubernetes", "a.yaml", "--results", "/data"), "results"),
    "machines without storage": (("--skypilot", "a.yaml", "--results", "/data"), "s3://… or gs://"),
    "a file and a cluster": ((*NOWHERE, "--kubernetes", "a.yaml"), "a file is written"),
    "a folder": (("--skypilot", ".", *THERE), "a file in a folder that exists"),
    "a file that holds something": (("--kubernetes", "key.pem", *THERE), "holds something else"),
}


@pytest.mark.parametrize("name", CASES)
def test_submissions(clray: Clray, here: Path, name: str) -> None:
    arguments, piece = CASES[name]
    write(here / "job.yaml", merge(JOB, {}))
    write(here / "key.pem", "-----")
    before = contents(here)
    said = clray("submit", "job.yaml", *arguments)
    assert_refused(said, piece)
    assert "word" not in said.err
    assert contents(here) == before


@pytest.mark.parametrize("command", ["status", "logs", "stop", "fetch"])
def test_a_job_that_was_never_sent(
    clray: Clray, here: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(here))
    assert_refused(clray(command, "ghost"), "submitted job: got 'ghost'", "--address or --cluster")


def test_a_job_that_has_changed_since_it_came_home(clray: Clray, here: Path) -> None:
    write(here / "job.yaml", JOB)
    write(here / "results/jobs/a/job.yaml", {**JOB, "final": {"seeds": 3}})
    assert_refused(
        clray("submit", "job.yaml", *NOWHERE, *THERE), "holds another job of that name", "--anew"
    )


def test_files_for_others_are_written_once(clray: Clray, here: Path) -> None:
    write(here / "job.yaml", JOB)
    command = ("submit", "job.yaml", "--kubernetes", "k.yaml", "--skypilot", "s.yaml", *THERE)
    dry = clray(*command, "--dry-run")
    assert (dry.code, sorted(contents(here))) == (0, ["job.yaml"])
    said = clray(*command)
    assert said.code == 0, said
    assert sorted(contents(here)) == ["job.yaml", "k.yaml", "s.yaml", "s.zip"]
    assert "to be filled in: line " in said.out
    before = contents(here)
    assert clray(*command).code == 0
    assert contents(here) == before
