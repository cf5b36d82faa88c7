"""Slots on clusters of several raylets on this machine: nodes that are killed, jobs that share."""

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
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
from ray._common.utils import get_default_ray_temp_dir
from ray.cluster_utils import Cluster

JOB = """
name: {name}
benchmark: {{name: split-digits, num_tasks: 3, class_order: [0, 1, 2, 3, 4, 5]}}
model: {{name: mlp, hidden: [64]}}
protocol: {{epochs: {epochs}, batch_size: 16, memory: 40}}
methods: {{er: {{}}}}
search: {{trials: {trials}, startup: 3}}
final: {{seeds: 2}}
store: {{checkpoint_epochs: 10}}
resources: {resources}
"""
PATIENCE = 600.0
"""Seconds that a job may take where this machine is busy."""

MakeCluster = Callable[..., Cluster]
SWEEPS: list[subprocess.Popen[bytes]] = []


@pytest.fixture
def make_cluster() -> Iterator[MakeCluster]:
    """Starts a cluster: a head, where the driver is, and nodes. All is gone afterwards."""
    started: list[Cluster] = []
    # Cluster notes its address there, wherever its own temp_dir is, and does not make the folder.
    Path(get_default_ray_temp_dir()).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="clu-", ignore_cleanup_errors=True) as folder:

        def make(nodes: int, head: int = 0, head_gpus: int = 0, **resources: Any) -> Cluster:
            head_args = {
                "num_cpus": head,
                "num_gpus": head_gpus,
                "temp_dir": folder,
                "object_store_memory": 100 << 20,
                "include_dashboard": False,
                "_system_config": {
                    "health_check_initial_delay_ms": 1000,
                    "health_check_period_ms": 500,
                    "health_check_timeout_ms": 3000,
                },
            }
            cluster = Cluster(initialize_head=True, head_node_args=head_args)
            started.append(cluster)
            for _ in range(nodes):
                add(cluster, **resources)
            return cluster

        yield make
        for cluster in started:
            cluster.shutdown()


@pytest.fixture(autouse=True)
def _no_process_is_left() -> Iterator[None]:
    yield
    while SWEEPS:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(SWEEPS.pop().pid, signal.SIGKILL)


def add(cluster: Cluster, **resources: Any) -> Any:
    return cluster.add_node(wait=False, object_store_memory=100 << 20, **resources)


def kill(cluster: Cluster, node: Any) -> None:
    """As if its plug were pulled."""
    raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
    raylet.suspend()  # starts no more workers
    for process in [*raylet.children(recursive=True), raylet]:
        process.send_signal(signal.SIGKILL)
    cluster.remove_node(node, allow_graceful=False)


def sweep(folder: Path, results: str, address: str | None, **job: Any) -> subprocess.Popen[bytes]:
    plain = {"name": "sweep", "trials": 4, "epochs": 20, "resources": "{slots: 2}", **job}
    path = folder / f"{plain['name']}.yaml"
    path.write_text(JOB.format(**plain))
    environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    if address is not None:
        environment["RAY_ADDRESS"] = address
    with open(folder / f"{results}.log", "ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "clray", "sweep", str(path), "--results", results],
            cwd=folder,
            env=environment,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    SWEEPS.append(process)
    return process


def finish(process: subprocess.Popen[bytes], folder: Path, results: str) -> str:
    """Wait for a sweep that must end well; what it printed."""
    code = process.wait(timeout=PATIENCE)
    text = (folder / f"{results}.log").read_text()
    assert code == 0, text
    return text


def stored(folder: Path, results: str, name: str = "sweep") -> dict[str, bytes]:
    """All that depends on the spec alone: the boards, and the records of every trial."""
    root = folder / results
    found = {
        p: (root / "jobs" / name / p).read_bytes() for p in ("leaderboard.json", "trials.jsonl")
    }
    for path in sorted((root / "trials").glob("*/*.json*")):
        if path.name in ("records.jsonl", "result.json"):
            found[str(path.relative_to(root))] = path.read_bytes()
    return found


def assert_nothing_is_held(address: str) -> None:
    """Every CPU and GPU was given back."""
    ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    try:
        deadline = time.monotonic() + 30

        def held() -> dict[str, float]:
            total, free = ray.cluster_resources(), ray.available_resources()
            kinds = [k for k in total if k in ("CPU", "GPU", "memory")]
            return {k: total[k] - free.get(k, 0.0) for k in kinds if total[k] != free.get(k, 0.0)}

        while held() and time.monotonic() < deadline:
            time.sleep(0.5)
        assert not held()
    finally:
        ray.shutdown()


@pytest.mark.slow
def test_a_node_killed_every_twenty_seconds_changes_no_record(
    make_cluster: MakeCluster, tmp_path: Path
) -> None:
    job = {"trials": 10, "epochs": 20, "resources": "{slots: 2, workers: 2}"}
    cluster = make_cluster(0)
    sizes = [2, 1, 2, 1]  # a slot fits on one of the larger, or on both of the smaller
    nodes = [add(cluster, num_cpus=size) for size in sizes]
    process = sweep(tmp_path, "war", cluster.address, **job)
    log = tmp_path / "war.log"
    deadline = time.monotonic() + PATIENCE

    def works() -> bool:
        """Whether a slot is ready, or the sweep has ended."""
        said = re.findall(r"(\d) of 2 slots ready", log.read_text())
        return process.poll() is not None or bool(said and int(said[-1]))

    killed = 0
    while process.poll() is None and time.monotonic() < deadline:
        while not works() and time.monotonic() < deadline:  # a busy machine starts slots slowly
            time.sleep(0.2)
        place = killed % len(nodes)
        kill(cluster, nodes[place])
        nodes[place] = add(cluster, num_cpus=sizes[place])
        killed += 1
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=20)
    text = finish(process, tmp_path, "war")
    assert killed >= 2, text
    assert_nothing_is_held(cluster.address)
    job["resources"] = "{slots: 2, workers: 2, cpus_per_worker: 0.5}"
    finish(sweep(tmp_path, "peace", None, **job), tmp_path, "peace")
    assert stored(tmp_path, "war") == stored(tmp_path, "peace")
    rows = [json.loads(line) for line in stored(tmp_path, "war")["trials.jsonl"].splitlines()]
    assert len(rows) == 10


@pytest.mark.slow
def test_jobs_share_a_cluster_pack_its_gpus_and_give_everything_back(
    make_cluster: MakeCluster, tmp_path: Path
) -> None:
    cluster = make_cluster(0, head=2, head_gpus=1)
    half = "{slots: 2, cpus_per_worker: 0.5, gpus_per_worker: 0.5, device: cpu}"
    jobs = {
        "whole": sweep(tmp_path, "whole", cluster.address, name="whole"),
        "half": sweep(tmp_path, "half", cluster.address, name="half", resources=half),
    }
    texts = {name: finish(process, tmp_path, name) for name, process in jobs.items()}
    assert "2 of 2 slots ready" in texts["half"]  # on one GPU
    assert_nothing_is_held(cluster.address)
    found = [stored(tmp_path, name, name)["trials.jsonl"] for name in jobs]
    assert found[0] == found[1]

    # What can never be is refused at once, with the numbers.
    start = time.monotonic()
    process = sweep(tmp_path, "never", cluster.address, resources="{gpus_per_worker: 2}")
    assert process.wait(timeout=PATIENCE) == 2
    assert time.monotonic() - start < 60
    text = (tmp_path / "never.log").read_text()
    assert "gpus_per_worker: got 2.0; accepted: at most 1 GPUs" in text
    assert "Traceback" not in text

    # This machine has no GPU but says so: learning on the CPU instead would not be what was asked.
    process = sweep(tmp_path, "gpu", cluster.address, resources="{slots: 1, gpus_per_worker: 1}")
    assert process.wait(timeout=PATIENCE) == 2
    text = (tmp_path / "gpu.log").read_text()
    assert "a GPU that PyTorch can use on every machine, or resources.device=cpu" in text
    assert "Traceback" not in text
    assert_nothing_is_held(cluster.address)
