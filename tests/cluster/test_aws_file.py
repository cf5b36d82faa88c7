"""cluster.yaml as a file: what Ray, AWS and pyproject.toml say about it. No machine is started."""

from __future__ import annotations

import copy
import inspect
import re
import shlex
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import ray.autoscaler
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

boto3 = pytest.importorskip("boto3")
mock_aws = pytest.importorskip("moto").mock_aws

ROOT = Path(__file__).parents[2]
FILE = ROOT / "cluster.yaml"
ACCOUNT = ROOT / "clusters" / "aws-account.template"
BUCKET = re.compile("<FILL-IN: [^>]*>")


@pytest.fixture
def config() -> dict[str, Any]:
    """cluster.yaml with a bucket filled in."""
    read: dict[str, Any] = yaml.safe_load(BUCKET.sub("my-bucket", FILE.read_text()))
    return read


def test_only_the_bucket_must_be_filled_in() -> None:
    """The mark stands where clray looks for marks: in a value."""
    assert FILE.read_text().count("<FILL-IN") == 1
    assert BUCKET.search(yaml.safe_load(FILE.read_text())["provider"]["clray"]["results"])


def test_ray_accepts_it(config: dict[str, Any]) -> None:
    """Also the key that is clray's own; one that Ray does not know is told."""
    validate_config(prepare_config(copy.deepcopy(config)))
    config["results"] = "s3://my-bucket"
    with pytest.raises(Exception, match="results"):
        validate_config(prepare_config(config))


def test_aws_accepts_its_machines(config: dict[str, Any]) -> None:
    """Every node_config is what RunInstances takes, and the machines have what is said of them."""
    validator = pytest.importorskip("botocore.validate").ParamValidator()
    with mock_aws():
        ec2 = boto3.Session("testing", "testing", region_name="us-west-2").client("ec2")
        shape = ec2.meta.service_model.operation_model("RunInstances").input_shape
        for name, node_type in config["available_node_types"].items():
            request = {"MinCount": 1, "MaxCount": 1, **node_type["node_config"]}
            assert not validator.validate(request, shape).has_errors()
            assert {disk["Ebs"]["VolumeType"] for disk in request["BlockDeviceMappings"]} == {"gp3"}
            (kind,) = ec2.describe_instance_types(InstanceTypes=[request["InstanceType"]])[
                "InstanceTypes"
            ]
            gpus = sum(gpu["Count"] for gpu in kind.get("GpuInfo", {}).get("Gpus", []))
            has = {"CPU": kind["VCpuInfo"]["DefaultVCpus"], "GPU": gpus}
            if name == "head":
                has["CPU"] //= 2
            assert node_type["resources"] == has


def test_trials_with_gpu_never_run_on_the_head_and_spot_comes_first(config: dict[str, Any]) -> None:
    """The head has no GPU; the GPU machines are the same, but for the market and the priority."""
    head, spot, on_demand = config["available_node_types"].values()
    assert head["resources"]["GPU"] == 0
    assert spot["min_workers"] == on_demand["min_workers"] == 0
    assert spot["priority"] > on_demand.get("priority", 0)
    assert spot["node_config"].pop("InstanceMarketOptions") == {"MarketType": "spot"}
    assert spot["node_config"] == on_demand["node_config"]
    assert spot["resources"] == on_demand["resources"]


def test_machines_get_the_requirements_of_pyproject(config: dict[str, Any]) -> None:
    """Each one, in the version with which clray is developed: its lower bound."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = {
        "setup_commands": project["dependencies"],
        "head_setup_commands": project["optional-dependencies"]["aws"],
    }
    for commands, needed in wanted.items():
        (install,) = [command for command in config[commands] if "uv pip install" in command]
        words = shlex.split(install)
        assert words[words.index("install") + 3 :] == [one.replace(">=", "==") for one in needed]


def test_the_two_lines_of_ray_are_still_as_they_were(
    config: dict[str, Any], tmp_path: Path
) -> None:
    """The head's repair of Ray changes these lines, once, and leaves Python behind.

    Should it fail with a later Ray: look whether Ray now does it itself, and take the repair out.
    """
    home = tmp_path / "clray-env/lib/python3.11/site-packages/ray/autoscaler/v2/instance_manager"
    installed = Path(inspect.getfile(ray.autoscaler)).parent / "v2" / "instance_manager"
    names = ("reconciler.py", "subscribers/cloud_resource_monitor.py")
    for name in names:
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text((installed / name).read_text())
    (repair,) = [c for c in config["head_setup_commands"] if "sed -i" in c]
    for _ in range(2):  # a second `ray up` runs it again
        subprocess.run(["bash", "-c", repair], env={"HOME": str(tmp_path)}, check=True)
        for name in names:
            before = (installed / name).read_text().splitlines()
            after = (home / name).read_text().splitlines()
            changed = [new for old, new in zip(before, after, strict=True) if old != new]
            assert len(changed) == 1
            compile("\n".join(after), name, "exec")


def test_the_account_has_what_the_file_names(config: dict[str, Any]) -> None:
    """The stack makes the bucket, and the roles of head and workers under the names used."""
    assert "*machines" not in ACCOUNT.read_text()  # CloudFormation knows no YAML aliases
    with mock_aws():
        session = boto3.Session("testing", "testing", region_name=config["provider"]["region"])
        cloud = session.client("cloudformation")
        cloud.create_stack(
            StackName="clray",
            TemplateBody=ACCOUNT.read_text(),
            Capabilities=["CAPABILITY_NAMED_IAM"],
        )
        (output,) = cloud.describe_stacks(StackName="clray")["Stacks"][0]["Outputs"]
        (bucket,) = session.client("s3").list_buckets()["Buckets"]
        assert output == {"OutputKey": "Bucket", "OutputValue": bucket["Name"]}
        iam = session.client("iam")
        roles = {
            node_type: iam.get_instance_profile(
                InstanceProfileName=about["node_config"]["IamInstanceProfile"]["Name"]
            )["InstanceProfile"]["Roles"][0]["RoleName"]
            for node_type, about in config["available_node_types"].items()
        }
        assert roles == {
            "head": "clray-head",
            "gpu_spot": "clray-worker",
            "gpu_on_demand": "clray-worker",
        }
        assert iam.list_role_policies(RoleName="clray-worker")["PolicyNames"] == []
