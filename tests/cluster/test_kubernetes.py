"""A RayJob carries the job, asks for what its slots need, and is checked against its schema."""

from __future__ import annotations

import base64
import dataclasses
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest
import yaml
from ray.autoscaler._private.kuberay.autoscaling_config import (
    _derive_autoscaling_config_from_ray_cr,
)

from clray.cluster import kubernetes, ray_job_schema
from clray.cluster.kubernetes import ray_job
from clray.cluster.manifest import fill_ins, label
from clray.cluster.sent import Sent
from clray.errors import BadSpec
from clray.spec import Resources

PROBE = "import os, sys, extra; print(extra.SAID, open(sys.argv[1]).read(), os.getcwd())\n"

SENT = Sent(
    name="quickstart",
    package=b"",
    digest="",
    command="python -m probe job.yaml --results 's3://results/a?region=eu&x=y'",
    results="s3://results/a?region=eu&x=y",
    env={"CLRAY_DATA": "s3://data"},
    requirements=("ray[default,data]>=2.60.0", "torch>=2.15.0"),
    resources=Resources(slots=4, gpus_per_worker=0.25),
    python="3.11",
    ray="2.60.0",
)


def zipped(files: Mapping[str, str]) -> bytes:
    """A zip, the same each time."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name), content)
    return buffer.getvalue()


def documents(text: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The RayJob, and the config maps."""
    found = list(yaml.load_all(text, yaml.CSafeLoader))
    return found[-1], found[:-1]


def pods(job: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The pods of the head and of the workers."""
    cluster = job["spec"]["rayClusterSpec"]
    (workers,) = cluster["workerGroupSpecs"]
    return {
        "head": cluster["headGroupSpec"]["template"]["spec"],
        "workers": workers["template"]["spec"],
    }


@pytest.mark.parametrize(
    ("slots", "workers", "cpus", "gpus", "pod_count", "pod_gpus", "in_a_pod"),
    [
        (4, 1, 1, 0.25, 1, 1, 4),  # fractions share
        (3, 1, 1, 0.5, 2, 1, 2),
        (3, 1, 1, 0.3, 1, 1, 3),
        (2, 2, 4, 1, 4, 1, 1),
        (3, 1, 2, 2, 3, 2, 1),
        (2, 1, 2, 0, 1, 0, 2),
        (20, 1, 2, 0, 5, 0, 4),
        (2, 1, 30, 0, 2, 0, 1),
    ],
)
def test_pods_that_hold_all_slots(
    slots: int,
    workers: int,
    cpus: float,
    gpus: float,
    pod_count: int,
    pod_gpus: int,
    in_a_pod: int,
) -> None:
    resources = Resources(
        slots=slots, workers=workers, cpus_per_worker=cpus, gpus_per_worker=gpus, memory="2GiB"
    )
    job, _ = documents(ray_job(dataclasses.replace(SENT, resources=resources)))
    (group,) = job["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    (container,) = pods(job)["workers"]["containers"]
    limits = container["resources"]["limits"]

    assert (group["minReplicas"], group["replicas"]) == (0, 0)
    assert group["maxReplicas"] == pod_count
    assert int(limits.get("nvidia.com/gpu", 0)) == pod_gpus
    assert int(limits["cpu"]) >= in_a_pod * cpus
    assert int(limits["memory"].removesuffix("Gi")) >= in_a_pod * (2 + 2)  # its stream, and torch
    # What Ray's autoscaler makes of it.
    cluster = {"metadata": {"namespace": "", "name": ""}, "spec": job["spec"]["rayClusterSpec"]}
    seen = _derive_autoscaling_config_from_ray_cr(cluster)
    kinds = seen["available_node_types"]
    assert kinds["workers"]["max_workers"] == seen["max_workers"] == pod_count
    assert kinds["workers"]["resources"].get("GPU", 0) == pod_gpus
    assert kinds["workers"]["resources"]["CPU"] == int(limits["cpu"])
    assert kinds["headgroup"]["resources"]["CPU"] == 0
    assert seen["idle_timeout_minutes"] == kubernetes.IDLE_SECONDS / 60
    assert pod_count * in_a_pod >= slots * workers > (pod_count - 1) * in_a_pod
    assert container["image"] == f"rayproject/ray:2.60.0-py311-{'gpu' if gpus else 'cpu'}"
    (head,) = pods(job)["head"]["containers"]
    assert "nvidia.com/gpu" not in head["resources"]["limits"]
    assert head["image"].endswith("-cpu")


def test_one_file_that_kubectl_takes() -> None:
    package = os.urandom(2 * kubernetes.PART + 5)
    sent = dataclasses.replace(SENT, package=package, name="split-CIFAR_100.ewc" * 5)
    text = ray_job(sent)
    assert ray_job(sent) == text
    assert not re.search(r"[:-] [&*]\w", text)  # no aliases
    job, maps = documents(text)

    carried = b"".join(
        base64.b64decode(value)
        for each in sorted(maps, key=lambda each: each["metadata"]["name"])
        for value in each.get("binaryData", {}).values()
    )
    assert carried == package
    for each in (job, *maps):
        assert len(json.dumps(each)) < 256 << 10  # what kubectl apply keeps in an annotation
        assert re.fullmatch(r"[a-z]([-a-z0-9]{0,251}[a-z0-9])?", each["metadata"]["name"])
    assert len(job["metadata"]["name"]) <= 47

    for pod in pods(job).values():
        (files,) = (each for each in pod["volumes"] if each["name"] == "files")
        mounted = {each["configMap"]["name"] for each in files["projected"]["sources"]}
        assert mounted == {each["metadata"]["name"] for each in maps}
        volumes = {each["name"] for each in pod["volumes"]}
        for container in (*pod["initContainers"], *pod["containers"]):
            assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
    spec = job["spec"]
    assert spec["entrypoint"] == "bash /clray/files/run.sh"
    assert spec["rayClusterSpec"]["authOptions"] == {"mode": "token"}
    (head,) = pods(job)["head"]["containers"]
    variables = {each["name"]: each["value"] for each in head["env"]}
    assert variables.items() >= SENT.env.items()
    assert variables["RAY_idle_worker_killing_time_threshold_ms"] == "600000"
    changed = ray_job(dataclasses.replace(sent, package=package[1:]))
    names = {each["metadata"]["name"] for each in maps}
    assert not names & {each["metadata"]["name"] for each in documents(changed)[1]}


def test_what_a_person_fills_in() -> None:
    text = ray_job(SENT)
    open_fields = fill_ins(text)
    lines = text.splitlines()
    assert len(open_fields) == 2
    for each in open_fields:
        number = int(re.match(r"line (\d+): name: the Secret whose entries", each)[1])  # type: ignore[index]
        assert lines[number - 1].strip() == "name: FILL-IN"
    assert fill_ins(text.replace("name: FILL-IN", "name: mine")) == []
    filled = ray_job(SENT, secret="mine")
    assert fill_ins(filled) == []
    assert "FILL-IN" not in filled


def test_a_folder_that_the_pods_share() -> None:
    sent = dataclasses.replace(SENT, results="/results/mine")
    text = ray_job(sent, claim="shared")
    assert fill_ins(text) == []
    for pod in pods(documents(text)[0]).values():
        assert {
            "name": "results",
            "persistentVolumeClaim": {"claimName": "shared"},
        } in pod["volumes"]
        (container,) = pod["containers"]
        assert {"name": "results", "mountPath": "/results/mine"} in container["volumeMounts"]


@pytest.mark.parametrize(
    ("changes", "claim", "told"),
    [
        ({"results": "/home/me/results"}, "", "results: got '/home/me/results'"),
        ({"results": "results"}, "shared", "absolute path"),
        ({"results": "https://host/a"}, "", "gs://bucket"),
        ({"results": "s3://ID:KEY@bucket/a"}, "", "without credentials"),
        ({}, "shared", "claim: got 'shared'"),
        ({"env": {"AWS_SECRET_ACCESS_KEY": "x"}}, "", "no secrets"),
        ({"env": {"PYTHONPATH": "x"}}, "", "another name"),
        ({"env": {"a b": "x"}}, "", "underscores"),
        ({"package": bytes(kubernetes.MOST + 1)}, "", "at most 8 MiB"),
    ],
)
def test_refused_before_anything_is_written(changes: dict[str, Any], claim: str, told: str) -> None:
    with pytest.raises(BadSpec, match=re.escape(told)) as caught:
        ray_job(dataclasses.replace(SENT, **changes), claim=claim)
    assert "KEY@" not in str(caught.value)


def _set(path: str, value: object) -> Callable[[dict[str, Any]], None]:
    def change(job: dict[str, Any]) -> None:
        *above, last = path.split(".")
        place: Any = job
        for part in above:
            place = place[int(part)] if part.isdigit() else place[part]
        place[last] = value

    return change


CLUSTER = "spec.rayClusterSpec"
GROUP = f"{CLUSTER}.workerGroupSpecs.0"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (_set("spec.entryPoint", "x"), r"spec.entryPoint: .* Did you mean 'entrypoint'\?"),
        (_set(f"{GROUP}.maxReplica", 3), r"workerGroupSpecs.0.maxReplica: .*'maxReplicas'\?"),
        (_set(f"{CLUSTER}.autoscalerOptions.idleTimeout", 3), "mean 'idleTimeoutSeconds'"),
        (_set(f"{GROUP}.maxReplicas", "3"), "maxReplicas: got '3'"),
        (_set(f"{GROUP}.minReplicas", -1), "minReplicas: got -1"),
        (_set(f"{GROUP}.minReplicas", 9), "minReplicas at most maxReplicas"),
        (_set(f"{GROUP}.rayStartParams", {"num-cpus": 0}), "num-cpus: got 0"),
        (_set(f"{GROUP}.template.spec.containers", []), "at least one container"),
        (_set(f"{GROUP}.template.spec.restartPolicy", "Always"), "restartPolicy: Never"),
        (_set("spec.submissionMode", "k8sJobMode"), "submissionMode: got 'k8sJobMode'"),
        (_set(f"{CLUSTER}.autoscalerOptions.upscalingMode", "Fast"), "upscalingMode: got 'Fast'"),
        (_set(f"{CLUSTER}.authOptions.mode", "on"), "authOptions.mode: got 'on'"),
        (_set(f"{CLUSTER}.rayVersion", "2.40.0"), "rayVersion of 2.52"),
        (_set("spec.shutdownAfterJobFinishes", False), "needs shutdownAfterJobFinishes"),
        (_set("metadata.name", "a" * 48), "at most 47"),
        (_set("metadata.name", "1a"), "small letters"),
        (_set("apiVersion", "ray.io/v1alpha1"), "apiVersion: got 'ray.io/v1alpha1'"),
        (_set("kind", "RayCluster"), "one RayJob"),
    ],
)
def test_the_schema_finds(change: Callable[[dict[str, Any]], None], told: str) -> None:
    job, maps = documents(ray_job(SENT))
    ray_job_schema.check(yaml.safe_dump_all([*maps, job]), "job.yaml")
    change(job)
    with pytest.raises(BadSpec, match=told):
        ray_job_schema.check(yaml.safe_dump_all([*maps, job]), "job.yaml")


def test_official_schemas_of_pods_and_config_maps() -> None:
    pytest.importorskip("kubernetes_validate", reason="needs the package kubernetes-validate")
    resources = Resources(slots=2, workers=2, gpus_per_worker=1)
    ray_job(dataclasses.replace(SENT, resources=resources), secret="mine")  # checked inside
    ray_job(dataclasses.replace(SENT, results="/r"), claim="shared")
    container = f"{GROUP}.template.spec.containers.0"
    for change, told in [
        (_set(f"{GROUP}.template.spec.toleration", []), "workers: .*'toleration' was unexpected"),
        (_set(f"{container}.env.0.value", 1), "workers: .*1 is not of type"),
        (_set(f"{container}.volumeMounts.0.readOnly", "yes"), "workers: .*'yes' is not of type"),
    ]:
        job, maps = documents(ray_job(SENT))
        change(job)
        with pytest.raises(BadSpec, match=told):
            ray_job_schema.check(yaml.safe_dump_all([*maps, job]), "job.yaml")
    job, maps = documents(ray_job(SENT))
    maps[0]["datas"] = maps[0].pop("data")
    with pytest.raises(BadSpec, match=r"ConfigMap: .*'datas' was unexpected"):
        ray_job_schema.check(yaml.safe_dump_all([*maps, job]), "job.yaml")


def test_names_stay_apart() -> None:
    names = ["a.b", "a-b", "a_b", "A-b", "2a", "", "x" * 100, "x" * 101]
    made = [label(name, 47) for name in names]
    assert len(set(made)) == len(names)
    assert all(re.fullmatch(r"[a-z]([-a-z0-9]{0,45}[a-z0-9])?", name) for name in made)
    assert label("split-digits", 47) == "split-digits"


def _unpack(text: str, root: Path) -> Path:
    """The files as a pod sees them, with its root at another place."""
    (root / "files").mkdir(parents=True)
    (root / "job").mkdir()
    for each in documents(text)[1]:
        for name, content in each.get("data", {}).items():
            (root / "files" / name).write_text(content.replace("/clray/", f"{root}/"))
        for name, content in each.get("binaryData", {}).items():
            (root / "files" / name).write_bytes(base64.b64decode(content))
    return root / "files"


def test_scripts_are_bash(tmp_path: Path) -> None:
    files = _unpack(ray_job(SENT), tmp_path / "clray")
    for script in sorted(files.glob("*.sh")):
        subprocess.run(["bash", "-n", str(script)], check=True)
    assert "'ray[default,data]==2.60.0'" in (files / "setup.sh").read_text()


@pytest.mark.slow
def test_a_pod_runs_the_package(tmp_path: Path) -> None:
    about = "extra-1.0.dist-info"
    wheel = tmp_path / "extra-1.0-py3-none-any.whl"
    wheel.write_bytes(
        zipped(
            {
                "extra.py": "SAID = 'installed'\n",
                f"{about}/METADATA": "Metadata-Version: 2.1\nName: extra\nVersion: 1.0\n",
                f"{about}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
                f"{about}/RECORD": "",
            }
        )
    )
    noise = os.urandom(kubernetes.PART).hex()  # more than one part
    sent = dataclasses.replace(
        SENT,
        package=zipped({"probe.py": PROBE, "job.yaml": "it", "noise.txt": noise}),
        requirements=(f"extra @ {wheel.as_uri()}",),
    )
    text = ray_job(sent)
    root = tmp_path / "clray"
    files = _unpack(text, root)
    (container,) = pods(documents(text)[0])["workers"]["containers"]
    env = {
        "PATH": os.environ["PATH"],
        "PIP_NO_INDEX": "1",
        **{e["name"]: e["value"].replace("/clray/", f"{root}/") for e in container["env"]},
    }

    def pod(*command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True)

    done = pod("bash", str(files / "setup.sh"))
    assert done.returncode == 0, done.stderr
    # As KubeRay starts Ray, and Ray the job: the first bash reads env.sh.
    done = pod("/bin/bash", "-c", "--", f"command -v python; bash {files}/run.sh")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [
        f"{root}/job/venv/bin/python",
        "installed",
        "it",
        f"{root}/job/package",
    ]
    (files / "package-01").write_bytes(b"another")
    done = pod("bash", str(files / "setup.sh"))
    assert done.returncode != 0
    assert "did NOT match" in done.stderr


@pytest.mark.slow
def test_a_cluster_runs_the_job(tmp_path: Path) -> None:
    """A pod as KubeRay starts it, and its submitter, with a token; the pod is this machine, and its
    virtual environment is this one."""
    probe = """\
import os, ray, helper
ray.init(log_to_driver=False)
print("head", os.path.basename(os.getcwd()), open("job.yaml").read())
print("worker", ray.get(ray.remote(num_cpus=1)(lambda: helper.SAID).remote()))
"""
    files = {"probe.py": probe, "helper.py": "SAID = 'found'\n", "job.yaml": "it"}
    sent = dataclasses.replace(SENT, package=zipped(files), command="python -m probe")
    job, _ = documents(text := ray_job(sent))
    root = tmp_path / "clray"
    scripts = _unpack(text, root)
    (root / "job" / "venv").symlink_to(sys.prefix)
    with zipfile.ZipFile(scripts / "package-00") as archive:
        archive.extractall(root / "job" / "package")
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64}
    (container,) = pods(job)["head"]["containers"]
    submitter = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), **token}
    pod = {
        **submitter,
        "PATH": "/usr/local/bin:/usr/bin:/bin",  # where Ray is not
        **{e["name"]: e["value"].replace("/clray/", f"{root}/") for e in container["env"]},
    }
    gcs, dashboard, agent = _free_port(), _free_port(), _free_port()
    with tempfile.TemporaryDirectory(
        prefix="kube-", dir="/tmp", ignore_cleanup_errors=True
    ) as temp:
        start = (
            f"ulimit -n 65536; until ray start --head --num-cpus=1 --port={gcs} --temp-dir={temp} "
            f"--dashboard-port={dashboard} --dashboard-agent-listen-port={agent} "
            "--node-ip-address=127.0.0.1 --block; do sleep 1; done"  # Ray gives up after 30 s
        )
        head = subprocess.Popen(
            ["/bin/bash", "-c", "--", start],
            env=pod,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            _wait(agent)
            _wait(dashboard, "/api/jobs/", token["RAY_AUTH_TOKEN"])
            entrypoint = job["spec"]["entrypoint"].replace("/clray/", f"{root}/")
            submit = f"ray job submit --address http://127.0.0.1:{dashboard} -- {entrypoint}"
            tries = f"for _ in 1 2 3 4 5; do {submit} && exit; sleep 5; done; exit 1"
            done = subprocess.run(
                ["/bin/bash", "-c", "--", tries],
                env=submitter,
                cwd=tmp_path,
                capture_output=True,
                text=True,
                timeout=600,
            )
        finally:
            os.killpg(head.pid, signal.SIGKILL)
            head.wait()
    assert done.returncode == 0, done.stdout + done.stderr
    assert "head package it" in done.stdout
    assert "worker found" in done.stdout


def _free_port() -> int:
    with socket.socket() as each:
        each.bind(("127.0.0.1", 0))
        port: int = each.getsockname()[1]
        return port


def _wait(port: int, path: str = "", token: str = "") -> None:
    """Wait until something listens, or answers."""
    request = Request(
        f"http://127.0.0.1:{port}{path}", headers={"Authorization": f"Bearer {token}"}
    )
    end = time.monotonic() + 300
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 5).close()
            if path:
                urlopen(request, timeout=30).close()
        except OSError:
            assert time.monotonic() < end, f"nothing answers on {port}"
            time.sleep(0.2)
        else:
            return
