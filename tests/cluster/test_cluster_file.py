"""A cluster file is checked before anything is started; what is wrong is told at its place."""

from __future__ import annotations

import itertools
import re
import sys
import tomllib
from pathlib import Path

import pytest
import ray

from clray.capacity import NodeType
from clray.cluster.cluster_file import read_cluster_file
from clray.errors import BadInput

AWS = """\
cluster_name: sweeps
max_workers: 4
idle_timeout_minutes: 5
provider:
  type: aws
  region: eu-west-1
  clray: {results: s3://bucket/clray}
auth: {ssh_user: ubuntu}
head_node_type: head
available_node_types:
  head:
    resources: {CPU: 4, GPU: 0}
    node_config: {InstanceType: m6i.xlarge, ImageId: ami-1}
  gpu:
    resources: {CPU: 8, GPU: 1}
    min_workers: 0
    max_workers: 3
    node_config:
      InstanceType: g5.2xlarge
      ImageId: ami-1
      InstanceMarketOptions: {MarketType: spot}
file_mounts: {~/.ray/auth_token: ~/.ray/auth_token}
setup_commands:
  - python3.11 -m pip install 'ray[default]==RAY'
  - echo 'export RAY_AUTH_MODE=token' >> ~/.bashrc
head_setup_commands: []
worker_setup_commands: []
head_start_ray_commands:
  - ray start --head --autoscaling-config=~/ray_bootstrap_config.yaml --dashboard-host=127.0.0.1
worker_start_ray_commands:
  - ray start --address=$RAY_HEAD_IP:6379
"""
SSH = """\
cluster_name: lab
provider:
  type: local
  head_ip: 10.0.0.1
  worker_ips: [10.0.0.2, 10.0.0.3]
  clray: {results: /shared/clray, resources: {CPU: 32, GPU: 4}}
auth: {ssh_user: me, ssh_private_key: KEY}
file_mounts: {~/.ray/auth_token: ~/.ray/auth_token}
setup_commands:
  - echo 'export RAY_AUTH_MODE=token' >> ~/.bashrc
"""
BAD = [
    (AWS, "max_workers: 4", "max_worker: 4", "c.yaml:2: got 'max_worker'", "'max_workers'?"),
    (AWS, "min_workers: 0", "minworkers: 0", ":16: available_node_types.gpu: got 'min", "'min_w"),
    (AWS, "min_workers: 0", "min_workers: 4", "gpu.min_workers: got 4", "at most 3"),
    (AWS, "max_workers: 3", "max_workers: 9", "gpu.max_workers: got 9", "at most 4"),
    (AWS, "head_node_type: head", "head_node_type: haed", "head_node_type: got 'haed'", "'head'?"),
    (AWS, "type: aws", "type: asw", "provider.type: got 'asw'", "'aws'?"),
    (AWS, "  region: eu-west-1\n", "", "provider.region: got None", "required"),
    (AWS, "MarketType", "MarketTyp", "gpu.node_config.InstanceMarketOptions: got", "'MarketType'?"),
    (AWS, "MarketType: spot", "MarketType: sport", "MarketType: got 'sport'", "'spot'?"),
    (AWS, "g5.2xlarge", "g5.2xlagre", "node_config.InstanceType: got 'g5.2xlagre'", "g5.2xlarge"),
    (AWS, "ImageId: ami-1\n", "ImageId: 1\n", "node_config: got {", "valid types: <class 'str'>"),
    (AWS, "{CPU: 8, GPU: 1}", "{}", "gpu.resources: got {}", "{CPU: 8, GPU: 1}"),
    (AWS, "{CPU: 8, GPU: 1}", "{CPU: 0.5}", "gpu.resources.CPU: got 0.5", "an integer"),
    (AWS, "=127.0.0.1", "=0.0.0.0", "got '--dashboard-host=0.0.0.0'", "127.0.0.1"),
    (AWS, "RAY_AUTH_MODE=token", "A=b", "setup_commands: got None", "RAY_AUTH_MODE=token"),
    (AWS, "{~/.ray/auth_token: ~/.ray/auth_token}", "{}", "file_mounts: got {}", "auth_token"),
    (AWS, "==RAY", "==2.9.0", "got 'Ray 2.9.0'", f"Ray {ray.__version__}"),
    (AWS, "==RAY", "", "got 'ray[default]'", f"ray[default]=={ray.__version__}"),
    (AWS, "python3.11", "python3.9", "setup_commands: got 'Python 3.9'", "Python 3.1"),
    (AWS, "{ssh_user: ubuntu}", "{ssh_user: me, ssh_private_key: /no}", "got '/no'", "a key file"),
    (AWS, "results: s3:", "result: s3:", "c.yaml:7: provider.clray: got 'result'", "'results'?"),
    (AWS, "s3://bucket/clray", "bucket/clray", "clray.results: got 'bucket/clray'", "s3://"),
    (AWS, "ami-1}", "'<FILL-IN: an AMI>'}", "c.yaml:13:", "accepted: an AMI"),
    (AWS, "provider:\n", "provider:\n - x\n", "c.yaml:6: got", "valid YAML"),
    (AWS, AWS, "[1]", "c.yaml: got [1]", "a mapping"),
    (SSH, "[10.0.0.2, 10.0.0.3]", "10.0.0.2", "worker_ips: got '10.0.0.2'", "a list"),
    (SSH, "[10.0.0.2, 10.0.0.3]", "[10.0.0.1]", "worker_ips[0]: got '10.0.0.1'", "each machine"),
    (SSH, "  head_ip: 10.0.0.1\n", "", "provider.head_ip: got None", "the address of the head"),
    (SSH, "auth:", "min_workers: 0\nauth:", "c.yaml:7: min_workers: got 0", "2, the number of"),
    (SSH, ", ssh_private_key: KEY", "", "ssh_private_key: got None", "the head reaches"),
    (SSH, "head_ip", "haed_ip", "c.yaml:4: provider: got 'haed_ip'", "'head_ip'?"),
]


def write(folder: Path, text: str) -> str:
    """A cluster file of that content."""
    path, key = folder / "c.yaml", folder / "key"
    key.touch()
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    text = text.replace("KEY", str(key)).replace("==RAY", f"=={ray.__version__}")
    path.write_text(text.replace("python3.11", f"python{python}"))
    return str(path)


@pytest.mark.parametrize(("text", "good", "bad", "given", "accepted"), BAD)
def test_a_mistake_is_told_at_its_place(
    tmp_path: Path, text: str, good: str, bad: str, given: str, accepted: str
) -> None:
    assert good in text
    path = write(tmp_path, text.replace(good, bad))
    with pytest.raises(BadInput) as refused:
        read_cluster_file(path)
    message = str(refused.value)
    assert refused.value.exit_code == 2
    assert given in message
    assert accepted in message


def test_all_that_must_be_filled_in_is_told_at_once(tmp_path: Path) -> None:
    text = AWS.replace("bucket/clray", '"<FILL-IN: your bucket>"').replace("s3://", "")
    text = text.replace("ami-1\n", "'<FILL-IN: an AMI with a GPU driver>'\n")
    with pytest.raises(BadInput) as refused:
        read_cluster_file(write(tmp_path, text))
    lines = str(refused.value).splitlines()
    assert len(lines) == 3
    assert "2 things" in lines[0]
    assert ":7: provider.clray.results: got 'FILL-IN'; accepted: your bucket" in lines[1]
    assert lines[2].endswith("accepted: an AMI with a GPU driver")


def test_what_a_file_says(tmp_path: Path) -> None:
    file = read_cluster_file(write(tmp_path, AWS))
    assert (file.name, file.provider, file.results) == ("sweeps", "aws", "s3://bucket/clray")
    assert file.node_types() == [
        NodeType("head", {"CPU": 4.0, "GPU": 0.0}, 1),
        NodeType("gpu", {"CPU": 8.0, "GPU": 1.0}, 3),
    ]
    assert file.token_file == Path.home() / ".ray" / "auth_token"
    assert file.summary() == [
        "cluster sweeps: aws, eu-west-1",
        "head: head (m6i.xlarge; CPU 4, GPU 0)",
        "0 to 3: gpu (g5.2xlarge; CPU 8, GPU 1; spot)",
        "at most 4 workers; idle ones go away after 5 min",
        "results: s3://bucket/clray",
    ]


def test_machines_by_ssh(tmp_path: Path) -> None:
    file = read_cluster_file(write(tmp_path, SSH))
    assert file.node_types() == [NodeType("machine", {"CPU": 32.0, "GPU": 4.0}, 3)]
    assert "head: 10.0.0.1, by SSH" in file.summary()
    assert "workers: 10.0.0.2, 10.0.0.3" in file.summary()


def test_a_cluster_that_says_so_does_without_a_token(tmp_path: Path) -> None:
    text = SSH.replace("RAY_AUTH_MODE=token", "RAY_AUTH_MODE=disabled")
    text = text.replace("{~/.ray/auth_token: ~/.ray/auth_token}", "{}")
    assert read_cluster_file(write(tmp_path, text)).token_file is None


REPOSITORY = Path(__file__).parents[2]
TO_FILL_IN = {
    "clusters/gcp.yaml": [
        "provider.project_id",
        "provider.clray.results",
        "available_node_types.gpu_spot.node_config.serviceAccounts[0].email",
    ],
    "clusters/ssh.yaml": [
        "provider.head_ip",
        "provider.worker_ips[0]",
        "provider.clray.results",
        "auth.ssh_user",
        "auth.ssh_private_key",
    ],
}


@pytest.mark.parametrize("name", TO_FILL_IN)
def test_ours_are_accepted_once_filled_in(tmp_path: Path, name: str) -> None:
    if name == "clusters/gcp.yaml":
        pytest.importorskip("googleapiclient", reason="needs the extra gcp")
    text = (REPOSITORY / name).read_text()
    with pytest.raises(BadInput) as refused:
        read_cluster_file(str(REPOSITORY / name))
    told = re.findall(r"yaml:\d+: (\S+): got 'FILL-IN'", str(refused.value))
    assert told == TO_FILL_IN[name]

    text = re.sub('"<FILL-IN: the key[^>]*>"', "KEY", text)
    text = re.sub('"<FILL-IN: a folder[^>]*>"', "/shared", text)
    number = itertools.count()
    text = re.sub("<FILL-IN: [^>]*>", lambda _: f"filled-in-{next(number)}", text)
    file = read_cluster_file(write(tmp_path, text))
    assert file.token_file is not None
    assert file.results is not None
    assert file.config["idle_timeout_minutes"] > 0


@pytest.mark.parametrize("name", TO_FILL_IN)
def test_ours_install_what_clray_needs(name: str) -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    text = (REPOSITORY / name).read_text()
    for requirement in project["dependencies"]:
        assert requirement.replace(">=", "==") in text
