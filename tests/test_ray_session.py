"""What a Ray of ours leaves behind, or does not."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import ray

from clray import ray_session

HOLD = """
import os, sys
from pathlib import Path
from clray import ray_session
ray_session._hold(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


def test_only_the_folders_of_the_dead_are_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path))
    # The number of a process says nothing: in another namespace nobody has it.
    folder = tmp_path / f"clray-ray-{2**22 + 1}-x"
    folder.mkdir()
    ray_session.remove_abandoned()
    assert folder.exists()  # it has just been made
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"held\n"
    ray_session.remove_abandoned()
    assert folder.exists()
    process.kill()
    process.communicate()
    ray_session.remove_abandoned()
    assert not folder.exists()


@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
def test_what_ray_left_running_ends_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path))
    folder = tmp_path / "clray-ray-1-x"
    folder.mkdir()
    (folder / "alive").touch()
    sleep = shutil.which("sleep")
    assert sleep is not None
    worker = [
        sys.executable,
        "-c",
        "import time; time.sleep(100)",
        f"{Path(ray.__file__).parent}/w",
    ]
    commands = [
        (["ray::Agent", "100"], folder),
        (worker, folder),
        (["ray::Other", "100"], tmp_path),
        (["tail", "100"], folder),
    ]
    started = []
    for command, written in commands:
        with (written / "log").open("w") as log:
            program = sleep if command[1] == "100" else None
            started.append(subprocess.Popen(command, executable=program, stdout=log))
    try:
        ray_session.remove_abandoned()
        assert [one.wait(timeout=10) for one in started[:2]] == [-signal.SIGKILL] * 2
        assert [other.poll() for other in started[2:]] == [None, None]
        assert not folder.exists()
    finally:
        for process in started:
            process.kill()
            process.wait()
