"""cluster.yaml from `up` to `down` against a pretended AWS (moto), whose machines are namespaces of
this one with Ray, sshd, addresses and processes of their own. Nothing leaves them.

``aws_world.sh`` makes the world, ``aws_cloud.py`` the cloud, ``aws_machine.sh`` each machine, and
``aws_story.py`` is what happens and what is held.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
NEEDED = ("unshare", "ip", "ssh", "ssh-keygen", "rsync", "/usr/sbin/sshd")
WORLD = ("unshare", "--pid", "--net", "--mount", "--fork", "--mount-proc", "--kill-child")


def missing() -> str | None:
    """What keeps the test from running here, in words."""
    if sys.version_info[:2] != (3, 11):
        return "needs Python 3.11, which cluster.yaml gives the machines"
    if os.geteuid() != 0:
        return "needs root, for namespaces"
    if absent := [name for name in NEEDED if shutil.which(name) is None]:
        return f"needs {', '.join(absent)} (apt: openssh-server, rsync, iproute2, util-linux)"
    if absent := [
        name for name in ("boto3", "moto", "flask") if not importlib.util.find_spec(name)
    ]:
        return f"needs {', '.join(absent)} (the extra 'test')"
    tried = subprocess.run([*WORLD, "bash", HERE / "aws_world.sh", "true"], capture_output=True)
    return f"needs namespaces: {tried.stderr.decode()[-200:]}" if tried.returncode else None


@pytest.mark.slow
def test_a_cluster_lives_through_lost_machines_and_leaves_nothing(tmp_path: Path) -> None:
    """Up; a sweep's wish for GPUs brings spot machines; a reclaimed one is replaced, by on-demand
    where there is no spot; idle ones go; down.
    """
    if (reason := missing()) is not None:
        pytest.skip(reason)
    log = tmp_path / "story.log"
    with log.open("wb") as out:
        story = subprocess.Popen(
            [*WORLD, "bash", HERE / "aws_world.sh", sys.executable, HERE / "aws_story.py"],
            stdout=out,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
        try:
            story.wait(timeout=1200)
        finally:
            story.kill()  # and with it everything in its namespaces
            story.wait()
    assert story.returncode == 0, log.read_text()[-12000:]
