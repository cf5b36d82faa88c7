"""A SkyPilot task asks for what the slots need, and its machines run the job on a Ray of our own.

SkyPilot's own parser needs SkyPilot, whose requirements do not go with ours: the environment
variable ``CLRAY_SKYPILOT_PYTHON`` names the Python of an environment that has it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from clray.cluster import skypilot
from clray.cluster.manifest import fill_ins
from clray.cluster.sent import Sent
from clray.cluster.skypilot import package_beside, sky_task
from clray.errors import BadSpec
from clray.spec import Resources

SENT = Sent(
    name="split.CIFAR_100",
    package=b"a zip",
    digest="",
    command="python -m clray sweep job.yaml --results 's3://results/a?region=eu&x=y'",
    results="s3://results/a?region=eu&x=y",
    env={"CLRAY_DATA": "s3://data"},
    requirements=("ray[default,data]>=2.60.0", "torch>=2.15.0"),
    resources=Resources(slots=4, workers=2, gpus_per_worker=1),
    python="3.11",
    ray="2.60.0",
)
ONE = dataclasses.replace(SENT, resources=Resources(slots=4, gpus_per_worker=0.25))
NO_GPU = dataclasses.replace(SENT, resources=Resources(slots=4, cpus_per_worker=4))

PARSE = """
import json, sys, yaml, sky
for text in json.load(sys.stdin):
    given = [("RAY_AUTH_TOKEN", "x")] if "--secret RAY_AUTH_TOKEN" in text else None
    try:
        task = sky.Task.from_yaml_config(yaml.safe_load(text), secrets_overrides=given)
        kinds = [[each.use_spot, each.accelerators, each.cpus, each.memory, each.disk_size,
                  each.autostop_config.down] for each in task.resources]
        print(json.dumps([task.num_nodes, sorted(kinds, key=str), task.envs, sorted(task.secrets)]))
    except ValueError as error:
        print(json.dumps(str(error)))
"""


def task(sent: Sent) -> dict[str, Any]:
    """The task, read back."""
    read = yaml.safe_load(sky_task(sent, "task.yaml"))
    assert isinstance(read, dict)
    return read


@pytest.mark.parametrize(
    ("sent", "nodes", "gpus", "cpus"), [(SENT, 8, 1, 1), (ONE, 1, 1, 4), (NO_GPU, 2, 0, 8)]
)
def test_machines_that_hold_all_slots(sent: Sent, nodes: int, gpus: int, cpus: int) -> None:
    read = task(sent)
    resources = read["resources"]
    assert read["num_nodes"] == nodes
    assert int(resources["cpus"].removesuffix("+")) >= cpus
    spots = [each["use_spot"] for each in resources["any_of"]]
    assert True in spots
    assert False in spots  # what there is to fall back on
    for each in resources["any_of"]:
        assert list(each.get("accelerators", {}).values()) == ([gpus] if gpus else [])
    assert ("secrets" in read) == (nodes > 1)
    assert read.get("secrets", {}) in ({}, {"RAY_AUTH_TOKEN": None})


def test_the_package_travels_beside_the_file(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    text = sky_task(SENT, "sub/task.yaml")
    assert text == sky_task(SENT, "sub/task.yaml")
    assert package_beside("sub/task.yaml") == tmp_path / "sub" / "task.zip"
    read = yaml.safe_load(text)
    assert read["file_mounts"] == {"~/clray-package.zip": str(tmp_path / "sub" / "task.zip")}
    assert hashlib.sha256(SENT.package).hexdigest() in read["setup"]
    assert "'ray[default,data]==2.60.0'" in read["setup"]
    assert read["envs"].items() >= SENT.env.items()
    assert SENT.command in read["run"].splitlines()
    assert "ray stop" not in read["run"]
    assert re.fullmatch(r"split-cifar-100-[0-9a-f]{6}", read["name"])
    assert fill_ins(text) == []


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"results": "/home/me/results"}, "share no folder"),
        ({"results": "s3://ID:KEY@bucket/a"}, "without credentials"),
        ({"env": {"WANDB_API_KEY": "x"}}, "no secrets"),
        ({"env": {"RAY_AUTH_TOKEN": "x"}}, "no secrets"),
        ({"env": {"RAY_ADDRESS": "x"}}, "another name"),
    ],
)
def test_refused_before_anything_is_written(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(BadSpec, match=told):
        sky_task(dataclasses.replace(SENT, **changes), "task.yaml")


@pytest.mark.parametrize("sent", [SENT, ONE, NO_GPU])
def test_scripts_are_bash(sent: Sent) -> None:
    read = task(sent)
    for script in (read["setup"], read["run"]):
        subprocess.run(["bash", "-n"], input=script, text=True, check=True)


@pytest.mark.slow
def test_skypilot_takes_it() -> None:
    python = os.environ.get("CLRAY_SKYPILOT_PYTHON")
    if not python:
        pytest.skip("CLRAY_SKYPILOT_PYTHON names no Python that has skypilot")
    good = [sky_task(sent, "task.yaml") for sent in (SENT, ONE, NO_GPU)]
    changes = [
        ("num_nodes: 8", "num_node: 8", "num_node"),
        ("num_nodes: 8", "num_nodes: eight", "num_nodes"),
        ("use_spot: true", "use_spots: true", "use_spots"),
        ("use_spot: true", "use_spot: maybe", "use_spot"),
    ]
    bad = [good[0].replace(old, new) for old, new, _ in changes]
    with tempfile.TemporaryDirectory() as home:
        done = subprocess.run(
            [python, "-c", PARSE],
            input=json.dumps([*good, *bad]),
            env={"PATH": os.environ["PATH"], "HOME": home},
            capture_output=True,
            text=True,
        )
    assert done.returncode == 0, done.stderr
    answers = [json.loads(line) for line in done.stdout.splitlines() if line[:1] in '["']
    for sent, (nodes, kinds, envs, secrets) in zip((SENT, ONE, NO_GPU), answers[:3], strict=True):
        read = task(sent)
        assert nodes == read["num_nodes"]
        assert len(kinds) == len(read["resources"]["any_of"])
        assert {kind[0] for kind in kinds} == {True, False}
        for _, accelerators, cpus, memory, disk, down in kinds:
            assert sum((accelerators or {}).values()) == int(sent is not NO_GPU)
            wanted = read["resources"]
            assert (cpus, memory, disk) == (wanted["cpus"], wanted["memory"], skypilot.DISK_GB)
            assert down
        assert envs == read["envs"]
        assert secrets == list(read.get("secrets", {}))
    for answer, (_, _, told) in zip(answers[3:], changes, strict=True):
        assert isinstance(answer, str)
        assert told in answer


def test_no_token_no_cluster(tmp_path: Path) -> None:
    done = subprocess.run(
        ["bash", "-c", task(SENT)["run"]],
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode != 0
    assert "launch with --secret RAY_AUTH_TOKEN" in done.stderr


@pytest.mark.slow
def test_a_machine_is_set_up(tmp_path: Path) -> None:
    if shutil.which("uv") is None:
        pytest.skip("needs uv, which SkyPilot's machines have")
    package = io.BytesIO()
    with zipfile.ZipFile(package, "w") as archive:
        archive.writestr("job.yaml", "it")
    sent = dataclasses.replace(ONE, package=package.getvalue(), requirements=())
    (tmp_path / "clray-package.zip").write_bytes(sent.package)
    setup = task(sent)["setup"]
    env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "UV_OFFLINE": "1"}

    def machine() -> subprocess.CompletedProcess[str]:
        return subprocess.run(["bash", "-c", setup], env=env, capture_output=True, text=True)

    for _ in range(2):  # SkyPilot sets a machine up again when it is used again
        done = machine()
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "clray-job" / "package" / "job.yaml").read_text() == "it"
    version = [str(tmp_path / "clray-job" / "venv" / "bin" / "python"), "--version"]
    assert subprocess.check_output(version, text=True).startswith("Python 3.11")
    (tmp_path / "clray-package.zip").write_bytes(b"another")
    assert "did NOT match" in machine().stderr


@pytest.mark.slow
def test_two_machines_run_the_command(tmp_path: Path) -> None:
    """Both machines are this one; the second Ray has other ports where the first would be in its
    way."""
    probe = (
        "import os, ray; ray.init(log_to_driver=False); "
        "print('alive', sum(n['Alive'] for n in ray.nodes()), os.path.basename(os.getcwd()), "
        "ray.get(ray.remote(num_cpus=0)(lambda: os.environ['CLRAY_DATA']).remote()))"
    )
    sent = dataclasses.replace(
        SENT,
        command=f'python -c "{probe}"',
        env={"CLRAY_DATA": "s3://data", "RAY_gcs_rpc_server_reconnect_timeout_s": "3"},
    )
    read = task(sent)
    (tmp_path / "clray-job" / "package").mkdir(parents=True)
    (tmp_path / "clray-job" / "venv").symlink_to(sys.prefix)
    with (
        _free_ports(4) as ports,
        tempfile.TemporaryDirectory(prefix="sky-", dir="/tmp", ignore_cleanup_errors=True) as temp,
    ):
        run = read["run"].replace("start --head", f"start --head --temp-dir={temp}")
        run = run.replace(str(skypilot.RAY_PORT), str(ports[0]))
        run = run.replace(str(skypilot.DASHBOARD_PORT), str(ports[1]))
        machines = []
        for rank in (0, 1):
            env = {
                "PATH": os.environ["PATH"],
                "HOME": str(tmp_path),
                **read["envs"],
                "RAY_AUTH_TOKEN": "0" * 64,
                "RAY_ADDRESS": "203.0.113.1:6380",  # as if SkyPilot's Ray had set it
                "SKYPILOT_NODE_IPS": "127.0.0.1\n127.0.0.1",
                "SKYPILOT_NODE_RANK": str(rank),
                "SKYPILOT_NUM_NODES": "2",
                "SKYPILOT_NUM_GPUS_PER_NODE": "0",
            }
            script = run.replace(str(skypilot.AGENT_PORT), str(ports[2 + rank]))
            machines.append(_started(["bash", "-c", script], env, tmp_path / f"{rank}.log"))
        try:
            ends = [machine.wait(timeout=400) for machine in machines]
        finally:
            for machine in machines:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(machine.pid, signal.SIGKILL)
    logs = [(tmp_path / f"{rank}.log").read_text() for rank in (0, 1)]
    assert ends == [0, 0], logs
    assert "clray: 2 of 2 machines" in logs[0]
    assert "alive 2 package s3://data" in logs[0]


def _started(command: list[str], env: dict[str, str], log: Path) -> subprocess.Popen[bytes]:
    with log.open("wb") as out:
        return subprocess.Popen(
            command, env=env, stdout=out, stderr=subprocess.STDOUT, start_new_session=True
        )


@contextlib.contextmanager
def _free_ports(count: int) -> Iterator[list[int]]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        ports = [each.getsockname()[1] for each in sockets]
    yield ports
