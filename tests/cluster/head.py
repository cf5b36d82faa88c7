"""A cluster that asks for a token, on this machine."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

TOKEN = "0123456789abcdef0123456789abcdef"
START_SECONDS = 120.0


@dataclass(frozen=True)
class Head:
    """A head on loopback.

    Attributes:
        address: of its dashboard.
        home: of the user who may use it; the token lies there.
    """

    address: str
    home: Path

    def run(self, *arguments: str, cwd: Path, seconds: float = 240, **env: str) -> Done:
        """One clray command line, as that user."""
        process = self.start(*arguments, cwd=cwd, **env)
        out, err = process.communicate(timeout=seconds)
        return Done(process.returncode, out, err)

    def start(self, *arguments: str, cwd: Path, **env: str) -> subprocess.Popen[str]:
        """As ``run``, without waiting."""
        environment = {**clean_environment(self.home), **env}
        return subprocess.Popen(
            [sys.executable, "-m", "clray", *arguments],
            cwd=cwd,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=_heed_interrupts,
        )


def _heed_interrupts() -> None:
    """As from a terminal: what a shell starts in its background ignores Ctrl-C, and so do its
    children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@dataclass(frozen=True)
class Done:
    """How a command line ended, and what it printed."""

    code: int
    out: str
    err: str


def clean_environment(home: Path) -> dict[str, str]:
    """This process's variables, as another user has them, and none of Ray's."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    here = str(Path(sys.executable).parent)
    kept["PATH"] = f"{here}{os.pathsep}{kept.get('PATH', '')}"
    return {**kept, "HOME": str(home), "XDG_STATE_HOME": str(home / "state"), "COLUMNS": "100"}


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on."""
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


@contextmanager
def running_head(home: Path) -> Iterator[Head]:
    """A head with 2 CPUs and its dashboard, token authentication on.

    Args:
        home: an empty folder for the token.
    """
    (home / ".ray").mkdir()
    (home / ".ray" / "auth_token").write_text(TOKEN)
    (home / ".ray" / "auth_token").chmod(0o600)
    gcs, dashboard, client, agent, metrics = free_ports(5)
    ray = str(Path(sys.executable).parent / "ray")
    with tempfile.TemporaryDirectory(prefix="h", ignore_cleanup_errors=True) as temp:
        command = [ray, "start", "--head", "--block", "--num-cpus=2", f"--temp-dir={temp}"]
        command += ["--node-ip-address=127.0.0.1", f"--port={gcs}", f"--dashboard-port={dashboard}"]
        command += [f"--ray-client-server-port={client}", f"--metrics-export-port={metrics}"]
        command += [f"--dashboard-agent-listen-port={agent}", "--disable-usage-stats"]
        environment = {**clean_environment(home), "RAY_AUTH_MODE": "token"}
        environment["RAY_idle_worker_killing_time_threshold_ms"] = "600000"
        with open(home / "head.log", "w") as log:
            process = subprocess.Popen(
                command, env=environment, cwd=home, stdout=log, stderr=log, start_new_session=True
            )
        try:
            address = f"http://127.0.0.1:{dashboard}"
            _wait_for(address, process, home / "head.log")
            yield Head(address, home)
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
            _end_group(process.pid)


def _wait_for(address: str, process: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until and process.poll() is None:
        try:
            urllib.request.urlopen(f"{address}/api/version", timeout=5)
        except urllib.error.HTTPError as error:
            if error.code == 401:  # it asks for the token
                return
        except OSError:
            pass
        time.sleep(0.3)
    raise RuntimeError(f"the head did not start: {log.read_text()[-2000:]}")


def _end_group(group: int) -> None:
    """What the head left behind, if anything."""
    try:
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        return
