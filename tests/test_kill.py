"""Sweeps and workers that are really killed."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

JOB = """
name: killed
benchmark: {{name: split-digits, num_tasks: 3, class_order: [0, 1, 2, 3, 4, 5]}}
model: {{name: mlp, hidden: [64]}}
protocol: {{epochs: {epochs}, batch_size: 16, memory: 40}}
methods: {{finetune: {{}}, er: {{}}}}
search: {{trials: {trials}, startup: 3}}
final: {{seeds: 2}}
store: {{checkpoint_epochs: 10}}
"""


def start(folder: Path, results: str, trials: int, epochs: int) -> subprocess.Popen[bytes]:
    """A sweep in a process group of its own."""
    path = folder / "killed.yaml"
    path.write_text(JOB.format(trials=trials, epochs=epochs))
    with open(folder / f"{results}.log", "ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "clray", "sweep", str(path), "--results", results],
            cwd=folder,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def ended(folder: Path, results: str) -> int:
    return len(list((folder / results / "trials").glob("*/result.json")))


def wait_for(process: subprocess.Popen[bytes], folder: Path, results: str, count: int) -> bool:
    """Wait for so many ended trials; False if the sweep ends before."""
    while ended(folder, results) < count:
        if process.poll() is not None:
            return False
        time.sleep(0.02)
    return True


def board(folder: Path, results: str) -> tuple[bytes, bytes]:
    job = folder / results / "jobs" / "killed"
    return (job / "leaderboard.json").read_bytes(), (job / "trials.jsonl").read_bytes()


def ray_processes() -> set[int]:
    return {
        process.pid
        for process in psutil.process_iter(["name", "cmdline"])
        if "ray" in (process.info["name"] or "")
        or any("raylet" in part for part in process.info["cmdline"] or ())
    }


def kill_and_compare(folder: Path, trials: int, epochs: int, kills: list[int]) -> None:
    """Run one sweep in peace and one that is sent ``kills``; they must store the same."""
    before = ray_processes()
    assert start(folder, "peace", trials, epochs).wait(timeout=300) == 0
    chance = random.Random(0)
    runs = ended(folder, "peace")
    for index, number in enumerate(kills):
        process = start(folder, "war", trials, epochs)
        done = ended(folder, "war")
        last = (runs - 1) * (index + 1) // len(kills)
        if wait_for(process, folder, "war", chance.randint(min(done, last), last)):
            time.sleep(chance.random())
        os.kill(process.pid, number)
        code = process.wait(timeout=60)
        assert code in (-signal.SIGKILL, 130, 0)
    assert start(folder, "war", trials, epochs).wait(timeout=300) == 0
    assert board(folder, "war") == board(folder, "peace")
    assert ended(folder, "war") == runs
    again = time.monotonic()
    assert start(folder, "war", trials, epochs).wait(timeout=60) == 0
    assert time.monotonic() - again < 30
    deadline = time.monotonic() + 30
    while (left := ray_processes() - before) and time.monotonic() < deadline:
        time.sleep(0.5)
    assert not left


@pytest.mark.slow
def test_a_sweep_interrupted_and_killed_goes_on_where_it_stopped(tmp_path: Path) -> None:
    kill_and_compare(tmp_path, 6, 60, [signal.SIGINT, *[signal.SIGKILL] * 5])
