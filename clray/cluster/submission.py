"""A job made ready for a cluster: what is sent, what runs there, and what it needs of it."""

from __future__ import annotations

import platform
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import PurePosixPath

from packaging.requirements import Requirement

from clray.capacity import NodeType, workers_on
from clray.cluster.package import JOB, Package, own, pack
from clray.cluster.sent import Sent
from clray.errors import BadSpec
from clray.job import JobSpec
from clray.spec import Resources

RESULTS = (
    "s3://…, gs://… or the absolute path of a folder that all machines of the cluster share: "
    "--results, results in the job, or provider.clray.results in the cluster file"
)
REQUIREMENTS = "requirements.txt"
QUIET = {"PYTHONUNBUFFERED": "1", "RAY_USAGE_STATS_ENABLED": "0"}


@dataclass(frozen=True)
class Submission:
    """A job that can be sent.

    Attributes:
        job: as written, with overrides.
        package: what goes along.
        sent: what the cluster is given.
    """

    job: JobSpec
    package: Package
    sent: Sent


def prepare(
    job: JobSpec, results: str, include: Iterable[str] = (), events: bool = False
) -> Submission:
    """Gather what a job needs, and check where its results go.

    Args:
        job: as written, with overrides.
        results: where the machines write to.
        include: files and folders of yours to take along.
        events: whether the job tells its events line by line, for a live table elsewhere.

    Raises:
        BadSpec: results that only this machine would see; what ``package.pack`` refuses.
    """
    if "://" not in results and not PurePosixPath(results).is_absolute():
        raise BadSpec("results", results, RESULTS)
    package = pack(job, include)
    listed = "".join(f"{line}\n" for line in requirements()).encode()
    package = replace(package, files={**package.files, REQUIREMENTS: listed})
    command = ["python", "-m", "clray.cli.on_head", REQUIREMENTS, JOB, results]
    command += ["--events"] * events
    sent = _sent(job.name, package, command, results, job.resources)
    return Submission(job, package, sent)


def reader(name: str, results: str, heavy: bool) -> Sent:
    """What prints a job's files, where only the cluster's machines see them.

    Args:
        name: of the job.
        results: where they lie.
        heavy: whether checkpoints and models too.
    """
    command = ["python", "-m", "clray.cluster.fetching", results, name, *["--heavy"] * heavy]
    return _sent(f"fetch-{name}", own(), command, results, Resources())


def _sent(
    name: str, package: Package, command: list[str], results: str, resources: Resources
) -> Sent:
    return Sent(
        name=name,
        package=package.zipped(),
        digest=package.digest,
        command=shlex.join(command),
        results=results,
        env=dict(QUIET),
        requirements=requirements(),
        resources=resources,
        python=".".join(platform.python_version_tuple()[:2]),
        ray=metadata.version("ray"),
    )


def requirements() -> tuple[str, ...]:
    """What clray needs, as pip takes it; no extras."""
    found = []
    for line in metadata.requires("clray") or ():
        requirement = Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            requirement.marker = None
            found.append(str(requirement))
    return tuple(sorted(found))


def machines(resources: Resources, nodes: Sequence[NodeType]) -> list[tuple[int, str]]:
    """How many machines of which kind all slots take, roughly: those with the fewest GPUs first,
    each kind as far as it goes."""
    left = resources.slots * resources.workers
    found: list[tuple[int, str]] = []
    for node in sorted(nodes, key=lambda node: node.resources.get("GPU", 0.0)):
        held = workers_on(resources, node) if node.resources else 1
        taken = min(node.most, -(-left // held)) if held else 0
        left -= taken * held
        if taken > 0:
            found.append((taken, node.name))
    return found
