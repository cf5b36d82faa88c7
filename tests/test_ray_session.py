"""The temporary folders that a Ray of ours leaves, or does not."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

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
    ray_session._remove_abandoned()
    assert folder.exists()  # it has just been made
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"held\n"
    ray_session._remove_abandoned()
    assert folder.exists()
    process.kill()
    process.communicate()
    ray_session._remove_abandoned()
    assert not folder.exists()
