"""Machines for tests: each a network, a list of processes, a home and a /tmp of its own, with sshd.

Runs as root inside namespaces, and so touches nothing outside: ``unshare ... python machines.py
laptop FOLDER ADDRESS...`` makes the laptop's, and one machine for each address, which it connects
by a bridge. Everything ends with the laptop's first process.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

UNSHARE = ("unshare", "--pid", "--net", "--mount", "--fork", "--mount-proc", "--kill-child")
LAPTOP = "10.77.0.254"
HOME = Path("/root")


def run(*command: str) -> None:
    """Run a command that must work."""
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def new_home(disks: Path, name: str) -> None:
    """Lay an empty account over root's home: what is there stays, and is not written to."""
    changes, work = disks / name / "changes", disks / name / "work"
    for folder in (changes, work):
        folder.mkdir(parents=True)
    options = f"lowerdir={disks / 'home'},upperdir={changes},workdir={work}"
    run("mount", "-t", "overlay", "overlay", "-o", options, str(HOME))
    for hidden in (".ssh", ".ray", ".cache"):
        shutil.rmtree(HOME / hidden, ignore_errors=True)
    for hidden in (".bashrc", ".bash_profile", ".bash_login", ".profile"):
        (HOME / hidden).unlink(missing_ok=True)


def new_tmp() -> None:
    """Lay an empty /tmp over the one that is there; code that lies there stays."""
    tmp = Path("/tmp").resolve()
    code = {Path(sys.prefix).resolve(), Path(__file__).resolve().parents[2]}
    kept = {path: os.open(path, os.O_PATH) for path in code if path.is_relative_to(tmp)}
    run("mount", "-t", "tmpfs", "-o", "mode=1777", "tmpfs", str(tmp))
    for path, opened in kept.items():
        path.mkdir(parents=True)
        run("mount", "--bind", f"/proc/{os.getpid()}/fd/{opened}", str(path))


def laptop(folder: Path, addresses: list[str]) -> None:
    """Be the laptop's first process: make the machines, and wait for the end."""
    run("mount", "--make-rprivate", "/")
    run("mount", "-t", "tmpfs", "tmpfs", str(folder / "disks"))  # no overlay lies on an overlay
    (folder / "disks" / "home").mkdir()
    run("mount", "--bind", str(HOME), str(folder / "disks" / "home"))
    run("ip", "link", "set", "lo", "up")
    run("ip", "link", "add", "bridge", "type", "bridge")
    run("ip", "address", "add", f"{LAPTOP}/24", "dev", "bridge")
    run("ip", "link", "set", "bridge", "up")
    for number, address in enumerate(addresses):
        script = str(Path(__file__).resolve())
        command = [*UNSHARE, sys.executable, "-P", script, "machine", str(folder), address]
        log = (folder / f"{address}.log").open("wb")
        machine = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        link, other = f"link{number}", f"other{number}"
        run("ip", "link", "add", link, "type", "veth", "peer", "name", other)
        run("ip", "link", "set", link, "master", "bridge", "up")
        inside = wait_for_child(machine.pid)
        run("ip", "link", "set", other, "netns", str(inside), "name", "eth0")
    new_home(folder / "disks", "laptop")
    new_tmp()
    (folder / "laptop").touch()
    reap()


def machine(folder: Path, address: str) -> None:
    """Be a machine's first process: a home, a /tmp, a network, and sshd."""
    deadline = time.monotonic() + 60
    while "eth0:" not in Path("/proc/net/dev").read_text():
        if time.monotonic() > deadline:
            sys.exit("no network")
        time.sleep(0.02)
    run("ip", "link", "set", "lo", "up")
    run("ip", "address", "add", f"{address}/24", "dev", "eth0")
    run("ip", "link", "set", "eth0", "up")
    run("ip", "route", "add", "default", "via", LAPTOP)  # by which Ray finds its own address
    new_home(folder / "disks", address)
    new_tmp()
    for place in ("/dev/shm", "/run"):
        run("mount", "-t", "tmpfs", "-o", "mode=1777", "tmpfs", place)
    os.makedirs("/run/sshd", mode=0o755)
    os.environ.clear()  # a machine knows nothing of who tests it
    subprocess.Popen(["/usr/sbin/sshd", "-D", "-e", "-f", str(folder / "sshd_config")])
    (folder / address).touch()
    reap()


def wait_for_child(pid: int) -> int:
    """The number here of the first process in the namespaces that unshare makes."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        if children:
            return int(children[0])
        time.sleep(0.02)
    sys.exit("unshare has made no process")


def reap() -> None:
    """Be a good first process: bury those whose parents have gone, for ever."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    while True:
        try:
            os.wait()
        except ChildProcessError:
            time.sleep(1)


if __name__ == "__main__":
    if sys.argv[1] == "laptop":
        laptop(Path(sys.argv[2]), sys.argv[3:])
    else:
        machine(Path(sys.argv[2]), sys.argv[3])
