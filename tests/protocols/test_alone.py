"""One driver for each job: who is refused, who takes over, and who learns of it."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
import subprocess
import threading
import time
import uuid
from pathlib import Path
from typing import Any

import pytest

from clray.errors import BadSpec, RunFailed
from clray.events import Event, Warned, ignore
from clray.protocols import alone
from clray.protocols.alone import Claim
from clray.store import Folder
from tests.object_store import REFUSED, object_store


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Folder:
    monkeypatch.setattr(alone, "SECONDS_BETWEEN_SIGNS", 0.3)
    monkeypatch.setattr(alone, "STALE_SECONDS", 3.0)
    monkeypatch.setattr(random, "uniform", lambda low, high: 0.2)
    return Folder(str(tmp_path / "job"))


def put(folder: Folder, **who: Any) -> None:
    """A claim that nobody keeps fresh."""
    content = {**alone._whose(), "since": "2026-01-01", **who}
    (folder / "running").write_json("other.json", content)


def test_a_job_that_runs_on_this_machine_is_refused_at_once(folder: Folder) -> None:
    with (
        Claim(folder, ignore),
        pytest.raises(BadSpec, match=rf"not running already: .* process {os.getpid()}, since 20"),
        Claim(folder, ignore),
    ):
        pass
    with alone.alone(folder, ignore), pytest.raises(BadSpec), alone.alone(folder, ignore):
        pass
    assert folder.names() == [".lock"]


def test_a_job_that_runs_elsewhere_is_refused_when_it_gives_a_sign(folder: Folder) -> None:
    events: list[Event] = []
    running = Claim(folder, ignore)
    running.content["machine"], running.content["host"] = "other", "far-away"
    with (
        running,
        pytest.raises(BadSpec, match=r"not running already: .* on far-away"),
        Claim(folder, events.append),
    ):
        pass
    [told] = events
    assert isinstance(told, Warned)
    assert "far-away" in told.text
    assert "at most 3 seconds" in told.text


def test_a_driver_elsewhere_that_is_dead_is_waited_for(folder: Folder) -> None:
    put(folder, machine="other")
    start = time.monotonic()
    with alone.alone(folder, ignore) as claim:
        assert 2 < time.monotonic() - start < 30
        assert (folder / "running").names() == [claim.name]


def test_a_driver_of_this_machine_that_is_dead_is_not_waited_for(folder: Folder) -> None:
    gone = subprocess.Popen(["true"])
    put(folder, pid=gone.pid)
    gone.wait()
    events: list[Event] = []
    with Claim(folder, events.append):
        pass
    put(folder, space="another container")
    with alone.alone(folder, events.append):  # the lock says that it is gone
        pass
    assert events == []


def test_a_driver_that_was_taken_over_ends(folder: Folder) -> None:
    with Claim(folder, ignore) as claim:
        claim.check()
        put(folder, host="far-away")
        (folder / "running").delete(claim.name)
        claim.thread.join(timeout=60)
        with pytest.raises(RunFailed, match=r"taken over by .* on far-away"):
            claim.check()


def test_of_many_that_start_at_once_never_two_run(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = alone._whose
    monkeypatch.setattr(alone, "_whose", lambda: {**own(), "machine": uuid.uuid4().hex})
    runs: list[tuple[float, float]] = []

    def run() -> None:
        with contextlib.suppress(BadSpec), Claim(folder, ignore):
            start = time.monotonic()
            time.sleep(0.3)
            runs.append((start, time.monotonic()))

    threads = [threading.Thread(target=run) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    runs.sort()
    assert all(one[1] <= other[0] for one, other in itertools.pairwise(runs))
    with Claim(folder, ignore):
        pass


def test_on_an_object_store(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("moto", reason="moto is not installed")
    with object_store() as s3:
        s3.make_bucket("bucket")
        for name, value in s3.environment.items():
            monkeypatch.setenv(name, value)
        far = Folder("s3://bucket/jobs/a")
        with (
            alone.alone(far, ignore),
            pytest.raises(BadSpec, match="not running already"),
            alone.alone(far, ignore),
        ):
            pass
        assert far.files() == {"running/": 0} or far.files() == {}
        put(far, machine="other")
        with alone.alone(far, ignore) as claim:
            [name] = far.files("running")
            assert name == f"running/{claim.name}"
            assert json.loads(far.read(name))["pid"] == os.getpid()
        s3.fail(REFUSED, "PUT /bucket")
        with pytest.raises(BadSpec, match=r"access was refused.*accepted: a folder that can be"):
            alone.alone(far, ignore).__enter__()
