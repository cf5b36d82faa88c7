"""What a person does with cluster.yaml, from the first `up` to the last `down`, in one world.

Run inside the namespaces of ``aws_world.sh``: ``python aws_story.py``. An assertion that fails
ends it.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import boto3
import yaml

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
HOME = Path("/mnt/laptop/home")
NO_SPOT = Path("/mnt/no-spot")
ENDPOINT = "http://10.0.0.1:5000"
REGION = "us-west-2"
LAPTOP = {
    "HOME": str(HOME),
    "AWS_ENDPOINT_URL": ENDPOINT,
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_DEFAULT_REGION": REGION,
    "RAY_USAGE_STATS_ENABLED": "0",
    "OMP_NUM_THREADS": "1",
}
BUCKET = f"clray-123456789012-{REGION}"
LOG = HOME / "submit.log"
JOB = """
name: aws
benchmark: split-digits
model: {name: mlp, hidden: [64]}
protocol: {epochs: 2, batch_size: 32}
methods:
  held:
    method: mine.held
    space: {optimizer: {lr: {range: [0.003, 0.3], log: true}}}
search: {trials: 6, sampler: random, seed: 0}
final: {seeds: 2}
resources: {slots: 2, gpus_per_worker: 1, device: cpu}
"""
BEGUN = time.monotonic()


def say(text: str) -> None:
    """Tell where the story is."""
    print(f"[{time.monotonic() - BEGUN:5.0f} s] {text}", flush=True)


def until(what: str, holds: Callable[[], Any], seconds: float = 600.0) -> Any:
    """Wait for something; what it is in the end."""
    deadline = time.monotonic() + seconds
    while not (found := holds()):
        assert time.monotonic() < deadline, f"{seconds:.0f} s have gone by without: {what}"
        time.sleep(0.5)
    say(what)
    return found


def command(*words: str | Path) -> str:
    """Run a command as the person on the laptop; what it printed."""
    done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, f"{words} exited with {done.returncode}:\n{done.stdout[-6000:]}"
    return done.stdout


@contextmanager
def cloud() -> Iterator[None]:
    """The pretended AWS, with the account prepared as cluster.yaml says."""
    with (HOME / "cloud.log").open("wb") as log:
        server = subprocess.Popen([sys.executable, HERE / "aws_cloud.py"], stdout=log, stderr=log)
    try:
        client = boto3.client("cloudformation")

        def answers() -> bool:
            with suppress(Exception):
                client.list_stacks()
                return True
            return False

        until("AWS answers", answers)
        client.create_stack(
            StackName="clray",
            TemplateBody=(ROOT / "clusters/aws-account.template").read_text(),
            Capabilities=["CAPABILITY_NAMED_IAM"],
        )
        yield
    finally:
        server.kill()


def filled_in() -> Path:
    """The repository's cluster.yaml with the bucket put in, and a shorter idle time-out."""
    stacks = boto3.client("cloudformation").describe_stacks(StackName="clray")["Stacks"]
    assert stacks[0]["Outputs"] == [{"OutputKey": "Bucket", "OutputValue": BUCKET}]
    text = (ROOT / "cluster.yaml").read_text()
    text, marks = re.subn("<FILL-IN: [^>]*>", BUCKET, text)
    text, times = re.subn(
        "^idle_timeout_minutes: 10 ", "idle_timeout_minutes: 0.3 ", text, flags=re.M
    )
    assert (marks, times) == (1, 1)
    path = HOME / "cluster.yaml"
    path.write_text(text)
    return path


def instances(*kinds: str) -> list[dict[str, Any]]:
    """The instances that live, of all kinds or of those."""
    found = boto3.client("ec2").describe_instances()["Reservations"]
    living = [
        instance
        for reservation in found
        for instance in reservation["Instances"]
        if instance["State"]["Name"] in ("pending", "running")
    ]
    return [instance for instance in living if not kinds or kind(instance) in kinds]


def tags(instance: dict[str, Any]) -> dict[str, str]:
    """Of an instance."""
    return {tag["Key"]: tag["Value"] for tag in instance["Tags"]}


def kind(instance: dict[str, Any]) -> str:
    """Its node type in the cluster file."""
    return tags(instance)["ray-user-node-type"]


def ready(*kinds: str) -> list[dict[str, Any]]:
    """The instances of those kinds whose Ray runs."""
    return [one for one in instances(*kinds) if tags(one).get("ray-node-status") == "up-to-date"]


def check_machines(written: dict[str, Any]) -> None:
    """Every instance that lives is what the file says of its kind, and only ssh is public."""
    ec2 = boto3.client("ec2")
    profiles = {
        one["Arn"]: one["InstanceProfileName"]
        for one in boto3.client("iam").list_instance_profiles()["InstanceProfiles"]
    }
    for instance in instances():
        wanted = written["available_node_types"][kind(instance)]["node_config"]
        assert instance["InstanceType"] == wanted["InstanceType"]
        assert instance["ImageId"] == wanted["ImageId"]
        spot = "InstanceMarketOptions" in wanted
        assert instance.get("InstanceLifecycle", "on-demand") == ("spot" if spot else "on-demand")
        assert (
            profiles[instance["IamInstanceProfile"]["Arn"]] == wanted["IamInstanceProfile"]["Name"]
        )
        assert tags(instance)["ray-cluster-name"] == written["cluster_name"]
        (disk,) = instance["BlockDeviceMappings"]
        (volume,) = ec2.describe_volumes(VolumeIds=[disk["Ebs"]["VolumeId"]])["Volumes"]
        assert (volume["Size"], volume["VolumeType"]) == (150, "gp3")
        assert disk["Ebs"]["DeleteOnTermination"]
        (group,) = ec2.describe_security_groups(
            GroupIds=[one["GroupId"] for one in instance["SecurityGroups"]]
        )["SecurityGroups"]
        public = [rule for rule in group["IpPermissions"] if rule["IpRanges"]]
        assert [(rule["IpProtocol"], rule["FromPort"], rule["ToPort"]) for rule in public] == [
            ("tcp", 22, 22)
        ]
        inside = [pair for rule in group["IpPermissions"] for pair in rule["UserIdGroupPairs"]]
        assert {pair["GroupId"] for pair in inside} == {group["GroupId"]}


def reclaim(instance: dict[str, Any]) -> None:
    """What AWS does with a spot machine: it is gone."""
    boto3.client("ec2").terminate_instances(InstanceIds=[instance["InstanceId"]])
    say(f"reclaimed {instance['InstanceId']}")


@contextmanager
def submitted(*words: str | Path) -> Iterator[subprocess.Popen[bytes]]:
    """``clray submit`` of the job, as it runs; killed with what is in here."""
    with LOG.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "clray", "submit", HOME / "job.yaml", *words],
            cwd=HOME,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def main() -> None:
    """The story."""
    HOME.mkdir(parents=True)
    for name in ("RAY_ADDRESS", "RAY_AUTH_MODE"):
        os.environ.pop(name, None)
    os.environ.update(LAPTOP)
    (HOME / "job.yaml").write_text(JOB)
    (HOME / "mine").mkdir()
    (HOME / "mine/__init__.py").touch()
    shutil.copy(HERE / "aws_held.py", HOME / "mine/held.py")
    with cloud():
        boto3.client("s3").put_object(Bucket=BUCKET, Key="hold/")
        file = filled_in()
        written = yaml.safe_load(file.read_text())
        with submitted("--cluster", file, "--up") as job:

            def so_far(holds: Callable[[], Any]) -> Callable[[], Any]:
                def look() -> Any:
                    assert job.poll() is None, f"clray submit ended with {job.returncode}"
                    return holds()

                return look

            until("the head is up", so_far(lambda: ready("head")))
            assert (HOME / ".ray/auth_token").stat().st_mode & 0o777 == 0o600
            until("two spot machines run", so_far(lambda: len(ready("gpu_spot")) == 2))
            until("a trial on each has a checkpoint", so_far(lambda: at_work("gpu_spot") == 2))
            check_machines(written)

            NO_SPOT.touch()
            until("on-demand, while there is no spot", so_far(one_spot_left))
            assert Counter(map(kind, instances())) == {"head": 1, "gpu_spot": 1, "gpu_on_demand": 1}
            check_machines(written)
            until("a trial goes on there", so_far(lambda: at_work("gpu_on_demand") == 1))
            boto3.client("s3").delete_object(Bucket=BUCKET, Key="hold/")
            until("the job has ended", lambda: job.poll() is not None)
            assert job.returncode == 0, job.returncode
        check_results()
        until("idle GPU machines are gone", lambda: [kind(one) for one in instances()] == ["head"])

        with submitted("--cluster", file, "--down") as again:
            until("all is stored: down again", lambda: again.poll() is not None)
            assert again.returncode == 0, again.returncode
        check_nothing_is_left()
        say("nothing is left")


def one_spot_left() -> list[dict[str, Any]]:
    """The on-demand machines that run, while all spot machines but one are reclaimed: on a slow
    day the autoscaler has started one too many."""
    for instance in instances("gpu_spot")[:-1]:
        reclaim(instance)
    return ready("gpu_on_demand")


def at_work(wanted: str) -> int:
    """How many machines of a kind have a trial in its second task."""
    waiting = {key.partition("/")[2] for key in stored("held/")}
    return sum(one["PrivateIpAddress"] in waiting for one in instances(wanted))


def stored(*parts: str) -> list[str]:
    """The results whose key has all these parts."""
    pages = boto3.client("s3").get_paginator("list_objects_v2").paginate(Bucket=BUCKET)
    keys = [one["Key"] for page in pages for one in page.get("Contents", [])]
    return [key for key in keys if all(part in key for part in parts)]


def check_results() -> None:
    """Every trial is there once, none failed, and all came home."""
    home, away = HOME / "results/jobs/aws", boto3.client("s3")
    for name in ("final.json", "trials.jsonl"):
        (key,) = stored(f"jobs/aws/{name}")
        assert (home / name).read_bytes() == away.get_object(Bucket=BUCKET, Key=key)["Body"].read()
    trials = [json.loads(line) for line in (home / "trials.jsonl").read_text().splitlines()]
    assert [trial["number"] for trial in trials] == list(range(6))
    assert {trial["state"] for trial in trials} == {"completed"}


def check_nothing_is_left() -> None:
    """No machine, no disk. A key pair, a group and what the stack made stay, and cost nothing."""
    ec2 = boto3.client("ec2")
    assert not instances()
    assert not ec2.describe_volumes()["Volumes"]
    names = [group["GroupName"] for group in ec2.describe_security_groups()["SecurityGroups"]]
    assert set(names) == {"default", "ray-autoscaler-clray"}
    keys = [pair["KeyName"] for pair in ec2.describe_key_pairs()["KeyPairs"]]
    assert keys == [f"ray-autoscaler_{REGION}"]


if __name__ == "__main__":
    try:
        main()
    except BaseException:
        for path in (Path("/mnt/machines.log"), LOG):
            if path.exists():
                print(f"--- {path}\n{path.read_text()[-5000:]}", flush=True)
        with suppress(Exception):
            logs = "cd /tmp/ray/session_latest/logs && tail -n 60 monitor.log monitor.out"
            print(command("ray", "exec", HOME / "cluster.yaml", f"ray status; {logs}")[-9000:])
        raise
