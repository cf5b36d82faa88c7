"""The commands of a cluster file: a token at every door, and the same versions as here."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from typing import Any

from clray.cluster.cluster_written import Complaint, Place

_MODE = re.compile(r"RAY_AUTH_MODE=[\"']?(\w+)")
_HOST = re.compile(r"--dashboard-host[= ]+[\"']?([^\s\"']+)")
_RAY = re.compile(r"\bray(?:\[[^\]]*\])?\s*==\s*([0-9][\w.]*)")
_ANY_RAY = re.compile(r"(?<![\w/.-])ray\[[^\]]*\](?!\s*==\s*[0-9])")
_WHEEL = re.compile(r"\bray-([0-9]+\.[0-9]+\.[0-9]+[\w.]*)-cp")
_IMAGE = re.compile(r"rayproject/[\w-]+:([0-9]+\.[0-9]+\.[0-9]+)(?:[\w.]*)(?:-py(\d)(\d+))?")
_PYTHON = re.compile(r"\bpython\s*[= ]*v?(3\.\d+)\b")
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


def command_complaints(config: dict[str, Any]) -> Iterator[Complaint]:
    """What is wrong with the commands.

    Args:
        config: a cluster file's content, with Ray's defaults filled in.
    """
    yield from _token(config)
    yield from _start(config)
    yield from _versions(config)


def _token(config: dict[str, Any]) -> Iterator[Complaint]:
    head = [*config["head_setup_commands"], *config["head_start_ray_commands"]]
    start = config["worker_start_ray_commands"]
    machines: dict[Place, list[str]] = {("head_setup_commands",): head}
    types = config["available_node_types"].items()
    own: dict[Place, list[str]] = {
        ("available_node_types", name, "worker_setup_commands"): kind["worker_setup_commands"]
        for name, kind in types
        if "worker_setup_commands" in kind
    }
    shared: dict[Place, list[str]] = {("worker_setup_commands",): config["worker_setup_commands"]}
    for at, commands in {**shared, **own}.items():
        machines[at] = [*commands, *start]
    everything = "\n".join(command for commands in machines.values() for command in commands)
    if set(_MODE.findall(everything)) == {"disabled"}:
        return  # the file says that it wants none
    for at, commands in machines.items():
        if _MODE.findall("\n".join(commands))[-1:] != ["token"]:
            accepted = (
                "a command under setup_commands that turns Ray's token authentication on (echo "
                "'export RAY_AUTH_MODE=token' >> ~/.bashrc), or RAY_AUTH_MODE=disabled for a "
                "cluster that everybody who reaches it may use"
            )
            yield Complaint(at, None, accepted)
            break  # one command under setup_commands serves all
    mounted = any(
        remote.rstrip("/").endswith((".ray", ".ray/auth_token")) for remote in config["file_mounts"]
    )
    if not mounted and not re.search(r"\.ray/auth_token|RAY_AUTH_TOKEN_PATH", everything):
        accepted = "~/.ray/auth_token: ~/.ray/auth_token, which brings Ray's token to the machines"
        yield Complaint(("file_mounts",), config["file_mounts"], accepted)


def _start(config: dict[str, Any]) -> Iterator[Complaint]:
    at = ("head_start_ray_commands",)
    text = "\n".join(config["head_start_ray_commands"])
    for host in _HOST.findall(text):
        if host not in _LOOPBACK:
            accepted = "127.0.0.1: the dashboard runs whatever it is sent; clray comes by SSH"
            yield Complaint(at, f"--dashboard-host={host}", accepted)
    if "ray start" not in text or "--autoscaling-config" not in text:
        accepted = "ray start --head ... --autoscaling-config=~/ray_bootstrap_config.yaml"
        yield Complaint(at, config["head_start_ray_commands"], accepted)
    if "--include-dashboard=false" in text.lower():
        yield Complaint(at, "--include-dashboard=false", "a dashboard: it takes the jobs")


def _versions(config: dict[str, Any]) -> Iterator[Complaint]:
    import ray

    setup = [*config["head_setup_commands"], *config["worker_setup_commands"]]
    for kind in config["available_node_types"].values():
        setup += kind.get("worker_setup_commands", [])
    text = "\n".join([*config["initialization_commands"], *setup])
    here = f"{sys.version_info.major}.{sys.version_info.minor}"
    docker = " ".join(str(value) for value in (config.get("docker") or {}).values())
    images = _IMAGE.findall(docker)
    at = ("docker",) if images else ("setup_commands",)
    rays = {*_RAY.findall(text), *_WHEEL.findall(text), *(image[0] for image in images)}
    for other in sorted(rays - {ray.__version__}):
        accepted = f"Ray {ray.__version__}, which is installed here: Ray does not mix versions"
        yield Complaint(at, f"Ray {other}", accepted)
    if (loose := _ANY_RAY.search(text)) and not rays:
        accepted = (
            f"{loose.group()}=={ray.__version__}, the version here: Ray does not mix versions"
        )
        yield Complaint(at, loose.group(), accepted)
    pythons = {*_PYTHON.findall(text), *(f"{i[1]}.{i[2]}" for i in images if i[1])}
    if pythons and here not in pythons:
        accepted = f"Python {here}, which runs here: Ray does not mix Python versions"
        yield Complaint(at, f"Python {', '.join(sorted(pythons))}", accepted)
