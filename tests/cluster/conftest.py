"""A cluster by SSH on this machine, for tests that need root."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import pytest

from tests.cluster.head import Head, running_head

REPOSITORY = Path(__file__).parents[2]
ADDRESSES = ("10.77.0.1", "10.77.0.2")
SSHD = """\
Port 22
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/key.pub
PermitRootLogin prohibit-password
StrictModes no
UsePAM no
PasswordAuthentication no
PidFile none
"""


@dataclass(frozen=True)
class SshCluster:
    """A laptop and machines that it reaches by SSH, none of which is up yet.

    Attributes:
        file: a filled-in ``clusters/ssh.yaml``.
        folder: what all machines, the laptop and the test share.
        results: the folder therein for results.
        laptop: the number of the laptop's first process.
    """

    file: Path
    folder: Path
    results: Path
    laptop: int

    def run(self, *command: str, within: float = 300) -> subprocess.CompletedProcess[str]:
        """Run a command on the laptop, as somebody whose home and /tmp are empty at first."""
        kept = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
        process = subprocess.Popen(
            ["nsenter", f"--target={self.laptop}", "--all", f"--wd={REPOSITORY}", *command],
            env={**kept, "HOME": "/root", "PYTHONPATH": str(REPOSITORY), "TMPDIR": "/tmp"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        try:
            said, _ = process.communicate(timeout=within)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            said, _ = process.communicate()
            raise AssertionError(f"{command} took longer than {within} s:\n{said}") from None
        return subprocess.CompletedProcess(command, process.returncode, said)

    def titles(self) -> str:
        """The command lines of all processes of the laptop and of the machines."""
        return self.run("ps", "-eo", "args", "-ww").stdout


@pytest.fixture
def ssh_cluster() -> Iterator[SshCluster]:
    """A laptop and two machines with sshd, each with a network, processes, a home and a /tmp of
    its own, on this one; skips, and says what is missing, where that cannot be made."""
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("needs root on Linux")
    tools = {"unshare": "util-linux", "nsenter": "util-linux", "ip": "iproute2", "rsync": "rsync"}
    tools |= {"ssh": "openssh-client", "/usr/sbin/sshd": "openssh-server", "ps": "procps"}
    missing = {package for tool, package in tools.items() if shutil.which(tool) is None}
    if missing:
        pytest.skip(f"needs {', '.join(sorted(missing))}")
    # Neither below /tmp nor below the home, which the machines have for themselves.
    with tempfile.TemporaryDirectory(prefix="clray-", dir="/var/tmp") as name:
        folder = Path(name)
        (folder / "disks").mkdir()
        (folder / "results").mkdir()
        for key in ("key", "host_key"):
            command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / key)]
            subprocess.run(command, check=True)
        (folder / "sshd_config").write_text(SSHD.format(folder=folder))
        script = Path(__file__).with_name("machines.py")
        with (folder / "laptop.log").open("wb") as log, _namespaces(folder, script, log) as pid:
            _wait_for(folder, pid)
            yield SshCluster(_filled_in(folder), folder, folder / "results", _first_inside(pid))


@contextlib.contextmanager
def _namespaces(folder: Path, script: Path, log: BinaryIO) -> Iterator[int]:
    unshare = ("unshare", "--pid", "--net", "--mount", "--fork", "--mount-proc", "--kill-child")
    command = [*unshare, sys.executable, "-P", str(script), "laptop", str(folder), *ADDRESSES]
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        yield process.pid
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # with it goes all that is in its namespaces
        process.wait()


def _wait_for(folder: Path, pid: int) -> None:
    deadline = time.monotonic() + 60
    while not all((folder / name).exists() for name in ("laptop", *ADDRESSES)):
        ended = os.waitpid(pid, os.WNOHANG)[0]
        if ended or time.monotonic() > deadline:
            said = "\n".join(log.read_text() for log in folder.glob("*.log"))
            pytest.skip(f"namespaces cannot be made here: {said.strip()[-500:]}")
        time.sleep(0.05)


def _first_inside(pid: int) -> int:
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])


def _filled_in(folder: Path) -> Path:
    """``clusters/ssh.yaml`` as a person fills it in, with this environment in place of a new one
    and as little memory as will do."""
    text = (REPOSITORY / "clusters" / "ssh.yaml").read_text()
    values = {
        "the address of the head": ADDRESSES[0],
        "the address of a second": ADDRESSES[1],
        "a folder that all": str(folder / "results"),
        "the account": "root",
        "the key's file": str(folder / "key"),
    }
    lines = []
    for line in text.splitlines():
        if "<FILL-IN: " in line:
            before, _, after = line.partition('"<FILL-IN: ')
            found = [value for words, value in values.items() if after.startswith(words)]
            line = before + found[0]
        lines.append(line)
    text = "\n".join(lines) + "\n"
    start, end = text.index("  - test -x ~/.local/bin/uv"), text.index("  # Slots stand idle")
    text = text[:start] + f"  - ln -sfn {sys.prefix} ~/clray-env\n" + text[end:]
    text = text.replace("ray start ", "ray start --num-cpus=1 --object-store-memory=100000000 ")
    path = folder / "ssh.yaml"
    path.write_text(text)
    return path


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    """A head that asks for a token, on loopback."""
    with running_head(tmp_path_factory.mktemp("home")) as running:
        yield running
