"""A disk that is really full: one clear error, and the same command goes on."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from clray.__main__ import invoke
from clray.store import Folder


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB."""
    path = tmp_path / "disk"
    path.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(path)]
    try:
        done = subprocess.run(command, capture_output=True, check=False).returncode
    except FileNotFoundError:
        done = 1
    if done:
        pytest.skip("mounting a small disk takes root")
    yield path
    subprocess.run(["umount", "-l", str(path)], check=True)


def test_a_run_on_a_full_disk(small_disk: Path, capfd: pytest.CaptureFixture[str]) -> None:
    rest = small_disk / "rest"
    rest.write_bytes(b"x" * 200_000)
    command = ["run", "finetune", "split-digits", "--here", "protocol.epochs=1"]
    command += ["model={name: mlp, hidden: [100]}", "--results", str(small_disk / "results")]
    assert invoke(command) == 1
    out, err = capfd.readouterr()
    assert err.count("clray: error: ") == 1
    assert "checkpoint: cannot be written: the disk is full; make room, or put the results" in err
    assert "Traceback" not in out + err
    [trial] = (small_disk / "results" / "trials").iterdir()
    assert "result.json" not in Folder(str(trial)).names()
    assert not list(trial.glob("*.tmp"))
    rest.unlink()
    assert invoke(command) == 0
    assert "result.json" in Folder(str(trial)).names()
