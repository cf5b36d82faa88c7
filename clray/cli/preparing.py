"""A job made ready to be sent: all that can be checked from here."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from clray.cluster.places import Place
    from clray.cluster.submission import Submission
    from clray.job import JobSpec


def prepare_here(
    spec: JobSpec, place: Place, results: str | None, include: list[str], to: str, anew: bool
) -> Submission:
    """Check all that can be checked from here.

    Raises:
        BadInput: what would fail on the cluster.
    """
    from clray.capacity import refuse_impossible
    from clray.cluster.submission import prepare

    spec = check_here(spec, to, anew)
    nodes = place.file.node_types() if place.file else []
    if nodes:  # else nobody knows what the machines hold until they are there
        refuse_impossible(spec.resources, nodes)
    from_file = place.file.results if place.file else None
    return prepare(spec, results_there(results, spec, from_file), include, events=True)


def results_there(given: str | None, spec: JobSpec, from_file: str | None = None) -> str:
    """Where the machines write to; "" where nobody says it.

    Raises:
        BadInput: an address that cannot be one, or that holds credentials.
    """
    from clray.addresses import checked

    told = {"--results": given, "results": spec.results, "provider.clray.results": from_file}
    return next((checked(address, where) for where, address in told.items() if address), "")


def check_here(spec: JobSpec, to: str | None, anew: bool) -> JobSpec:
    """Plan the job, as far as the data that are here allow.

    Args:
        spec: as written, with overrides.
        to: the folder of results here that a job comes home to; one that has changed since is
            refused. None where it does not come home by itself.
        anew: whether such a job is to start under another name.

    Returns:
        The job, perhaps under another name.

    Raises:
        BadInput: what would fail on the cluster, or here.
    """
    from clray import job_changes, protocols
    from clray.cli.terminal import remark
    from clray.errors import BadData
    from clray.store import job_folder

    try:
        planned = protocols.plan(spec)
    except BadData as error:
        remark(f"not planned here, but on the cluster, since data are missing here: {error}")
        return spec
    if to is None:
        return spec
    if anew:
        planned = job_changes.beside(to, planned)
    job_changes.refuse_changed(job_folder(to, planned.name), planned)
    return spec.model_copy(update={"name": planned.name})
