"""Start, reach and end a cluster that a cluster file describes, through Ray's own launcher."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from clray.cluster.cluster_file import ClusterFile
from clray.cluster.launch_process import Machine, Say, launch, log_file, machines
from clray.cluster.launch_tunnel import NoAnswer, remote, tunnel
from clray.errors import BadData, RunFailed

__all__ = ["Say", "dashboard", "down", "is_up", "make_token", "up"]

DASHBOARD = 8265
"""The port of Ray's dashboard on the head."""
_PLAIN = ("--log-style", "pretty", "--log-color", "false")
_UP = 3600.0
_DOWN = 1200.0
_READY = 60.0
"""Seconds that a head that is up has to answer through the tunnel."""
_FORGOTTEN = 5.0
"""The same of a head by SSH of which nothing is noted here: notes do not outlive this machine."""


def is_up(file: ClusterFile) -> bool:
    """Whether the head runs and Ray on it answers.

    Raises:
        RunFailed: the provider gives no answer, or the head cannot be reached: starting Ray there
            again would end the jobs that it may be running.
    """
    head = _head(file)
    if head is None:
        return False
    try:
        with tunnel(head.ssh, DASHBOARD, _READY if head.ready else _FORGOTTEN):
            return True
    except NoAnswer:
        return False
    except RunFailed as error:
        if not head.ready:
            return False
        raise RunFailed(f"cluster {file.name}: {error}") from None


def up(file: ClusterFile, say: Say) -> None:
    """Start a cluster, unless it is up. Makes the token if there is none.

    Args:
        file: the cluster's.
        say: told of each step.

    Raises:
        BadData: ssh or rsync is not installed here, or the token's file is of no use.
        RunFailed: the provider gives no answer, machines cannot be reached, or Ray's launcher
            fails; with the end of its log. What has been started by then stays: ``down`` ends it.
    """
    for tool in ("ssh", "rsync"):
        if shutil.which(tool) is None:
            raise BadData(tool, None, f"an installed {tool}: Ray's cluster launcher needs it")
    if is_up(file):
        say(f"cluster {file.name} is up")
        return
    make_token(file, say)
    if file.provider == "local":
        _check_reach(file)
    say(f"starting cluster {file.name} ({file.provider}); log: {log_file(file, 'up')}")
    try:
        launch(file, ["up", "-y", "--no-config-cache", *_PLAIN], say, _UP)
        with dashboard(file):
            say(f"cluster {file.name} is up")
    except (RunFailed, KeyboardInterrupt):
        with contextlib.suppress(RunFailed):
            left = [machine for machine in machines(file) if machine.running]
            if left:
                say(f"{len(left)} machines of cluster {file.name} run: ray down {file.path}")
        raise


def down(file: ClusterFile, say: Say) -> None:
    """End a cluster, also one that is half up, and see that nothing is left.

    Args:
        file: the cluster's.
        say: told of each step.

    Raises:
        RunFailed: the provider gives no answer, or machines still run at the end.
    """
    before = [machine for machine in machines(file) if machine.running]
    if not before and not (file.provider == "local" and is_up(file)):
        say(f"cluster {file.name} is down")
        return
    say(f"ending cluster {file.name}; log: {log_file(file, 'down')}")
    failed: RunFailed | None = None
    try:
        launch(file, ["down", "-y", *_PLAIN], say, _DOWN)
    except RunFailed as error:
        failed = error
    left = [machine.id for machine in machines(file) if machine.running]
    if left:
        told = f"cluster {file.name}: still running: {', '.join(left)}"
        raise RunFailed(f"{told}\n{failed}" if failed else told)
    if file.provider == "local":
        _stop_by_ssh(file)
    say(f"cluster {file.name} is down: no machine of it runs")


@contextlib.contextmanager
def dashboard(file: ClusterFile) -> Iterator[str]:
    """A tunnel to the head's dashboard, through which jobs go; it ends with the context.

    Yields:
        Its address here, such as http://127.0.0.1:40123; it has answered. When the connection is
        lost, enter again.

    Raises:
        RunFailed: the cluster is not up, or its head cannot be reached.
    """
    head = _head(file)
    if head is None:
        raise RunFailed(f"cluster {file.name} is not up")
    with contextlib.ExitStack() as stack:
        try:
            within = _READY if head.ready else _FORGOTTEN
            address = stack.enter_context(tunnel(head.ssh, DASHBOARD, within))
        except RunFailed as error:
            raise RunFailed(f"cluster {file.name}: {error}") from None
        yield address


def make_token(file: ClusterFile, say: Say) -> None:
    """See that the token's file is there, and that only its owner can read it.

    Args:
        file: the cluster's.
        say: told of what was done.

    Raises:
        BadData: it is empty, or no file.
    """
    token = file.token_file
    if token is None:
        return
    if not token.exists():
        from ray._private.authentication.authentication_token_generator import (
            generate_new_authentication_token,
        )

        token.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        new = os.open(token, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(new, "w") as stream:
            stream.write(generate_new_authentication_token())
        say(f"made a token for the cluster: {token}")
    if not token.is_file() or not token.read_text().strip():
        raise BadData(str(token), "no token", "a file with Ray's token; remove it for a new one")
    if token.stat().st_mode & 0o077:
        token.chmod(0o600)
        say(f"now only you can read the token: {token}")


def _head(file: ClusterFile) -> Machine | None:
    """The head, with the way to it, if it is ready; a head by SSH in any case."""
    if file.provider == "local":
        heads = [machine for machine in machines(file, with_ssh=True) if machine.head]
    else:  # first without the way, because finding that may make keys and rights in a cloud
        heads = [machine for machine in machines(file) if machine.head and machine.ready]
        if heads:
            heads = [each for each in machines(file, with_ssh=True) if each.head and each.ready]
    return heads[0] if heads else None


def _by_ssh(file: ClusterFile, command: str, within: float) -> str:
    """Run a command on all machines by SSH that can be reached from here; what went wrong."""
    there = machines(file, with_ssh=True)
    if "external_head_ip" in file.config["provider"]:
        there = [machine for machine in there if machine.head]  # the others: only from the head
    with ThreadPoolExecutor(8) as pool:
        reasons = list(pool.map(lambda machine: remote(machine.ssh, command, within), there))
    return "; ".join(f"{each.id}: {why}" for each, why in zip(there, reasons, strict=True) if why)


def _check_reach(file: ClusterFile) -> None:
    """Refuse at once what Ray's launcher would try for minutes, or never tell."""
    if wrong := _by_ssh(file, "true", 30):
        raise RunFailed(f"cluster {file.name}: no SSH to {wrong}")


def _stop_by_ssh(file: ClusterFile) -> None:
    """Stop Ray on all machines: its launcher forgets heads, and leaves workers to notice the end
    by themselves."""
    command = "bash --login -i -c 'source ~/.bashrc; ! command -v ray || ray stop'"
    if wrong := _by_ssh(file, command, 120):
        raise RunFailed(f"cluster {file.name}: Ray may still run on {wrong}")
