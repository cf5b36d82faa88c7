"""A job on a cluster, followed to its end, and its results brought home."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer
from rich.console import Console
from rich.text import Text

from clray.cli.sweep import what_failed
from clray.cli.terminal import settings

if TYPE_CHECKING:
    from clray.cluster.jobs import Submitted
    from clray.cluster.places import Place


def follow(console: Console, place: Place, job: Submitted) -> Submitted:
    """Show a job until it ends; how it ended."""
    from clray.cli.remote_job import RemoteJob
    from clray.cluster.following import Follower

    with RemoteJob(console, f"{job.name} is {job.state}, waiting for its first lines") as shown:
        follower = Follower(place.open, job.id, shown.say)
        shown.show(follower.lines())
    assert follower.job is not None
    return follower.job


def bring_home(
    context: typer.Context, console: Console, place: Place, job: Submitted, to: str
) -> int:
    """Fetch a job that has ended and show what came of it; its exit code.

    Raises:
        RunFailed: it ended without a result.
    """
    from clray.__main__ import INTERRUPTED
    from clray.errors import RunFailed
    from clray.report.leaderboard import leaderboard
    from clray.report.reading import read_job
    from clray.report.writing import write_report
    from clray.store import job_folder

    if job.state == "stopped" or job.exit_code == INTERRUPTED:
        settings(
            context
        ).on_interrupt = (
            "stopped; everything that finished is stored, and the same command goes on from there"
        )
        return INTERRUPTED
    if job.exit_code == 2:
        return 2  # the job's own message says why
    if job.state == "failed" and job.exit_code is None:
        text = f"the job ended without a result: {job.message or 'the cluster says nothing more'}"
        raise RunFailed(f"{text}; the same command goes on from what is stored")
    if job.exit_code not in (0, None) and job.state == "failed" and job.exit_code != 1:
        text = f"the job's process ended with exit code {job.exit_code}"
        raise RunFailed(f"{text}; the same command goes on from what is stored")
    bring(console, place, job.name, job.results, to, heavy=False)
    folder = job_folder(to, job.name)
    final = read_job(folder).final
    if final is None:
        return job.exit_code or 0
    console.print()
    console.print(leaderboard(final, console.width))
    page = write_report(read_job(folder), folder, as_pictures=False)
    console.print(
        Text(f"\nresults in {job.results}\nhere in {folder.uri}\npage: {page}", style="dim"),
        soft_wrap=True,
    )
    if failed := what_failed(final):
        raise RunFailed(f"something failed: {failed}; the same command tries again")
    return job.exit_code or 0


def bring(console: Console, place: Place, name: str, results: str, to: str, heavy: bool) -> None:
    """Copy a job's results: from storage that this machine reads, else through the cluster.

    Raises:
        BadData: there are none.
        RunFailed: the cluster could not read them.
    """
    from clray.cluster.fetching import copy, unpack
    from clray.cluster.submission import reader

    if "://" in results:
        with console.status("bringing results home") as shown:
            told = "bringing results home: {} files"
            count = copy(results, to, name, heavy, lambda n: shown.update(told.format(n)))
    else:
        with console.status("bringing results home through the cluster"), place.open() as cluster:
            count = unpack(cluster.run(reader(name, results, heavy)), to)
    console.print(Text(f"brought {count} files home from {results}", style="dim"), soft_wrap=True)
