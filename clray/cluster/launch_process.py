"""Ray's cluster launcher as a process: its environment, its log, its progress and its limits."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clray.cluster.cluster_file import ClusterFile
from clray.errors import RunFailed

Say = Callable[[str], None]
"""Takes a line of progress for a person."""

ANSWER = 60.0
"""Seconds that a provider has to tell which machines there are."""
SSH = 300
"""Seconds that a new machine has to take its first SSH connection."""
SILENT = 600.0
"""Seconds without a word from the launcher, after which it is given up."""
_TAIL = 20
_STEP = re.compile(r"^\s*\[(\d(?:-\d)?)/7\]\s+(.*)")
_LANDMARKS = re.compile(r"^\s*((?:Acquiring|Launched|Requested|Creating|No head node).*)")
_COLOUR = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


@dataclass(frozen=True)
class Machine:
    """A machine of a cluster.

    Attributes:
        id: the provider's name for it.
        head: whether it is the head.
        running: whether the provider counts it as running.
        ready: whether the launcher has finished with it.
        ssh: the arguments of ssh that lead to it; empty if not asked for.
    """

    id: str
    head: bool
    running: bool
    ready: bool
    ssh: list[str]


def machines(file: ClusterFile, with_ssh: bool = False) -> list[Machine]:
    """The machines of a cluster, as its provider tells.

    Args:
        file: the cluster's.
        with_ssh: tell also how to reach the head, and the machines by SSH that are down.

    Raises:
        RunFailed: the provider gives no answer, or refuses to.
    """
    script = str(Path(__file__).with_name("launch_nodes.py"))
    what = "ssh" if with_ssh else "nodes"
    with _environment(file) as environment:
        command = [sys.executable, "-P", script, what, str(file.path.resolve())]
        process = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        try:
            said, noise = process.communicate(timeout=ANSWER)
        except subprocess.TimeoutExpired:
            raise RunFailed(
                f"cluster {file.name}: {file.provider} did not answer within {ANSWER:g} s; is the "
                "network up, and are the region and the credentials right?"
            ) from None
        finally:
            _end(process)
    try:
        answer: dict[str, Any] = json.loads(said.splitlines()[-1])
    except (IndexError, ValueError):
        answer = {"error": ""}
    if "error" in answer:
        why = answer["error"] or "\n".join(_tail(noise))
        raise RunFailed(f"cluster {file.name}: {file.provider} says: {why}")
    return [Machine(**machine) for machine in answer["machines"]]


def launch(file: ClusterFile, command: list[str], say: Say, limit: float) -> None:
    """Run a command of Ray's launcher to its end.

    Args:
        file: the cluster's.
        command: such as ``["up", "-y"]``; the file is appended.
        say: told of each step.
        limit: seconds that the whole may take.

    Raises:
        RunFailed: it fails, takes longer, or falls silent; with the end of its log, which stays.
    """
    log = log_file(file, command[0])
    whole = [sys.executable, "-P", "-m", "ray.scripts.scripts", *command, str(file.path.resolve())]
    with _environment(file) as environment, log.open("wb") as out:
        process = subprocess.Popen(
            whole,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            given_up = _follow(process, log, say, limit)
        finally:
            _end(process)
    if given_up or process.returncode:
        end = "\n".join(f"  {line}" for line in _tail(log.read_text(errors="replace")))
        why = given_up or f"failed (exit code {process.returncode})"
        raise RunFailed(f"cluster {file.name}: ray {command[0]} {why}; all of it: {log}\n{end}")


def log_file(file: ClusterFile, command: str) -> Path:
    """Where the launcher's words about a cluster are kept."""
    folder = Path.home() / ".cache" / "clray" / "launcher"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder / f"{re.sub(r'[^A-Za-z0-9._-]', '_', file.name)}.{command}.log"


def _follow(process: subprocess.Popen[bytes], log: Path, say: Say, limit: float) -> str:
    """Tell the steps until the process ends; why it was given up, if it was."""
    start = heard = told = time.monotonic()
    step = "starting"
    with log.open("rb") as stream:
        rest = b""
        while True:
            ended = process.poll() is not None
            *lines, rest = (rest + stream.read()).split(b"\n")
            now = time.monotonic()
            if lines:
                heard = now
            for line in lines:
                text = _COLOUR.sub("", line.decode(errors="replace")).rstrip()
                if found := _STEP.match(text):
                    step, told = f"step {found[1]} of 7: {found[2]}", now
                    say(step)
                elif found := _LANDMARKS.match(text):
                    say(found[1])
            if ended:
                return ""
            if now - start > limit:
                return f"took longer than {limit / 60:g} min"
            if now - heard > SILENT:
                return f"said nothing for {SILENT / 60:g} min"
            if now - told > 60:
                told = now
                say(f"{step}, since {(now - start) / 60:.0f} min")
            time.sleep(0.2)


@contextlib.contextmanager
def _environment(file: ClusterFile) -> Iterator[dict[str, str]]:
    """The environment of Ray's launcher: nothing that a shell has set about another Ray."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    usual = os.environ.get("TMPDIR", "/tmp") if sys.platform.startswith("linux") else "/tmp"
    with tempfile.TemporaryDirectory(prefix="clray-") as folder:
        yield {
            **kept,
            "TMPDIR": folder,  # Ray's cache of resolved files goes stale without a word
            "RAY_TMPDIR": os.environ.get("RAY_TMPDIR", usual),  # where it notes machines by SSH
            "RAY_USAGE_STATS_ENABLED": "0",
            # The second version does not find the head among machines by SSH, nor start others.
            "RAY_UP_enable_autoscaler_v2": "0" if file.provider == "local" else "1",
            "AUTOSCALER_NODE_START_WAIT_S": str(SSH),
            "PYTHONUNBUFFERED": "1",
            "NO_COLOR": "1",
        }


def _end(process: subprocess.Popen[Any]) -> None:
    """End a process and what it has started."""
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _tail(text: str) -> list[str]:
    """The last lines that say something."""
    lines = [_COLOUR.sub("", line).rstrip() for line in text.replace("\r", "\n").splitlines()]
    return [line for line in lines if line][-_TAIL:]
