"""A cluster file: what Ray's cluster launcher starts, read and checked before it starts anything.

The file is Ray's own, so that ``ray up`` takes it as it is, with one section of ours,
``provider.clray``. What a person must fill in is marked ``<FILL-IN: what>``.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clray.capacity import NodeType
from clray.cluster.cluster_commands import command_complaints
from clray.cluster.cluster_machines import machine_complaints
from clray.cluster.cluster_providers import node_config_complaints, provider_complaints
from clray.cluster.cluster_schema import prepare, schema_complaints
from clray.cluster.cluster_written import Complaint, markers, read_written

TOKEN = "auth_token"
"""The name of Ray's token file."""


@dataclass(frozen=True)
class ClusterFile:
    """A cluster file that has been read and checked.

    Attributes:
        path: the file.
        name: the cluster's.
        provider: who has the machines: aws, gcp, local (by SSH), ...
        results: where results go, or None if the file does not say.
        config: the file's content, with Ray's defaults filled in.
    """

    path: Path
    name: str
    provider: str
    results: str | None
    config: dict[str, Any]

    @property
    def head_node_type(self) -> str:
        """The name of the head's kind of machine."""
        return str(self.config["head_node_type"])

    @property
    def idle_minutes(self) -> float:
        """After how many minutes without work a worker goes away."""
        return float(self.config["idle_timeout_minutes"])

    @property
    def token_file(self) -> Path | None:
        """The token's file here; None if the cluster does without one, or takes it elsewhere."""
        for remote, local in self.config["file_mounts"].items():
            if Path(remote).name == TOKEN:
                return Path(local).expanduser()
            if Path(remote).name == ".ray":
                return Path(local).expanduser() / TOKEN
        return None

    def node_types(self) -> list[NodeType]:
        """The kinds of machines and how many of each there can be, the head's first.

        Of machines by SSH nothing is known before they are up, unless ``provider.clray.resources``
        says what each has; without it the list is empty.
        """
        most = int(self.config["max_workers"])
        if self.provider == "local":
            has = self.config["provider"].get("clray", {}).get("resources")
            return [NodeType("machine", _numbers(has), 1 + most)] if has else []
        found = []
        for name, kind in self.config["available_node_types"].items():
            head = name == self.head_node_type
            found.append(
                NodeType(name, _numbers(kind["resources"]), min(kind["max_workers"], most) + head)
            )
        return sorted(found, key=lambda kind: kind.name != self.head_node_type)

    def summary(self) -> list[str]:
        """What would be started, in lines for a person."""
        provider = self.config["provider"]
        place = provider.get("availability_zone") or provider.get("region") or ""
        lines = [f"cluster {self.name}: {self.provider}" + f", {place}" * bool(place)]
        if self.provider == "local":
            workers = provider.get("worker_ips", [])
            by = provider.get("head_ip") or provider.get("coordinator_address")
            lines.append(f"head: {by}, by SSH")
            lines.append(f"workers: {', '.join(workers) or 'none'}")
        else:
            for kind in self.node_types():
                lines.append(self._kind(kind))
            lines.append(
                f"at most {self.config['max_workers']} workers; idle ones go away after "
                f"{self.idle_minutes:g} min"
            )
        return [*lines, f"results: {self.results or 'not set in the cluster file'}"]

    def _kind(self, kind: NodeType) -> str:
        written = self.config["available_node_types"][kind.name]
        node = written["node_config"]
        machine = node.get("InstanceType") or node.get("machineType") or ""
        spot = "spot" in str({**node, "disks": None}).lower() or node.get("preemptible")
        has = ", ".join(f"{name} {number:g}" for name, number in kind.resources.items())
        head = kind.name == self.head_node_type
        number = "head" if head else f"{written['min_workers']} to {kind.most}"
        told = [machine, has, "spot" if spot else ""]
        return f"{number}: {kind.name} ({'; '.join(each for each in told if each)})"


def read_cluster_file(path: str) -> ClusterFile:
    """Read a cluster file and check it, as far as that is possible from here.

    Args:
        path: of a file that Ray's cluster launcher takes.

    Raises:
        BadSpec: what must be filled in, an unknown key, a value that Ray or the provider would
            refuse, a cluster that would be open to strangers, other versions than here, or a
            package that the provider needs and that is not installed. All that is found at once.
    """
    written = read_written(Path(path))
    data = written.data
    written.refuse(list(markers(data)))
    written.refuse(list(schema_complaints(data)))
    written.refuse([*provider_complaints(data), *_ours(data)])
    written.refuse(list(machine_complaints(data)))
    prepared, complaints = prepare(data)
    written.refuse(complaints)
    written.refuse([*command_complaints(prepared), *node_config_complaints(data)])
    section = data["provider"].get("clray") or {}
    return ClusterFile(
        path=written.path,
        name=str(data["cluster_name"]),
        provider=str(data["provider"]["type"]),
        results=section.get("results"),
        config=prepared,
    )


def _ours(data: dict[str, Any]) -> list[Complaint]:
    """What is wrong in ``provider.clray``."""
    at = ("provider", "clray")
    section = data["provider"].get("clray", {})
    if not isinstance(section, dict):
        return [Complaint(at, section, "a mapping such as {results: s3://bucket/folder}")]
    local = data["provider"]["type"] == "local"
    names = ("results", "resources") if local else ("results",)
    found = [Complaint(at, key, names, key) for key in section if key not in names]
    results = section.get("results")
    if "results" in section and not _is_address(results):
        accepted = (
            "s3://bucket/folder, gs://bucket/folder, or a folder /... that all machines share"
        )
        found.append(Complaint((*at, "results"), results, accepted))
    has = section.get("resources")
    if local and "resources" in section and not _is_resources(has):
        accepted = "what each machine has, such as {CPU: 32, GPU: 4}"
        found.append(Complaint((*at, "resources"), has, accepted))
    return found


def _is_address(value: Any) -> bool:
    if not isinstance(value, str):
        return False
    scheme, found, rest = value.partition("://")
    return value.startswith("/") if not found else scheme in ("s3", "gs") and rest[:1].isalnum()


def _is_resources(value: Any) -> bool:
    return isinstance(value, dict) and all(
        isinstance(number, int | float) and not isinstance(number, bool) and number >= 0
        for number in value.values()
    )


def _numbers(resources: dict[str, Any]) -> dict[str, float]:
    return {name: float(number) for name, number in resources.items()}
