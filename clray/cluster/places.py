"""The ways to a cluster: an address, a cluster file, or a job that was sent before."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from clray.cluster.cluster_file import ClusterFile, read_cluster_file
from clray.cluster.jobs import Cluster
from clray.cluster.known import Known, known
from clray.errors import BadInput, RunFailed, UnknownName, Unreachable

VARIABLE = "RAY_API_SERVER_ADDRESS"
"""Ray's own name for the address of a cluster's dashboard."""


@dataclass(frozen=True)
class Place:
    """Where a cluster is.

    Attributes:
        address: of its dashboard.
        file: or what leads there.
        where: names the place in an error.
    """

    address: str | None
    file: ClusterFile | None
    where: str

    def __str__(self) -> str:
        return str(self.file.path) if self.file else str(self.address)

    @contextmanager
    def open(self) -> Iterator[Cluster]:
        """Reach the cluster, through a tunnel where a file leads there.

        Raises:
            Unreachable: it does not answer.
            BadInput: see ``Cluster``.
        """
        if self.file is None:
            yield Cluster(self.address or "", self.where)
            return
        from clray.cluster.launcher import dashboard

        with ExitStack() as stack:
            try:
                address = stack.enter_context(dashboard(self.file))
            except RunFailed as error:
                accepted = f"a cluster that is up and answers ({error})"
                raise Unreachable(self.where, str(self.file.path), accepted) from None
            yield Cluster(address, self.where)


def given_place(address: str | None, cluster: str | None) -> Place | None:
    """The place that options name, or the environment; None for none.

    Raises:
        BadInput: both, or a cluster file that cannot be used.
    """
    if address is not None and cluster is not None:
        raise BadInput("--address", address, "either --address or --cluster")
    if cluster is not None:
        return Place(None, read_cluster_file(cluster), "--cluster")
    if address is not None:
        return Place(address, None, "--address")
    if variable := os.environ.get(VARIABLE):
        return Place(variable, None, VARIABLE)
    return None


def place_of(name: str, address: str | None, cluster: str | None) -> tuple[Place, Known | None]:
    """Where a job is, by options or by what this machine remembers.

    Raises:
        UnknownName: this machine knows of no such job.
        BadInput: see ``given_place``.
    """
    jobs = known()
    ids = {job.id: job for job in jobs.values()}
    found = jobs.get(name) or ids.get(name)
    place = given_place(address, cluster)
    if place is None and found is not None:
        place = given_place(found.address, found.cluster)
    if place is None:
        none = "a job that was submitted from this machine, or --address or --cluster"
        raise UnknownName("submitted job", name, sorted(jobs) or none)
    return place, found
