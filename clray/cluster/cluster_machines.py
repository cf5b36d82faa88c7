"""The kinds of machines of a cluster file: their numbers, and the files here that they need."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from clray.cluster.cluster_written import Complaint

_HAS = "what one machine has, such as {CPU: 8, GPU: 1}: sweeps are planned with it"


def machine_complaints(data: dict[str, Any]) -> Iterator[Complaint]:
    """What Ray would find late or never: limits, the head, keys and files that are not there."""
    if data["provider"]["type"] != "local":
        yield from _types(data)
    auth = data.get("auth") or {}
    if "ssh_user" not in auth:
        yield Complaint(("auth", "ssh_user"), None, "who logs in on the machines, such as ubuntu")
    if data["provider"].get("worker_ips") and "ssh_private_key" not in auth:
        accepted = "a key file: with it the head reaches the workers"
        yield Complaint(("auth", "ssh_private_key"), None, accepted)
    for key in ("ssh_private_key", "ssh_public_key"):
        if key in auth and not Path(auth[key]).expanduser().is_file():
            yield Complaint(("auth", key), auth[key], "a key file that is there")
    for remote, local in (data.get("file_mounts") or {}).items():
        at = ("file_mounts", remote)
        if not isinstance(local, str):
            yield Complaint(at, local, "a path on this machine")
        elif Path(remote).name != "auth_token" and not Path(local).expanduser().exists():
            yield Complaint(at, local, "a file or folder that is there on this machine")


def _types(data: dict[str, Any]) -> Iterator[Complaint]:
    required = ("max_workers", "available_node_types", "head_node_type", "idle_timeout_minutes")
    missing = [key for key in required if key not in data]
    for key in missing:
        yield Complaint((key,), None, "a value: this key is required")
    if missing:
        return
    types, head, most = data["available_node_types"], data["head_node_type"], data["max_workers"]
    if head not in types:
        yield Complaint(("head_node_type",), head, tuple(types))
    for name, kind in types.items():
        at = ("available_node_types", name)
        if not kind["resources"]:
            yield Complaint((*at, "resources"), kind["resources"], _HAS)
        at_least = kind.get("min_workers", 0)
        at_most = kind.get("max_workers", 0 if name == head else most)
        if at_most > most:
            accepted = f"at most {most}, the max_workers of the whole cluster"
            yield Complaint((*at, "max_workers"), at_most, accepted)
        elif at_least > at_most:
            yield Complaint((*at, "min_workers"), at_least, f"at most {at_most}, its max_workers")
    least = sum(kind.get("min_workers", 0) for kind in types.values())
    if least > most:
        accepted = f"{least} or more, the sum of all min_workers"
        yield Complaint(("max_workers",), most, accepted)
