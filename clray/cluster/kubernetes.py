"""A KubeRay RayJob that carries the job: one file for ``kubectl apply -f``.

The package lies in config maps, so small that kubectl can keep its copy of each in an annotation.
Before Ray starts in a pod, the pod puts the package together, checks it, and makes a virtual
environment that Ray then starts from: a machine that has joined can work at once, and what the
image holds beside Python cannot get in the way.
"""

from __future__ import annotations

import base64
import hashlib
import shlex
from typing import Any

from clray.cluster import ray_job_schema
from clray.cluster.manifest import (
    FILL_IN,
    RESERVED,
    bucket,
    check_env,
    label,
    requirements_with_ray,
    to_yaml,
)
from clray.cluster.sent import Sent
from clray.cluster.sizing import machines_for
from clray.errors import BadSpec

PART = 160 << 10
"""Bytes of the package in each config map: kubectl annotates 256 KiB of base64 at most."""
MOST = 8 << 20
"""Bytes of the largest package that a RayJob carries."""
IDLE_SECONDS = 300
"""After which a worker without work goes."""
RETRIES = 3
"""Clusters that are started anew when one was lost; each goes on from the results."""

_FILES, _HOME = "/clray/files", "/clray/job"
_PACKAGE, _VENV = f"{_HOME}/package", f"{_HOME}/venv"


def ray_job(sent: Sent, claim: str = "", secret: str = "") -> str:
    """A job as a file for ``kubectl apply -f``; deterministic.

    Args:
        sent: the job.
        claim: a PersistentVolumeClaim that all pods may write to (ReadWriteMany), mounted where
            the results go; only for results in a folder.
        secret: a Secret whose entries are environment variables with the bucket's credentials;
            without one, the file says where its name goes.

    Raises:
        BadSpec: a package too large, results in a folder that the pods do not share, a variable
            that a file must not hold.
    """
    _check(sent, claim)
    name = label(sent.name, ray_job_schema.MOST_NAME)
    maps = _config_maps(sent, name)
    machines = machines_for(sent.resources)
    head = _group(sent, maps, claim, secret, image="cpu", cpus=2, gib=8, gpus=0)
    worker = _group(
        sent,
        maps,
        claim,
        secret,
        image="gpu" if machines.gpus else "cpu",
        cpus=machines.cpus,
        gib=machines.gib,
        gpus=machines.gpus,
    )
    job = {
        "apiVersion": "ray.io/v1",
        "kind": "RayJob",
        "metadata": {"name": name, "labels": {"app.kubernetes.io/part-of": "clray"}},
        "spec": {
            "entrypoint": f"bash {_FILES}/run.sh",  # two shells read this: nothing to be quoted
            "submissionMode": "K8sJobMode",
            "#1": f"A lost head: the next of {RETRIES} clusters goes on from the results.",
            "backoffLimit": RETRIES,
            "shutdownAfterJobFinishes": True,
            "ttlSecondsAfterFinished": 300,
            "rayClusterSpec": {
                "rayVersion": sent.ray,
                "#1": "KubeRay 1.6 or newer makes the token, and gives it to every pod.",
                "authOptions": {"mode": "token"},
                "enableInTreeAutoscaling": True,
                "autoscalerOptions": {
                    "version": "v2",
                    "upscalingMode": "Default",
                    "idleTimeoutSeconds": IDLE_SECONDS,
                },
                "#2": "The head runs the sweep and no trials.",
                "headGroupSpec": {"rayStartParams": {"num-cpus": "0"}, "template": head},
                "workerGroupSpecs": [
                    {
                        "groupName": "workers",
                        "replicas": 0,
                        "minReplicas": 0,
                        "#1": f"Hold all {sent.resources.slots} slots; fewer take longer.",
                        "maxReplicas": machines.count,
                        "rayStartParams": {},
                        "template": worker,
                    }
                ],
            },
        },
    }
    text = to_yaml(_header(sent, name, to_fill=not claim and not secret), [*maps, job])
    ray_job_schema.check(text, "the RayJob")
    return text


def _check(sent: Sent, claim: str) -> None:
    if len(sent.package) > MOST:
        size = f"{len(sent.package) / 2**20:.1f} MiB"
        raise BadSpec("package", size, f"at most {MOST >> 20} MiB: send fewer modules of yours")
    check_env(sent.env, {"BASH_ENV", *RESERVED})
    in_bucket = bucket(sent.results) is not None
    if not in_bucket and not claim:
        raise BadSpec("results", sent.results, "s3://… or gs://…, or a claim that all pods mount")
    if not in_bucket and not sent.results.startswith("/"):
        raise BadSpec("results", sent.results, "an absolute path, where the claim is mounted")
    if in_bucket and claim:
        raise BadSpec("claim", claim, f"none: the results go to {sent.results}")


def _config_maps(sent: Sent, name: str) -> list[dict[str, Any]]:
    """The scripts, then the package in parts. Their names follow the content: a pod that starts
    late never mixes two packages."""
    content = hashlib.sha256(sent.package).hexdigest()
    scripts = {
        "setup.sh": _setup(sent, content),
        "env.sh": f"unset BASH_ENV\nexport PATH={_VENV}/bin:$PATH\n",
        "run.sh": f"set -euo pipefail\ncd {_PACKAGE}\n{sent.command}\n",
    }
    mark = hashlib.sha256("\0".join([content, *scripts.values()]).encode()).hexdigest()[:8]
    labels = {"app.kubernetes.io/part-of": "clray", "app.kubernetes.io/instance": name}

    def config_map(suffix: str, key: str, value: dict[str, str]) -> dict[str, Any]:
        metadata = {"name": f"{name}-{mark}-{suffix}", "labels": labels}
        return {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": metadata,
            "immutable": True,
            key: value,
        }

    parts = [sent.package[start : start + PART] for start in range(0, len(sent.package), PART)]
    return [
        config_map("scripts", "data", scripts),
        *(
            config_map(
                f"{index:02}",
                "binaryData",
                {f"package-{index:02}": base64.b64encode(part).decode()},
            )
            for index, part in enumerate(parts)
        ),
    ]


def _setup(sent: Sent, content: str) -> str:
    """What a pod does before Ray starts in it."""
    lines = [
        "set -euo pipefail",
        f"cat {_FILES}/package-* > {_HOME}/package.zip",
        f"echo '{content}  {_HOME}/package.zip' | sha256sum --check --quiet -",
        f"python -m zipfile -e {_HOME}/package.zip {_PACKAGE}",
        f"python -m venv {_VENV}",
    ]
    if sent.requirements:
        packages = " \\\n  ".join(shlex.quote(each) for each in requirements_with_ray(sent))
        pip = f"{_VENV}/bin/python -m pip install --no-cache-dir --disable-pip-version-check"
        lines.append(f"{pip} \\\n  {packages}")
    return "\n".join(lines) + "\n"


def _group(
    sent: Sent,
    maps: list[dict[str, Any]],
    claim: str,
    secret: str,
    *,
    image: str,
    cpus: int,
    gib: int,
    gpus: int,
) -> dict[str, Any]:
    """A pod template of the head or of the workers."""
    image = f"rayproject/ray:{sent.ray}-py{sent.python.replace('.', '')}-{image}"
    size: dict[str, Any] = {"cpu": str(cpus), "memory": f"{gib}Gi"}
    if gpus:
        size["nvidia.com/gpu"] = str(gpus)
    mounts = [
        {"name": "files", "mountPath": _FILES, "readOnly": True},
        {"name": "job", "mountPath": _HOME},
    ]
    sources = [{"configMap": {"name": each["metadata"]["name"]}} for each in maps]
    volumes: list[dict[str, Any]] = [
        {"name": "files", "projected": {"sources": sources}},
        {"name": "job", "emptyDir": {}},
        {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": f"{max(2, gib // 3)}Gi"}},
    ]
    shared = [{"name": "shm", "mountPath": "/dev/shm"}]
    if claim:
        volumes.append({"name": "results", "persistentVolumeClaim": {"claimName": claim}})
        shared.append({"name": "results", "mountPath": sent.results})
    variables = {
        **sent.env,
        "BASH_ENV": f"{_FILES}/env.sh",  # KubeRay starts Ray from bash, which reads this first
        "PYTHONPATH": _PACKAGE,
        # Else what reads streams is killed after a second of waiting, and takes three to start.
        "RAY_idle_worker_killing_time_threshold_ms": "600000",
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    container: dict[str, Any] = {
        "name": "ray",
        "image": image,
        "env": [{"name": key, "value": value} for key, value in variables.items()],
    }
    if not claim:
        if not secret:
            container["#1"] = (
                f"{FILL_IN}: the Secret whose entries (such as AWS_ACCESS_KEY_ID) open "
                f"{bucket(sent.results)}; or replace envFrom by a serviceAccountName of the pod"
            )
        container["envFrom"] = [{"secretRef": {"name": secret or FILL_IN}}]
    requests = {**size, "ephemeral-storage": "30Gi"}
    container |= {
        "resources": {"requests": requests, "limits": size},
        "volumeMounts": [*mounts, *shared],
    }
    pod: dict[str, Any] = {"restartPolicy": "Never"}
    if gpus:
        pod |= {
            "#1": "Spot machines cost less; a lost one, the work since the last checkpoint. GKE -",
            "#2": "nodeSelector: {cloud.google.com/gke-spot: 'true'}; EKS -",
            "#3": "nodeSelector: {eks.amazonaws.com/capacityType: SPOT}; Karpenter -",
            "#4": "nodeSelector: {karpenter.sh/capacity-type: spot}; and their toleration here.",
            "tolerations": [
                {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"},
            ],
        }
    pod |= {
        "initContainers": [
            {
                "name": "setup",
                "image": image,
                "command": ["bash", f"{_FILES}/setup.sh"],
                "resources": {"requests": {"cpu": "1", "memory": "4Gi"}},
                "volumeMounts": mounts,
            }
        ],
        "containers": [container],
        "volumes": volumes,
    }
    if claim:
        pod["securityContext"] = {"fsGroup": 100}  # the group of the images' user
    return {"spec": pod}


def _header(sent: Sent, name: str, *, to_fill: bool) -> str:
    first = f"First fill in what is marked {FILL_IN}.\n" if to_fill else ""
    return f"""\
{sent.name}: a RayJob of KubeRay, written by clray submit --kubernetes.
{first}\
  kubectl apply -f FILE                  start it
  kubectl get rayjob {name} --watch
  kubectl logs --follow job/{name}       what it says
  clray report {shlex.quote(sent.results)}
  kubectl replace --force -f FILE        again: it goes on from the results
  kubectl delete -f FILE                 stop it, and remove all of this"""
