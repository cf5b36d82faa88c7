"""A cluster by SSH, from nothing to nothing: machines of this one, each in its own namespaces."""

from __future__ import annotations

import re
import sys
import textwrap
from pathlib import Path

import pytest

from tests.cluster.conftest import REPOSITORY, SshCluster

pytestmark = pytest.mark.slow

LEFT = r"raylet|gcs_server|dashboard|ssh .*-L|ray::|autoscaler"
"""What of a process tells that something is left of a cluster."""

START = """
    import sys, os, pathlib, subprocess, time, urllib.error, urllib.request
    from clray.cluster.cluster_file import read_cluster_file
    from clray.cluster.launcher import dashboard, down, is_up, up
    from clray.errors import ClrayError
    file = read_cluster_file(sys.argv[1])
"""
UP = """
    assert not is_up(file)
    up(file, print)
    assert file.token_file.stat().st_mode & 0o777 == 0o600
    assert is_up(file)
    up(file, print)
"""
JOB = """
    with dashboard(file) as address:
        try:
            urllib.request.urlopen(address + "/api/jobs/")
        except urllib.error.HTTPError as error:
            print("without a token:", error.code)
        from ray.job_submission import JobSubmissionClient
        token = file.token_file.read_text()
        client = JobSubmissionClient(address, headers={"Authorization": f"Bearer {token}"})
        name = client.submit_job(entrypoint=f"python {sys.argv[2]} {file.results}")
        while not (status := client.get_job_status(name)).is_terminal():
            time.sleep(0.5)
        print(client.get_job_logs(name))
        print("job:", status.value)
"""
SWEEP = """
    import pathlib, sys, time
    import ray
    ray.init()
    while ray.cluster_resources().get("CPU", 0) < 2:
        time.sleep(0.5)
    @ray.remote(num_cpus=1)
    def trial(folder, seed):
        time.sleep(1)
        address = ray.util.get_node_ip_address()
        pathlib.Path(folder, f"{seed}").write_text(address)
        return address
    trials = [trial.remote(sys.argv[1], seed) for seed in range(8)]
    print("machines:", *sorted(set(ray.get(trials))))
"""
KILLED = """
    with dashboard(file) as address:
        print("tunnel", flush=True)
        os.kill(os.getpid(), 9)
"""
FORGET = """
    for note in pathlib.Path("/tmp/ray").glob("cluster-*"):
        note.unlink()
    assert is_up(file)
"""
DOWN = """
    down(file, print)
    down(file, print)
    assert not is_up(file)
"""
FAILS = """
    try:
        up(file, print)
    except ClrayError as error:
        print("refused:", error)
"""

QUICKSTART = """
    name: quickstart
    benchmark: split-digits
    model: {name: mlp, hidden: [16]}
    protocol: {epochs: 2, validation_fraction: 0.2}
    methods: [finetune]
    search: {trials: 2}
    final: {seeds: 2}
"""


def run(cluster: SshCluster, *steps: str, file: str = "", more: tuple[str, ...] = ()) -> str:
    """Run Python on the laptop; what it says, once it has ended well."""
    code = "\n".join(textwrap.dedent(step) for step in (START, *steps))
    path = file or str(cluster.file)
    done = cluster.run(sys.executable, "-c", code, path, *more)
    assert done.returncode == (-9 if KILLED in steps else 0), done.stdout
    return done.stdout


def test_a_cluster_by_ssh_from_up_to_down(ssh_cluster: SshCluster) -> None:
    said = run(ssh_cluster, UP)
    print(said)
    assert "made a token" in said
    assert "step 6 of 7: Running setup commands" in said
    assert said.count("cluster clray-ssh is up") == 2

    sweep = ssh_cluster.folder / "sweep.py"
    sweep.write_text(textwrap.dedent(SWEEP))
    said = run(ssh_cluster, JOB, more=(str(sweep),))
    print(said)
    assert "without a token: 401" in said
    assert "machines: 10.77.0.1 10.77.0.2" in said
    assert "job: SUCCEEDED" in said
    assert len(list(ssh_cluster.results.iterdir())) == 8

    assert "tunnel" in run(ssh_cluster, KILLED)
    said = run(ssh_cluster, FORGET, DOWN)  # as after this machine has been started anew
    print(said)
    assert "no machine of it runs" in said
    assert "cluster clray-ssh is down\n" in said
    left = [line for line in ssh_cluster.titles().splitlines() if re.search(LEFT, line)]
    assert left == []


def test_a_cluster_that_does_not_come_up(ssh_cluster: SshCluster) -> None:
    text = ssh_cluster.file.read_text()
    broken = ssh_cluster.file.with_name("broken.yaml")

    broken.write_text(text.replace("10.77.0.2", "10.77.0.9"))
    said = run(ssh_cluster, FAILS, file=str(broken))
    assert "refused: cluster clray-ssh: no SSH to 10.77.0.9: ssh: connect to host" in said

    broken.write_text(text.replace("/key", "/host_key"))
    said = run(ssh_cluster, FAILS, file=str(broken))
    assert "10.77.0.1: root@10.77.0.1: Permission denied (publickey" in said

    broken.write_text(text.replace("  - ln -sfn", "  - echo no such thing && exit 3 #"))
    said = run(ssh_cluster, FAILS, DOWN, file=str(broken))
    print(said)
    assert "refused: cluster clray-ssh: ray up failed (exit code 1); all of it: " in said
    assert "no such thing" in said
    assert "no machine of it runs" in said


def test_the_readme_from_laptop_to_cluster(ssh_cluster: SshCluster) -> None:
    """The README's commands, one after another, as they stand there; the job that they name is a
    smaller one of that name."""
    readme = (REPOSITORY / "README.md").read_text()
    blocks = re.findall(r"```sh\n(.*?)```", readme, flags=re.DOTALL)
    [block] = [block for block in blocks if "--up --detach" in block]
    desk = ssh_cluster.folder / "desk"
    (desk / "jobs").mkdir(parents=True)
    (desk / "jobs" / "quickstart.yaml").write_text(textwrap.dedent(QUICKSTART))
    (desk / "cluster.yaml").write_text(ssh_cluster.file.read_text())
    said = {}
    for line in block.strip().splitlines():
        command = line.partition("#")[0].strip()
        there = f"cd {desk} && PATH={Path(sys.executable).parent}:$PATH {command}"
        done = ssh_cluster.run("bash", "-c", there, within=400)
        print(f"$ {command}\n{done.stdout}")
        assert done.returncode == 0, done.stdout
        said[command] = done.stdout
        if " fetch " in command:
            assert (desk / "results/jobs/quickstart/leaderboard.json").exists()
    told = list(said.values())
    assert "Nothing was sent or started" in told[0]
    assert "clray fetch quickstart" in told[1]
    assert re.search(r"quickstart +(running|pending)", told[2])
    assert "quickstart succeeded" in told[3]
    assert "On test" in told[5]
    assert "cluster clray-ssh is down" in told[5]
    left = [line for line in ssh_cluster.titles().splitlines() if re.search(LEFT, line)]
    assert left == []
