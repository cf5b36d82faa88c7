"""A sweep on a cluster whose machines an autoscaler brings and takes away."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

JOB = """
name: scaled
benchmark: {name: split-digits, num_tasks: 3, class_order: [0, 1, 2, 3, 4, 5]}
model: {name: mlp, hidden: [64]}
protocol: {epochs: 60, batch_size: 16, memory: 40}
methods: {er: {}}
search: {trials: 4, startup: 3}
final: {seeds: 1}
store: {checkpoint_epochs: 20}
resources: {slots: 2, idle_seconds: 5}
"""
SCRIPT = Path(__file__).parent / "autoscaled_sweep.py"


def _missing() -> str:
    if shutil.which("unshare") is None:
        return "needs unshare"
    namespace = ["unshare", "--pid", "--fork", "--mount-proc", "true"]
    tried = subprocess.run(namespace, capture_output=True, check=False)
    return "" if tried.returncode == 0 else "needs to be root, for a PID namespace"


@pytest.mark.slow
def test_workers_come_from_none_one_is_lost_and_they_go_again(tmp_path: Path) -> None:
    if reason := _missing():
        pytest.skip(reason)
    (tmp_path / "job.yaml").write_text(JOB)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="as-", ignore_cleanup_errors=True) as temp:
        namespace = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
        log = tmp_path / "script.log"
        with open(log, "wb") as output:
            process = subprocess.Popen(
                [*namespace, sys.executable, str(SCRIPT), str(tmp_path), str(port), temp],
                env={k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"},
                stdout=output,
                stderr=output,
            )
            try:
                code = process.wait(timeout=900)
            finally:
                process.send_signal(signal.SIGKILL)
                process.wait()
    printed = log.read_text() + (tmp_path / "war.log").read_text()
    assert code == 0, printed
    told = json.loads((tmp_path / "told.json").read_text())
    assert told["code"] == 0, printed
    assert told["killed"], printed
    counts = [count for _, count in told["workers"]]
    assert counts[0] == counts[-1] == 0, told
    assert max(counts) == 2, told
    assert "waits for another slot" in printed
    assert "waiting for machines" in printed

    peace = subprocess.run(
        [sys.executable, "-m", "clray", "sweep", "job.yaml", "--results", "peace"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert peace.returncode == 0, peace.stderr
    for name in ("leaderboard.json", "trials.jsonl"):
        war, quiet = (tmp_path / run / "jobs" / "scaled" / name for run in ("war", "peace"))
        assert war.read_bytes() == quiet.read_bytes()
