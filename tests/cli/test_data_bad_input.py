"""``clray data``: whatever is wrong is one message and exit code 2, and nothing is written."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

BUILD = ("data", "build", "split-digits")


@pytest.fixture
def stored(store_stream: Any, here: Path) -> Any:
    """A stream in the folder ``stream``."""
    return store_stream(here / "stream")


def _unfinished(here: Path) -> None:
    (here / "stream/_building").mkdir(parents=True)
    (here / "stream/_building/plan.json").write_text("{}")


def _manifest(content: str) -> Callable[[Path], None]:
    def write(here: Path) -> None:
        (here / "stream").mkdir()
        (here / "stream/manifest.json").write_text(content)

    return write


def _file(here: Path) -> None:
    (here / "stream").write_text("hello")


MISSING: dict[str, tuple[Callable[[Path], object] | None, str, str]] = {
    "no folder": (None, "stream", "clray data build has written"),
    "an empty folder": (lambda here: (here / "stream").mkdir(), "stream", "got 'stream'"),
    "a file": (_file, "stream", "a folder, not a file"),
    "an unfinished build": (_unfinished, "stream", "has not finished"),
    "a cut manifest": (_manifest('{"format": 1, "ver'), "stream", "damaged content"),
    "no manifest": (_manifest("[]"), "stream", "damaged content"),
    "an empty manifest": (_manifest('{"format": 1}'), "stream", "damaged content"),
    "another format": (_manifest('{"format": 2}'), "stream", "got 'format 2 in"),
    "an unknown scheme": (None, "ftp://host/stream", "got 'ftp://host/stream'"),
    "no bucket": (None, "s3://", "the name of a bucket"),
    "no address": (None, "s3://a b/c", "got 's3://a b/c'"),
}


@pytest.mark.parametrize("command", ["show", "check"])
@pytest.mark.parametrize("name", MISSING)
def test_no_such_stream(name: str, command: str, clray: Any, here: Path) -> None:
    prepare, address, piece = MISSING[name]
    if prepare is not None:
        prepare(here)
    before = sorted(here.rglob("*"))
    _assert_refused(clray("data", command, address), piece)
    assert sorted(here.rglob("*")) == before


def test_a_store_that_does_not_answer(clray: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
        "AWS_ACCESS_KEY_ID": "none",
        "AWS_SECRET_ACCESS_KEY": "none",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(name, value)
    start = time.monotonic()
    _assert_refused(clray("data", "show", "s3://bucket/stream"), "s3://bucket/stream")
    assert time.monotonic() - start < 15


ARGUMENTS = {
    "another stream's hash": (["data", "show", "stream#sha256=123"], "the stream of hash 123"),
    "no such task": (["data", "check", "stream", "--task", "2"], "task: got 2; accepted: 0 to 1"),
    "two wishes": (["data", "show", "stream", "--png", "a.png", "--no-png"], "--no-png"),
    "no PNG": (["data", "show", "stream", "--png", "a.jpg"], "ends in .png"),
    "PNG nowhere": (["data", "show", "stream", "--png", "x/a.png"], "a folder that exists"),
    "PNG below a file": (["data", "show", "stream", "--png", "note.txt/a.png"], "note.txt"),
    "PNG is a folder": (["data", "show", "stream", "--png", "d.png"], "a file, not a folder"),
    "no such command": (["data", "bild"], "Did you mean 'build'?"),
    "no address": (["data", "build", "split-digits"], "--to"),
    "empty address": ([*BUILD, "--to", ""], "--to: got ''"),
    "pinned address": ([*BUILD, "--to", "a#sha256=1"], "without a hash"),
    "a file as address": ([*BUILD, "--to", "note.txt"], "a folder, not a file"),
    "unknown scheme": ([*BUILD, "--to", "ftp://a"], "--to: got 'ftp://a'"),
    "unknown benchmark": (
        ["data", "build", "split-digit", "--to", "a"],
        "Did you mean 'split-digits'?",
    ),
    "stored already": (["data", "build", "stored", "stream=stream", "--to", "a"], "'stored'"),
    "unknown knob": ([*BUILD, "num_task=2", "--to", "a"], "Did you mean 'num_tasks'?"),
    "unknown full knob": ([*BUILD, "benchmark.num_task=2", "--to", "a"], "'num_tasks'?"),
    "knob given twice": ([*BUILD, "num_tasks=2", "benchmark.num_tasks=5", "--to", "a"], "once"),
    "bad knob": ([*BUILD, "num_tasks=none", "--to", "a"], "num_tasks: got 'none'"),
    "no value": ([*BUILD, "num_tasks", "--to", "a"], "KEY=VALUE"),
    "benchmark twice": ([*BUILD, "benchmark.name=split", "--to", "a"], "argument 'split-digits'"),
    "no knobs": ([*BUILD, "benchmark=3", "--to", "a"], "benchmark.KNOB=VALUE"),
    "another section": ([*BUILD, "protocol.epochs=2", "--to", "a"], "knobs of the benchmark"),
    "an option as knob": ([*BUILD, "seed=2", "--to", "a"], "accepted: --seed 2"),
    "no fraction": ([*BUILD, "--to", "a", "--validation-fraction", "0"], "above 0 and below 1"),
    "bad seed": ([*BUILD, "--to", "a", "--seed", "-1"], "--seed: got -1"),
    "bad choice": ([*BUILD, "--to", "a", "--on-bad-row", "ignore"], "--on-bad-row"),
}


@pytest.mark.parametrize("name", ARGUMENTS)
def test_bad_arguments(name: str, clray: Any, stored: Any, here: Path) -> None:
    (here / "note.txt").write_text("hello")
    (here / "d.png").mkdir()
    arguments, piece = ARGUMENTS[name]
    _assert_refused(clray(*arguments), piece)
    assert sorted(path.name for path in here.iterdir()) == ["d.png", "note.txt", "stream"]


def test_a_picture_of_somebody_elses_stays(clray: Any, stored: Any, here: Path) -> None:
    (here / "stream.png").write_text("mine")
    _assert_refused(clray("data", "show", "stream"), "no contact sheet of clray's")
    assert (here / "stream.png").read_text() == "mine"


def test_a_damaged_shard_is_named(clray: Any, stored: Any) -> None:
    for shard in stored.manifest.tasks[0].train:
        path = stored.path / shard.path
        path.write_bytes(path.read_bytes()[:50])
    _assert_refused(clray("data", "show", "stream"), "clray data check")


def _assert_refused(said: Any, piece: str) -> None:
    code, _, err = said
    assert code == 2, said
    assert err.startswith("clray: error: "), err
    assert piece in err, err
    assert "Traceback" not in err
    assert err.count("clray: error:") == 1
