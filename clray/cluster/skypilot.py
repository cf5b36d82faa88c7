"""A SkyPilot task that carries the job to any cloud: a file for ``sky jobs launch``, and the
package as a zip beside it.

Each machine joins a Ray of our own, on ports that SkyPilot's does not use. The first runs the job.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from clray.cluster.manifest import (
    RESERVED,
    bucket,
    check_env,
    label,
    requirements_with_ray,
    to_yaml,
)
from clray.cluster.sent import Sent
from clray.cluster.sizing import Machines, machines_for
from clray.errors import BadSpec

KINDS = ("L4", "A10G", "T4")
"""GPUs to choose from: the cheapest that a cloud has is taken."""
MOST_NAME = 40
"""Characters of a task's name."""
IDLE_MINUTES = 15
"""After which machines that nobody manages go."""
DISK_GB = 200
"""Of each machine."""
RAY_PORT, DASHBOARD_PORT, AGENT_PORT = 6479, 8365, 52366
"""SkyPilot's own Ray has 6380, 8266 and 52365."""

_HOME = "$HOME/clray-job"
_ZIP = "$HOME/clray-package.zip"


def package_beside(file: str) -> Path:
    """Where the package of a task lies: beside its file, under the same name."""
    return Path(file).resolve().with_suffix(".zip")


def sky_task(sent: Sent, file: str) -> str:
    """A job as a file for ``sky jobs launch``; deterministic.

    The caller writes ``sent.package`` to ``package_beside(file)``, which the file names.

    Args:
        sent: the job.
        file: where the text will lie.

    Raises:
        BadSpec: results elsewhere than in a bucket, a variable that a file must not hold, or a
            task that SkyPilot's own parser refuses, where it is installed.
    """
    check_env(sent.env, RESERVED)
    if bucket(sent.results) is None:
        raise BadSpec("results", sent.results, "s3://… or gs://…: the machines share no folder")
    machines = machines_for(sent.resources)
    variables = {
        **sent.env,
        "RAY_AUTH_MODE": "token",
        "RAY_USAGE_STATS_ENABLED": "0",
        # Else what reads streams is killed after a second of waiting, and takes three to start.
        "RAY_idle_worker_killing_time_threshold_ms": "600000",
    }
    task: dict[str, Any] = {
        "name": label(sent.name, MOST_NAME),
        "#1": f"Hold all {sent.resources.slots} slots; fewer take longer.",
        "num_nodes": machines.count,
        "resources": _resources(machines),
        "file_mounts": {_ZIP.replace("$HOME", "~"): str(package_beside(file))},
        "envs": variables,
    }
    if machines.count > 1:
        task["#2"] = "How the machines know one another: given when launching, never written here."
        task["secrets"] = {"RAY_AUTH_TOKEN": None}
    task |= {"setup": _setup(sent), "run": _run(sent, machines, variables)}
    text = to_yaml(_header(sent, machines, package_beside(file).name), [task])
    check(text, "the SkyPilot task")
    return text


def check(text: str, where: str) -> None:
    """Give a task to SkyPilot's own parser, where SkyPilot is installed.

    Raises:
        BadSpec: it is refused.
    """
    if importlib.util.find_spec("sky") is None:
        return
    try:
        importlib.import_module("sky").Task.from_yaml_config(yaml.load(text, yaml.CSafeLoader))
    except ValueError as error:
        raise BadSpec(where, str(error).strip(), "a task of SkyPilot") from None


def _resources(machines: Machines) -> dict[str, Any]:
    common = {
        "cpus": f"{machines.cpus}+",
        "memory": f"{machines.gib}+",
        "disk_size": DISK_GB,
        "autostop": {"idle_minutes": IDLE_MINUTES, "down": True},
        "job_recovery": {"max_restarts_on_errors": 1},
    }
    kinds = [{"accelerators": {kind: machines.gpus}} for kind in KINDS] if machines.gpus else [{}]
    note = "The cheapest that is to be had, spot first: strike out what should not be taken."
    choices = [{**kind, "use_spot": spot} for spot in (True, False) for kind in kinds]
    return {**common, "#1": note, "any_of": choices}


def _setup(sent: Sent) -> str:
    """What each machine does once: unpack, check, install."""
    content = hashlib.sha256(sent.package).hexdigest()
    packages = " \\\n  ".join(shlex.quote(each) for each in requirements_with_ray(sent))
    lines = [
        "set -euo pipefail",
        f'echo "{content}  {_ZIP}" | sha256sum --check --quiet -',
        'export PATH="$HOME/.local/bin:$PATH"',
        "command -v uv > /dev/null || python3 -m pip install --user --quiet uv",
        f'rm -rf "{_HOME}"',
        f'uv venv --quiet --python {sent.python} "{_HOME}/venv"',
        f'"{_HOME}/venv/bin/python" -m zipfile -e "{_ZIP}" "{_HOME}/package"',
    ]
    if packages:
        lines.append(f'uv pip install --python "{_HOME}/venv/bin/python" \\\n  {packages}')
    return "\n".join(lines) + "\n"


def _run(sent: Sent, machines: Machines, variables: Iterable[str]) -> str:
    """What each machine runs. Only the Ray that is started here is ended, by its number: ``ray
    stop`` would end SkyPilot's as well."""
    token = (
        ': "${RAY_AUTH_TOKEN:?launch with --secret RAY_AUTH_TOKEN}"'
        if machines.count > 1
        else 'export RAY_AUTH_TOKEN="$(python -c "import secrets; print(secrets.token_hex(32))")"'
    )
    kept = "|".join(sorted({name for name in variables if name.startswith("RAY_")}))
    return f"""\
set -euo pipefail
for name in $(compgen -e RAY_); do
  case $name in RAY_AUTH_TOKEN|{kept}) ;; *) unset "$name" ;; esac  # of SkyPilot's own Ray
done
export PATH="{_HOME}/venv/bin:$PATH" PYTHONPATH="{_HOME}/package"
{token}
head=$(echo "$SKYPILOT_NODE_IPS" | head -n 1)
gpus="--num-gpus=${{SKYPILOT_NUM_GPUS_PER_NODE:-0}}"
listens() {{
  for _ in 1 2 3; do
    timeout 10 bash -c "exec 3<> /dev/tcp/$head/{RAY_PORT}" 2> /dev/null && return
    sleep 2
  done
  return 1
}}
ray=
leave() {{  # a Ray that did not come up may not go by itself either
  kill "$ray" 2> /dev/null || return 0
  for _ in $(seq 40); do kill -0 "$ray" 2> /dev/null || return 0; sleep 1; done
  kill -9 "$ray" || true
}}
trap leave EXIT
cd "{_HOME}/package"

if [ "$SKYPILOT_NODE_RANK" != 0 ]; then
  for _ in $(seq 60); do listens && break; done
  while listens; do  # until the job has ended
    ray start --address="$head:{RAY_PORT}" --dashboard-agent-listen-port={AGENT_PORT} \\
      "$gpus" --block &
    ray=$!
    while kill -0 $ray && listens; do sleep 5; done
    leave
  done
  exit 0
fi

ray start --head --node-ip-address="$head" --port={RAY_PORT} --dashboard-host=127.0.0.1 \\
  --dashboard-port={DASHBOARD_PORT} --dashboard-agent-listen-port={AGENT_PORT} "$gpus" --block &
ray=$!
export RAY_ADDRESS="$head:{RAY_PORT}"
for _ in $(seq 60); do listens && break; kill -0 $ray; done
python - <<'WAIT'
import os, time, ray

ray.init(log_to_driver=False)
wanted, end = int(os.environ["SKYPILOT_NUM_NODES"]), time.monotonic() + 600
while (joined := sum(node["Alive"] for node in ray.nodes())) < wanted and time.monotonic() < end:
    time.sleep(2)
print(f"clray: {{joined}} of {{wanted}} machines", flush=True)
WAIT
{sent.command}
"""


def _header(sent: Sent, machines: Machines, package: str) -> str:
    name = label(sent.name, MOST_NAME)
    token, secret = "", ""
    if machines.count > 1:
        token = '  export RAY_AUTH_TOKEN="$(openssl rand -hex 32)"\n'
        secret = " --secret RAY_AUTH_TOKEN"
    return f"""\
{sent.name}: a SkyPilot task, written by clray submit --skypilot.
Its package is {package}, beside it.
{token}\
  sky jobs launch --name {name}{secret} FILE
                          managed by SkyPilot: goes on after a lost spot machine
  sky launch --cluster {name}{secret} FILE
                          or: on machines that you watch, and that go when idle
  sky jobs logs --name {name}
  clray report {shlex.quote(sent.results)}
  sky jobs cancel --name {name}"""
