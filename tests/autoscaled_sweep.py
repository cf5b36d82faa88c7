"""A sweep on a cluster with a real autoscaler: workers come from none, one is killed, they go.

    python tests/autoscaled_sweep.py FOLDER PORT TEMP

Started by ``test_autoscaler.py`` in a PID namespace of its own, which ends all that it starts. Runs
``FOLDER/job.yaml`` with the results in ``FOLDER/war``, and prints as JSON how many workers there
were as time went by, in ``FOLDER/told.json``.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import ray

CONFIG: dict[str, Any] = {
    "cluster_name": "fake",
    "max_workers": 2,
    "upscaling_speed": 10.0,
    "idle_timeout_minutes": 0.1,
    "provider": {
        "type": "fake_multinode",
        "launch_multiple": True,
        "use_node_id_as_ip": True,  # they share one address
        "disable_node_updaters": True,
        "disable_launch_config_check": True,
    },
    "available_node_types": {
        "ray.head.default": {"resources": {"CPU": 0}, "max_workers": 0, "node_config": {}},
        "worker": {
            "resources": {"CPU": 1, "object_store_memory": 100 << 20},
            "min_workers": 0,
            "max_workers": 2,
            "node_config": {},
        },
    },
    "head_node_type": "ray.head.default",
    "auth": {},
    "docker": {},
    "file_mounts": {},
    "cluster_synced_files": [],
    "initialization_commands": [],
    "setup_commands": [],
    "head_setup_commands": [],
    "worker_setup_commands": [],
    "head_start_ray_commands": [],
    "worker_start_ray_commands": [],
}
ENVIRONMENT = {
    "RAY_FAKE_CLUSTER": "1",
    "RAY_enable_autoscaler_v2": "0",
    "AUTOSCALER_UPDATE_INTERVAL_S": "1",
    "AUTOSCALER_HEARTBEAT_TIMEOUT_S": "10",
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_timeout_ms": "3000",
}
PATIENCE = 700.0


def main() -> None:
    folder = Path(sys.argv[1])
    address = f"127.0.0.1:{sys.argv[2]}"
    os.environ.update(ENVIRONMENT)
    CONFIG["provider"]["gcs_address"] = address
    config = folder / "cluster.json"
    config.write_text(json.dumps(CONFIG))
    command = f"--head --autoscaling-config={config} --num-cpus=0 --num-gpus=0 --port={sys.argv[2]}"
    command += (
        f" --temp-dir={sys.argv[3]} --include-dashboard=false --object-store-memory=104857600"
    )
    with open(folder / "ray.log", "wb") as log:
        ray_command = [sys.executable, "-m", "ray.scripts.scripts", "start", *command.split()]
        subprocess.run(ray_command, check=True, stdout=log, stderr=log)
    ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    told: list[tuple[float, int]] = []

    def workers() -> list[dict[str, Any]]:
        return [n for n in ray.nodes() if n["Alive"] and n["Resources"].get("CPU")]

    def look() -> int:
        count = len(workers())
        if not told or told[-1][1] != count:
            told.append((time.monotonic() - start, count))
        return count

    start = time.monotonic()
    look()
    with open(folder / "war.log", "wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "clray", "sweep", "job.yaml", "--results", "war"],
            cwd=folder,
            env={**os.environ, "RAY_ADDRESS": address},
            stdout=log,
            stderr=log,
        )
    killed = False
    while process.poll() is None and time.monotonic() - start < PATIENCE:
        look()
        if not killed and list((folder / "war" / "trials").glob("*/checkpoint")):
            killed = True
            time.sleep(1)
            kill(workers()[0])
        time.sleep(0.1)
    code = process.poll()
    deadline = time.monotonic() + 90
    while code == 0 and look() and time.monotonic() < deadline:
        time.sleep(0.2)
    content = {"code": code, "killed": killed, "workers": told}
    (folder / "told.json").write_text(json.dumps(content))


def kill(node: dict[str, Any]) -> None:
    """As if its machine were taken back."""
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        is_raylet = bool(words) and words[0].endswith("/raylet")
        if is_raylet and any(node["RayletSocketName"] in word for word in words):
            process.suspend()
            for one in [*process.children(recursive=True), process]:
                with contextlib.suppress(psutil.NoSuchProcess):
                    one.send_signal(signal.SIGKILL)


if __name__ == "__main__":
    main()
