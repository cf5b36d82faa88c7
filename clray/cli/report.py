"""``clray report``: what is stored, read from files alone, printed and written as a page."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.text import Text

from clray.addresses import below, results_at
from clray.cli.terminal import Debug, out
from clray.errors import BadData, BadInput

if TYPE_CHECKING:
    from clray.report.reading import Job, Results
    from clray.report.stored import Trial


def report(
    paths: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[RESULTS]...",
            help="A folder of results, or of one job or trial in it, s3:// and gs:// too, also "
            "while the job runs; several jobs are laid side by side. By default $CLRAY_RESULTS, or "
            "results here.",
        ),
    ] = None,
    to: Annotated[
        str | None,
        typer.Option(
            metavar="DIR",
            help="Where the page goes, instead of into the job's own folder; s3:// and gs:// too.",
        ),
    ] = None,
    no_page: Annotated[bool, typer.Option("--no-page", help="Print only, write nothing.")] = False,
    debug: Debug = False,
) -> None:
    """Show stored leaderboards and trials, and write a page with figures and tables."""
    from clray.report.reading import Job, Results, read
    from clray.report.stored import Trial

    if to is not None and no_page:
        raise BadInput("--to", to, "either --to or --no-page")
    given = paths or [results_at(None)]
    found = [read(path) for path in given]
    if len(found) > 1:
        _side_by_side(out(), given, found, to, no_page)
    elif isinstance(found[0], Trial):
        _print_trial(out(), found[0], to)
    elif isinstance(found[0], Results):
        _print_results(out(), found[0], to, no_page)
    elif isinstance(found[0], Job):
        console = out()
        _print_job(console, found[0])
        if no_page:
            _tell(console, f"results in {found[0].path}")
        else:
            _write(console, found[0], to or found[0].path)


def _print_trial(console: Console, trial: Trial, to: str | None) -> None:
    from clray.report.trial import trial_page

    if to is not None:
        raise BadInput("--to", to, "a job's folder to report; a trial is only printed")
    console.print(trial_page(trial, console.width))


def _print_results(console: Console, found: Results, to: str | None, no_page: bool) -> None:
    for job in found.jobs:
        _print_job(console, job)
        if not no_page:
            _write(console, job, below(to, job.name) if to else job.path)
        console.print()
    jobs = f"{len(found.jobs)} job" + "s" * (len(found.jobs) != 1)
    trials = f"{found.num_trials} stored trial" + "s" * (found.num_trials != 1)
    _tell(console, f"{jobs} and {trials} in {found.path}")


def _side_by_side(
    console: Console,
    given: list[str],
    found: list[Results | Job | Trial],
    to: str | None,
    no_page: bool,
) -> None:
    from clray.report.reading import Job, Results

    jobs: list[Job] = []
    for path, one in zip(given, found, strict=True):
        if isinstance(one, Job):
            jobs.append(one)
        elif isinstance(one, Results):
            jobs += one.jobs
        else:
            raise BadData(path, "a trial", "jobs, or folders of results, side by side")
    for job in jobs:
        _print_job(console, job)
        console.print()
    if no_page:
        return
    from clray.report.writing import write_comparison
    from clray.store import Folder

    _tell(console, f"page: {write_comparison(jobs, Folder(to or '.', '--to'))}")


def _print_job(console: Console, job: Job) -> None:
    from clray.report.leaderboard import job_page

    console.print(job_page(job, console.width))


def _write(console: Console, job: Job, to: str) -> None:
    from clray.report.writing import write_report
    from clray.store import Folder

    _tell(console, f"\npage: {write_report(job, Folder(to, '--to'))}")


def _tell(console: Console, text: str) -> None:
    console.print(Text(text, style="dim"), soft_wrap=True)  # an address stays in one piece
