"""What each provider of machines must be told, and what it would refuse."""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Iterator
from typing import Any

from clray.cluster.cluster_written import Complaint, Place

_SECTION = ("provider",)
_ANY = ("type", "clray", "use_internal_ips", "use_external_head_ip", "cache_stopped_nodes")
_KEYS: dict[str, tuple[str, ...]] = {
    "aws": (
        "region", "availability_zone", "key_pair", "security_group", "aws_credentials",
        "cloudwatch",
    ),
    "gcp": ("region", "availability_zone", "project_id", "gcp_credentials"),
    "local": ("head_ip", "worker_ips", "external_head_ip", "coordinator_address"),
}  # fmt: skip
"""What Ray reads under ``provider``; of other providers all keys are let through."""
_REQUIRED: dict[str, tuple[str, ...]] = {
    "aws": ("region",),
    "gcp": ("project_id", "region", "availability_zone"),
    "azure": ("location", "resource_group"),
    "external": ("module",),
}
_NEEDS = {"aws": ("boto3", "aws"), "gcp": ("googleapiclient", "gcp")}
"""The package that a provider needs, and clray's extra that brings it."""
_ACCEPTED = ("aws", "azure", "external", "gcp", "local", "vsphere")


def provider_complaints(data: dict[str, Any]) -> Iterator[Complaint]:
    """What is wrong in the section ``provider``."""
    provider = data["provider"]
    kind = provider["type"]
    if kind not in _ACCEPTED:
        yield Complaint((*_SECTION, "type"), kind, _ACCEPTED)
        return
    for key in _REQUIRED.get(kind, ()):
        if not provider.get(key):
            yield Complaint((*_SECTION, key), provider.get(key), "a value: this key is required")
    known = (*_ANY, *_KEYS.get(kind, tuple(provider)))
    for key in provider:
        if key not in known:
            yield Complaint(_SECTION, key, known, key)
    if kind == "local":
        yield from _local(data, provider)


def _local(data: dict[str, Any], provider: dict[str, Any]) -> Iterator[Complaint]:
    if "coordinator_address" in provider:
        return
    head, workers = provider.get("head_ip"), provider.get("worker_ips")
    if not head:
        yield Complaint((*_SECTION, "head_ip"), head, "the address of the head machine")
    if not isinstance(workers, list):
        accepted = "a list of the other machines' addresses, [] for none"
        yield Complaint((*_SECTION, "worker_ips"), workers, accepted)
        return
    for position, worker in enumerate(workers):
        at = (*_SECTION, "worker_ips", position)
        if not isinstance(worker, str) or not worker:
            yield Complaint(at, worker, "an address")
        elif worker == head or worker in workers[:position]:
            yield Complaint(at, worker, "each machine once, the head's as head_ip alone")
    for limit in ("min_workers", "max_workers"):
        if limit in data and data[limit] != len(workers):
            # Ray starts the least number at once, and never more: it does not know what they have.
            accepted = f"{len(workers)}, the number of worker_ips (or leave it away)"
            yield Complaint((limit,), data[limit], accepted)
    for key in ("available_node_types", "head_node_type"):
        if key in data:
            yield Complaint((), key, "machines by SSH, under provider: head_ip, worker_ips", key)


def node_config_complaints(data: dict[str, Any]) -> Iterator[Complaint]:
    """What the provider would refuse about a machine, as far as its own package can tell here."""
    kind = data["provider"]["type"]
    if kind not in _NEEDS:
        return
    package, extra = _NEEDS[kind]
    if importlib.util.find_spec(package) is None:
        accepted = (
            f"an installed {package}, which this provider needs: pip install 'clray[{extra}]'"
        )
        yield Complaint((*_SECTION, "type"), kind, accepted)
        return
    check = {"aws": _aws, "gcp": _gcp}[kind]
    for name, node_type in data["available_node_types"].items():
        yield from check(("available_node_types", name, "node_config"), node_type["node_config"])


def _aws(at: Place, config: dict[str, Any]) -> Iterator[Complaint]:
    import botocore.session
    from botocore.validate import ParamValidator

    model = botocore.session.get_session().get_service_model("ec2")
    shape = model.operation_model("RunInstances").input_shape
    call = {key: value for key, value in config.items() if key != "SubnetIds"}  # Ray's own key
    found = list(_aws_names(at, shape, call))
    yield from found
    if not found:
        report = ParamValidator().validate({**call, "MinCount": 1, "MaxCount": 1}, shape)
        for line in filter(None, report.generate_report().splitlines()):
            yield Complaint(at, call, f"what EC2's RunInstances takes: {line}")
    if "InstanceType" not in config and "LaunchTemplate" not in config:
        yield Complaint((*at, "InstanceType"), None, "a value, such as g5.xlarge")


def _aws_names(at: Place, shape: Any, value: Any) -> Iterator[Complaint]:
    """Unknown keys and names, which botocore's own validator lists without the nearest."""
    if shape.type_name == "structure" and isinstance(value, dict):
        for key, inside in value.items():
            if key in shape.members:
                yield from _aws_names((*at, key), shape.members[key], inside)
            else:
                yield Complaint(at, key, tuple(shape.members), key)
    elif shape.type_name == "list" and isinstance(value, list):
        for position, inside in enumerate(value):
            yield from _aws_names((*at, position), shape.member, inside)
    elif shape.type_name == "string" and isinstance(value, str):
        names = getattr(shape, "enum", [])
        if not names or value in names:
            return
        if at[-1] == "InstanceType":
            family = [name for name in names if name.partition(".")[0] == value.partition(".")[0]]
            near = ", ".join(family) or "a type of machine of EC2, such as g5.xlarge"
            yield Complaint(at, value, f"{near} (one that is new: pip install -U boto3)")
        else:
            yield Complaint(at, value, tuple(names))


def _gcp(at: Place, config: dict[str, Any]) -> Iterator[Complaint]:
    from googleapiclient.discovery_cache import get_static_doc

    schemas = json.loads(get_static_doc("compute", "v1"))["schemas"]
    if "machineType" not in config:
        if not {"acceleratorType", "acceleratorConfig"} & set(config):  # those of a TPU
            yield Complaint((*at, "machineType"), None, "a value, such as g2-standard-8")
        return
    yield from _gcp_names(at, {"$ref": "Instance"}, config, schemas)
    for position, disk in enumerate(config.get("disks") or []):
        if isinstance(disk, dict) and not disk.get("autoDelete"):
            accepted = "true, or the disk stays, and costs, when the machine has gone"
            place = (*at, "disks", position, "autoDelete")
            yield Complaint(place, disk.get("autoDelete"), accepted)


def _gcp_names(at: Place, schema: Any, value: Any, schemas: Any) -> Iterator[Complaint]:
    schema = schemas[schema["$ref"]] if "$ref" in schema else schema
    kind = schema.get("type")
    if kind == "object" and not isinstance(value, dict):
        yield Complaint(at, value, "a mapping of keys to values")
    elif kind == "array" and not isinstance(value, list):
        yield Complaint(at, value, "a list")
    elif kind == "object" and "properties" in schema:
        names = schema["properties"]
        if at[-1] == "node_config":  # arguments of the call beside the machine itself
            names = {**names, "sourceInstanceTemplate": {}, "sourceMachineImage": names["name"]}
        for key, inside in value.items():
            if key in names:
                yield from _gcp_names((*at, key), names[key], inside, schemas)
            else:
                yield Complaint(at, key, tuple(names), key)
    elif kind == "array":
        for position, inside in enumerate(value):
            yield from _gcp_names((*at, position), schema["items"], inside, schemas)
    elif kind == "string" and isinstance(value, str) and value not in schema.get("enum", [value]):
        yield Complaint(at, value, tuple(schema["enum"]))
    elif kind == "boolean" and not isinstance(value, bool):
        yield Complaint(at, value, "true or false")
    elif kind == "string" and not isinstance(value, str | int):
        yield Complaint(at, value, "text")
    elif kind == "integer" and not re.fullmatch(r"\d+", str(value)):
        yield Complaint(at, value, "an integer")
