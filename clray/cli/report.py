"""``clray report``: what is stored, read from files alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.text import Text

from clray.cli.terminal import Debug, out

if TYPE_CHECKING:
    from clray.report.reading import Results


def report(
    path: Annotated[
        str,
        typer.Argument(
            metavar="[RESULTS]", help="A folder of results, or of one job or trial in it."
        ),
    ] = "results",
    debug: Debug = False,
) -> None:
    """Show stored leaderboards and trials."""
    from clray.report.leaderboard import job_page
    from clray.report.reading import Results, Trial, read
    from clray.report.trial import trial_page

    found = read(path)
    console = out()
    if isinstance(found, Results):
        _print_results(console, found)
    elif isinstance(found, Trial):
        console.print(trial_page(found, console.width))
    else:
        console.print(job_page(found, console.width))
        console.print(Text(f"\nresults in {found.path}", style="dim", overflow="fold"))


def _print_results(console: Console, found: Results) -> None:
    from clray.report.leaderboard import job_page

    for job in found.jobs:
        console.print(job_page(job, console.width))
        console.print()
    jobs = f"{len(found.jobs)} job" + "s" * (len(found.jobs) != 1)
    trials = f"{found.num_trials} stored trial" + "s" * (found.num_trials != 1)
    console.print(Text(f"{jobs} and {trials} in {found.path}", style="dim", overflow="fold"))
