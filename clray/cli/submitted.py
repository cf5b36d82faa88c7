"""``clray status``, ``logs``, ``stop`` and ``fetch``: jobs on clusters, found again by name."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.text import Text

from clray.cli.cluster_options import Address, ClusterPath
from clray.cli.homecoming import bring, follow
from clray.cli.terminal import Debug, out, settings

if TYPE_CHECKING:
    from clray.cluster.jobs import Submitted

STOP_SECONDS = 60.0
"""How long a job may take to stop."""
Name = Annotated[
    str, typer.Argument(metavar="NAME", help="A job's name, or the id of a submission.")
]
To = Annotated[str, typer.Option("--to", metavar="DIR", help="The folder of results here.")]


def status(
    name: Annotated[
        str | None,
        typer.Argument(metavar="[NAME]", help="A job's name; by default all that are known."),
    ] = None,
    address: Address = None,
    cluster: ClusterPath = None,
    debug: Debug = False,
) -> None:
    """Show the jobs that were submitted, and how they stand."""
    from clray.cluster.known import known
    from clray.cluster.places import given_place, place_of

    console = out()
    if name is not None:
        place, _ = place_of(name, address, cluster)
        with place.open() as reached:
            _print(console, [(reached.job(name), str(place))])
        return
    given = given_place(address, cluster)
    if given is not None:
        with given.open() as reached:
            _print(console, [(job, str(given)) for job in reached.all()])
        return
    if not known():
        console.print("no job was submitted from this machine; --address or --cluster name one")
        return
    _print_known(console)


def _print_known(console: Console) -> None:
    """Each job that this machine remembers; each cluster is asked once."""
    from clray.cluster.jobs import Submitted
    from clray.cluster.known import known
    from clray.cluster.places import given_place
    from clray.errors import BadInput

    rows = []
    places: dict[str, dict[str, Submitted]] = {}
    reasons: dict[str, str] = {}
    for job in reversed(list(known().values())):
        if job.place not in places:
            places[job.place] = {}
            try:
                place = given_place(job.address, job.cluster)
                assert place is not None
                with place.open() as cluster:
                    places[job.place] = {one.id: one for one in cluster.all()}
            except BadInput as error:
                reasons[job.place] = str(error)
        gone = "out of reach" if job.place in reasons else "not known there"
        unknown = Submitted(job.name, job.id, gone, job.results, "", None, None, "", None)
        rows.append((places[job.place].get(job.id, unknown), job.place))
    _print(console, rows)
    for reason in reasons.values():
        console.print(Text(reason, style="yellow"), soft_wrap=True)


def _print(console: Console, rows: list[tuple[Submitted, str]]) -> None:
    from clray.report.tables import ruled_table

    if not rows:
        console.print("clray sent no job there")
        return
    table = ruled_table("job", "state", "submitted", "took")
    table.add_column("cluster, results", overflow="fold", ratio=1)
    for job, place in rows:
        where = Text.assemble(place, "\n", (job.results, "dim"))
        table.add_row(job.name, _state(job), _when(job.started), _took(job), where)
    console.print(table)


def _state(job: Submitted) -> Text:
    colours = {"running": "green", "failed": "red", "stopped": "yellow"}
    code = f" ({job.exit_code})" if job.exit_code else ""
    return Text(job.state + code, style=colours.get(job.state, ""))


def _when(time: datetime | None) -> str:
    return time.astimezone().strftime("%Y-%m-%d %H:%M") if time else ""


def _took(job: Submitted) -> str:
    from clray.report.numbers import clock

    if job.started is None:
        return ""
    return clock(((job.ended or datetime.now(UTC)) - job.started).total_seconds())


def logs(
    context: typer.Context,
    name: Name,
    following: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on until the job ends.")
    ] = False,
    address: Address = None,
    cluster: ClusterPath = None,
    debug: Debug = False,
) -> int:
    """Show what a job has told so far; with --follow, until it ends."""
    from clray.cli.remote_job import RemoteJob
    from clray.cluster.places import place_of

    place, _ = place_of(name, address, cluster)
    console = out()
    with place.open() as reached:
        job = reached.job(name)
        if not following:
            lines = reached.logs(job.id).splitlines()
            with RemoteJob(console, as_lines=True) as shown:
                shown.show(lines)
            return 0
    settings(context).on_interrupt = f"left; {job.name} goes on"
    job = follow(console, place, job)
    console.print(f"{job.name} {job.state}")
    return job.exit_code or 0


def stop(
    name: Name, address: Address = None, cluster: ClusterPath = None, debug: Debug = False
) -> None:
    """Stop a job. What finished is stored; clray submit goes on from there."""
    from clray.cluster.places import place_of
    from clray.errors import RunFailed

    place, _ = place_of(name, address, cluster)
    console = out()
    with place.open() as reached:
        job = reached.job(name)
        if job.is_over:
            console.print(f"{job.name} {job.state} already")
            return
        until = time.monotonic() + STOP_SECONDS
        while not job.is_over:
            if time.monotonic() > until:
                text = f"{job.name} is still {job.state} after {STOP_SECONDS:g} s: {job.message}"
                raise RunFailed(f"{text}; the same command asks again")
            reached.stop(job.id)  # Ray forgets it for a job that is still pending
            time.sleep(1)
            job = reached.get(job.id)
    console.print(f"{job.name} {job.state}; clray submit goes on from what is stored")


def fetch(
    name: Name,
    to: To = "results",
    heavy: Annotated[
        bool, typer.Option("--checkpoints", help="Bring checkpoints and models too.")
    ] = False,
    address: Address = None,
    cluster: ClusterPath = None,
    debug: Debug = False,
) -> None:
    """Bring the results of a job home, as far as there are any."""
    from clray.cluster.places import place_of
    from clray.store import job_folder

    place, known = place_of(name, address, cluster)
    console = out()
    if known is None:
        with place.open() as reached:
            job = reached.job(name)
        bring(console, place, job.name, job.results, to, heavy)
        name = job.name
    else:
        bring(console, place, known.name, known.results, to, heavy)
        name = known.name
    console.print(f"here in {job_folder(to, name).uri}; clray report shows them")
