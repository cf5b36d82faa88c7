"""``clray data``: what it prints and draws, and its exit codes."""

from __future__ import annotations

import io
import json
import shutil
import sys
import time
import types
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from rich.console import Console

from clray.cli.data_progress import EVERY, DataProgress
from clray.events import Progressed, SlotsStarting, Warned
from clray.report.naming import benchmark_title, stream_name
from clray.store import Folder
from clray.streams.manifest import Manifest, StoredTask, write_manifest

BUILD = ("data", "build", "split-digits")


@pytest.fixture
def stored(store_stream: Any, here: Path) -> Any:
    """A stream in the folder ``stream``."""
    return store_stream(here / "stream")


@pytest.fixture
def building(monkeypatch: pytest.MonkeyPatch, stored: Any) -> dict[str, Any]:
    """A build that builds nothing; what it was given, and what it is to say."""
    given: dict[str, Any] = {"was_stored": False}

    def build(benchmark: Any, name: str, to: str, *, watch: Any, **others: Any) -> Any:
        given.update(others, benchmark=benchmark, name=name, to=to)
        if error := given.get("raises"):
            raise error
        watch(Progressed("images", 50, 100))
        watch(Warned("one row was left out"))
        watch(Progressed("images", 100, 100))
        return types.SimpleNamespace(
            manifest=stored.manifest, was_stored=given["was_stored"], seconds=2.0
        )

    fake = types.ModuleType("clray.streams.building")
    fake.build = build  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "clray.streams.building", fake)
    monkeypatch.setattr("clray.streams.building", fake, raising=False)
    return given


def test_build(clray: Any, building: dict[str, Any]) -> None:
    options = ("--seed", "3", "--validation-fraction", "0.2", "--on-bad-row", "skip")
    said = clray(*BUILD, "num_tasks=2", "benchmark.class_order=4", "--to", "stream", *options)
    assert (said.code, said.err) == (0, "")
    assert building["name"] == "split-digits"
    assert (building["benchmark"].num_tasks, building["benchmark"].class_order) == (2, 4)
    assert (building["to"], building["seed"]) == ("stream", 3)
    assert (building["validation_fraction"], building["on_bad_row"]) == (0.2, "skip")
    lines = said.out.splitlines()
    assert lines[:2] == ["warning: one row was left out", "images: 100 of 100"]
    assert "64 train, 16 validation, 20 test" in said.out
    assert "2.00 s, 50 rows/s" in said.out
    assert lines[-1] == f"  benchmark: {{stream: {Path('stream').resolve()}}}"


def test_a_stream_that_is_there_already(clray: Any, building: dict[str, Any]) -> None:
    building["was_stored"] = True
    said = clray(*BUILD, "--to", "stream")
    assert said.code == 0
    assert "it was there already" in said.out


def test_an_interrupted_build_goes_on(clray: Any, building: dict[str, Any]) -> None:
    building["raises"] = KeyboardInterrupt()
    code, _, err = clray(*BUILD, "--to", "stream")
    assert code == 130
    assert "the same command goes on from there" in err


def test_show(clray: Any, stored: Any, here: Path) -> None:
    code, out, err = clray("data", "show", "stream")
    assert (code, err) == (0, "")
    for piece in (
        "stream  2 tasks, class-incremental, 4 classes",
        "100 examples of 3 x 8 x 8, uint8",
        "split, num_tasks\u00a02, seed\u00a00",
        stored.manifest.hash,
        "whole, on the device",
        str(here / "stream.png"),
    ):
        assert piece in out
    rows = [line.split() for line in out.splitlines() if line.strip().startswith("00")]
    assert [row[:6] for row in rows] == [
        ["000", "0-1", "32", "8", "10", "2"],
        ["001", "2-3", "32", "8", "10", "2"],
    ]
    with Image.open(here / "stream.png") as sheet:
        assert sheet.width > 800
    again = clray("data", "show", f"stream#sha256={stored.manifest.hash}", "--png", "a.png")
    assert again.code == 0
    assert (here / "a.png").read_bytes() == (here / "stream.png").read_bytes()
    assert clray("data", "show", "stream", "--png", "b.png", "--seed", "1").code == 0
    assert (here / "b.png").read_bytes() != (here / "a.png").read_bytes()


@pytest.mark.parametrize("width", [60, 80, 120])
def test_show_fits(
    width: int, clray: Any, stored: Any, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    code, out, _ = clray("data", "show", "stream", "--no-png")
    assert code == 0
    lines = out.splitlines()
    assert max(map(len, lines)) <= width
    assert "class names" in out or width < 120
    assert sorted(path.name for path in here.iterdir()) == ["stream"]


def test_show_as_json(clray: Any, stored: Any, here: Path) -> None:
    code, out, _ = clray("data", "show", "stream", "--json")
    facts = json.loads(out)
    assert code == 0
    assert facts["hash"] == stored.manifest.hash
    assert facts["examples"] == {"train": 64, "validation": 16, "test": 20}
    assert facts["reading"] == "device"
    assert [task["name"] for task in facts["tasks"]] == ["0-1", "2-3"]
    assert not (here / "stream.png").exists()


def test_features_have_no_contact_sheet(clray: Any, store_stream: Any, here: Path) -> None:
    store_stream(here / "features", shape=(6, 1, 1), dtype="float16")
    code, out, _ = clray("data", "show", "features")
    assert code == 0
    assert "100 examples of 6 features, float16" in out
    assert "no contact sheet" in out
    assert not (here / "features.png").exists()


def test_texts_have_no_contact_sheet(clray: Any, store_stream: Any, here: Path) -> None:
    store_stream(here / "texts", shape=(3, 6, 1))
    store_stream(here / "states", shape=(5, 6, 1), dtype="float16")
    said = [clray("data", "show", name)[1] for name in ("texts", "states")]
    assert "100 examples of 6 tokens" in said[0]
    assert "no contact sheet: these are texts" in said[0]
    assert "100 examples of 6 states of 5 features, float16" in said[1]
    assert not list(here.glob("*.png"))


def test_thousands_of_shards_are_shown_at_once(clray: Any, stored: Any, here: Path) -> None:
    task = stored.manifest.tasks[0]
    many = {"train": task.train * 40, "name": "a task of a rather long name, as they may be"}
    long = StoredTask.model_validate({**task.model_dump(), **many})
    update = {"tasks": (long,) * 120, "skipped": {"a.parquet": 3, "b.parquet": 4}}
    manifest = Manifest.model_validate({**stored.manifest.model_dump(), **update})
    write_manifest(Folder(str(here / "long")), manifest)
    start = time.monotonic()
    code, out, _ = clray("data", "show", "long", "--no-png")
    assert code == 0
    assert time.monotonic() - start < 5
    assert len(out.splitlines()) < 45
    assert "20 of 120 tasks, evenly spread; --json has all" in out
    assert "119" in [line.split()[0] for line in out.splitlines() if line.split()]
    assert "7 left out: 3 of a.parquet, 4 of b.parquet" in out


def test_check(clray: Any, stored: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    code, out, err = clray("data", "check", "stream")
    assert (code, err) == (0, "")
    assert "8 shards" in out
    assert "all as the manifest says" in out
    (Path("stream") / stored.manifest.tasks[0].train[0].path).unlink()
    shutil.rmtree("stream/task=001/split=test")
    for width in (60, 100):
        monkeypatch.setenv("COLUMNS", str(width))
        code, out, err = clray("data", "check", "stream")
        assert code == 1
        assert err == "clray: error: stream: 2 files are not as its manifest says, of 8\n"
        assert out.count("no such file") == 2
        assert max(map(len, out.splitlines())) <= width
    assert clray("data", "check", "stream", "--task", "1").err.count("1 file is not") == 1


def test_a_stored_stream_goes_by_its_own_name(clray: Any, stored: Any, here: Path) -> None:
    small = ("protocol.validation_fraction=0.2", "model.hidden=[8]", "--here")
    code, out, err = clray("run", "finetune", "stored", "benchmark.stream=stream", *small)
    assert (code, err) == (0, "")
    assert "finetune on stream, class-incremental, with mlp, seed 0" in out
    assert f"{here}/stream#sha256={stored.manifest.hash}" in "".join(out.split())
    job = "{name: a, benchmark: {stream: stream}, methods: [finetune], %s}"
    (here / "a.yaml").write_text(job % "protocol: {validation_fraction: 0.2}")
    code, out, _ = clray("sweep", "a.yaml", "--dry-run")
    assert code == 0
    assert out.startswith("a  stream with mlp\n")
    assert stored.manifest.hash in "".join(out.split())
    assert "shuffle_window\u00a064 MiB" in out
    assert "each worker keeps 2 GiB at most" in out
    (here / "a.yaml").write_text(job % "protocol: {validation_fraction: 0.3}")
    code, _, err = clray("sweep", "a.yaml", "--dry-run")
    assert code == 2
    assert "0.2, with which this stream was built" in err


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("s3://bucket/a/b?region=x#sha256=1", "b"),
        ("s3://bucket", "bucket"),
        ("/data/b/", "b"),
        ("../b#sha256=1", "b"),
    ],
)
def test_names_of_streams(address: str, name: str) -> None:
    assert stream_name(address) == name
    assert benchmark_title({"name": "stored", "stream": address}) == name
    assert benchmark_title({"name": "split-digits"}) == "split-digits"


def test_help_without_a_command(clray: Any) -> None:
    code, out, err = clray("data")
    assert (code, err) == (0, "")
    assert "check" in out


def test_progress_is_a_line_on_a_terminal_and_few_lines_elsewhere() -> None:
    now = [0.0]
    for terminal in (True, False):
        text = io.StringIO()
        console = Console(file=text, force_terminal=terminal, width=100)
        with DataProgress(console, "building a", lambda: now[0]) as progress:
            progress.watch(SlotsStarting(1))
            for done in range(0, 101, 20):
                progress.watch(Progressed("images", done, 100))
                now[0] += EVERY / 2
            if terminal:
                progress.live.refresh()
        said = text.getvalue()
        if terminal:
            assert "building a" in said
            assert "images 100 of 100" in said
        else:
            assert said.splitlines() == [
                "starting Ray",
                "images: 40 of 100, 4/s",
                "images: 80 of 100, 4/s",
                "images: 100 of 100, 4/s",
            ]
