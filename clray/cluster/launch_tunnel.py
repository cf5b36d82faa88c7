"""A tunnel by SSH from a free port here to a port of a machine's own."""

from __future__ import annotations

import contextlib
import http.client
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator

from clray.errors import RunFailed

_OWN = ("-o", "BatchMode=yes", "-o", "ControlMaster=no", "-o", "ControlPath=none")
"""No questions to a person; and no connection shared with the launcher's, which would outlive us.
SSH takes the first that it is told, so these stand before Ray's options."""


class NoAnswer(RunFailed):
    """The machine can be reached, but nothing answers there."""


@contextlib.contextmanager
def tunnel(ssh: list[str], port: int, within: float) -> Iterator[str]:
    """Reach what answers HTTP on a machine's loopback.

    The connection ends with the context, and also when this process dies, however it dies: the
    command on the other side reads from a pipe that only this process holds open.

    Args:
        ssh: the arguments that lead to the machine.
        port: there.
        within: seconds until it must answer.

    Yields:
        The address here, such as http://127.0.0.1:40123; it has answered.

    Raises:
        NoAnswer: nothing answers there.
        RunFailed: the machine cannot be reached; with SSH's own words.
    """
    here = _free_port()
    *options, target = ssh
    forward = ("-T", "-L", f"127.0.0.1:{here}:127.0.0.1:{port}")
    command = ["ssh", *_OWN, *forward, *options, target, "exec cat"]
    with tempfile.TemporaryFile() as words:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=words,
            start_new_session=True,  # an interrupt from the keyboard is ours to handle
        )
        try:
            deadline = time.monotonic() + within
            while not _answers(here):
                if process.poll() is not None:
                    words.seek(0)
                    said = words.read().decode(errors="replace")
                    raise RunFailed(f"no SSH to {target}: {_last_line(said)}")
                if time.monotonic() > deadline:
                    raise NoAnswer(f"nothing answers on port {port} of {target}")
                time.sleep(0.1)
            yield f"http://127.0.0.1:{here}"
        finally:
            process.terminate()
            if process.stdin:
                process.stdin.close()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def remote(ssh: list[str], command: str, within: float) -> str:
    """Run a command on a machine; why that was not possible, or "".

    Args:
        ssh: the arguments that lead to the machine.
        command: for its login shell.
        within: seconds that it may take.
    """
    *options, target = ssh
    try:
        done = subprocess.run(
            ["ssh", *_OWN, *options, target, command],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=within,
            start_new_session=True,
        )
    except subprocess.TimeoutExpired:
        return f"no end within {within:g} s"
    return _last_line(done.stderr) if done.returncode else ""


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _answers(port: int) -> bool:
    """Whether anything there speaks HTTP; a refusal is an answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", "/api/version")
        connection.getresponse()
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
    return True


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "no reason given"
