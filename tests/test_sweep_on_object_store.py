"""A sweep on S3 that loses its storage, or is killed and goes on from somewhere else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.object_store import KEY, REFUSED, SECRET, ObjectStore, object_store

pytest.importorskip("moto", reason="moto is not installed")
pytest.importorskip("boto3", reason="boto3 is not installed")

JOB = """
name: cloud
benchmark: {name: split-digits, num_tasks: 3, class_order: [0, 1, 2, 3, 4, 5]}
model: {name: mlp, hidden: [16]}
protocol: {epochs: 20, batch_size: 16, memory: 40}
methods: {er: {}}
search: {trials: 6, startup: 3}
final: {seeds: 2}
resources: {slots: 1}
"""
RESULTS = "s3://bucket/deep/results"


def start(folder: Path, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    """``clray``, in a process group of its own and a folder with nothing but the job."""
    folder.mkdir(exist_ok=True)
    (folder / "cloud.yaml").write_text(JOB)
    with open(folder / "log", "a") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "clray", *arguments],
            cwd=folder,
            env={**os.environ, **environment},
            stdout=log,
            stderr=log,
            text=True,
            start_new_session=True,
        )


def wait_for(process: subprocess.Popen[str], s3: ObjectStore, count: int) -> None:
    """Wait until so many trials have ended."""
    deadline = time.monotonic() + 600
    while sum(path.endswith("/result.json") for path in s3.names()) < count:
        assert process.poll() is None, "the sweep ended"
        assert time.monotonic() < deadline, "no trial ends"
        time.sleep(0.3)


def lines(s3: ObjectStore) -> list[str]:
    content = s3.read("bucket/deep/results/jobs/cloud/trials.jsonl")
    return [json.loads(line)["state"] for line in content.splitlines()]


@pytest.fixture
def s3() -> Iterator[ObjectStore]:
    with object_store() as found:
        found.make_bucket("bucket")
        yield found


@pytest.mark.slow
def test_a_sweep_whose_workers_are_refused_ends_at_once(s3: ObjectStore, tmp_path: Path) -> None:
    refused = start(tmp_path / "a", "sweep", "cloud.yaml", "--results", RESULTS, **s3.environment)
    try:
        wait_for(refused, s3, 1)
        # The first that a trial writes. To delete is to write, too (pyarrow puts back what marks
        # the folder), so that a refusal of all writes is met in the one or the other.
        s3.fail(REFUSED, "PUT spec.json")
        assert refused.wait(timeout=300) == 1
    finally:
        refused.kill()
    log = (tmp_path / "a" / "log").read_text()
    assert log.count("clray: error: ") == 1
    assert f"clray: error: {RESULTS}/trials/" in log
    assert "cannot be written: access was refused; let these credentials" in log
    assert "the same command goes on from there" in log
    assert "Traceback" not in log
    assert " failed" not in log
    assert set(lines(s3)) == {"completed"}
    assert SECRET not in log


@pytest.mark.slow
def test_a_sweep_on_s3_that_is_killed_goes_on_from_elsewhere(
    s3: ObjectStore, tmp_path: Path
) -> None:
    there = {**s3.environment, "CLRAY_RESULTS": RESULTS}
    killed = start(tmp_path / "b", "sweep", "cloud.yaml", **there)
    try:
        wait_for(killed, s3, 3)
    finally:
        killed.kill()
        killed.wait()
    assert start(tmp_path / "c", "sweep", "cloud.yaml", **there).wait(timeout=600) == 0
    assert start(tmp_path / "d", "report", RESULTS, **there).wait(timeout=120) == 0
    assert start(tmp_path / "e", "sweep", "cloud.yaml").wait(timeout=600) == 0
    stored = s3.contents()
    near = tmp_path / "e" / "results" / "jobs" / "cloud"
    for name in ("leaderboard.json", "trials.jsonl"):
        assert stored[f"bucket/deep/results/jobs/cloud/{name}"] == (near / name).read_bytes()
    assert f"page: {RESULTS}/jobs/cloud/report.html" in (tmp_path / "d" / "log").read_text()
    assert len(json.loads(stored["bucket/deep/results/jobs/cloud/provenance.json"])) == 2
    left = [p.name for folder in "bcd" for p in (tmp_path / folder).iterdir()]
    assert set(left) == {"cloud.yaml", "log"}
    written = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    for content in [*stored.values(), *written]:
        assert SECRET.encode() not in content
        assert KEY.encode() not in content
