"""``provenance.json``: what a start is remembered by."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from datetime import datetime, timedelta
from pathlib import Path

import pytest

import clray
from clray.provenance import record_start, start
from clray.store import Folder

COMMAND = ["clray", "sweep", "a.yaml"]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A git repository with one file."""
    folder = tmp_path / "lab"
    folder.mkdir()
    (folder / "job.yaml").write_text("name: a\n")
    who = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
    for command in (["init", "-q"], ["add", "."], [*who, "commit", "-qm", "one"]):
        subprocess.run(["git", "-C", str(folder), *command], check=True)
    return folder


def test_starts_are_added(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path / "jobs" / "a"))
    record_start(folder, COMMAND)
    record_start(folder, [*COMMAND, "search.trials=4"])
    first, second = json.loads(folder.read("provenance.json"))
    assert first["command"] == COMMAND
    assert second["command"] == [*COMMAND, "search.trials=4"]
    assert first["clray"] == clray.__version__
    assert set(first["versions"]) >= {"torch", "ray", "optuna", "numpy", "pyarrow"}
    assert first["python"] == ".".join(map(str, sys.version_info[:3]))
    started = datetime.fromisoformat(first["started"])
    assert started.utcoffset() == timedelta(0)
    assert abs((datetime.now(started.tzinfo) - started).total_seconds()) < 60
    assert 1 <= first["machine"]["cpus"] <= (os.cpu_count() or 1)
    assert first["machine"]["memory"] > 1 << 28


def test_git(checkout: Path, tmp_path: Path) -> None:
    asked = ["git", "-C", str(checkout), "rev-parse", "HEAD"]
    revision = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
    assert start(COMMAND, checkout)["git"] == {"revision": revision, "dirty": False}
    (checkout / "results.txt").write_text("not tracked")
    assert start(COMMAND, checkout)["git"] == {"revision": revision, "dirty": False}
    (checkout / "job.yaml").write_text("name: b\n")
    assert start(COMMAND, checkout)["git"] == {"revision": revision, "dirty": True}
    assert start(COMMAND, tmp_path)["git"] is None


def test_gpus_are_asked_for_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = tmp_path / "nvidia-smi"
    fake.write_text("#!/bin/sh\necho NVIDIA H100 80GB HBM3\necho NVIDIA H100 80GB HBM3\n")
    fake.chmod(fake.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert start(COMMAND, tmp_path)["machine"]["gpus"] == ["NVIDIA H100 80GB HBM3"] * 2
    fake.write_text("#!/bin/sh\nexit 9\n")
    assert start(COMMAND, tmp_path)["machine"]["gpus"] == []


def test_no_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "hidden-0")
    command = [
        "clray",
        "benchmark.stream=s3://key:hidden-1@bucket/x?region=r",
        "stream=s3://b/x?access_key=hidden-2&secret_key=hidden-3&region=r",
    ]
    told = start(command, tmp_path)
    assert "hidden" not in json.dumps(told)
    assert told["command"][1] == "benchmark.stream=s3://bucket/x?region=r"
    assert told["command"][2].endswith("&region=r")


@pytest.mark.parametrize("content", ["{", "{}", "[]"])
def test_a_damaged_file_fails_nothing(content: str, tmp_path: Path) -> None:
    folder = Folder(str(tmp_path))
    folder.write("provenance.json", content.encode())
    record_start(folder, COMMAND)
    assert [one["command"] for one in json.loads(folder.read("provenance.json"))] == [COMMAND]


def test_a_folder_that_cannot_be_written_fails_nothing(tmp_path: Path) -> None:
    (tmp_path / "jobs").write_text("a file")
    record_start(Folder(str(tmp_path / "jobs" / "a")), COMMAND)
