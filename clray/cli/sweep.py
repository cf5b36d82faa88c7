"""``clray sweep``: a job's searches and its final test runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from clray.cli.completion import complete_job
from clray.cli.terminal import Debug, Directory, keep_on_interrupt, out

if TYPE_CHECKING:
    from clray.report.reading import Final
    from clray.spec import JobSpec


def sweep(
    context: typer.Context,
    job: Annotated[
        str,
        typer.Argument(metavar="JOB", autocompletion=complete_job, help="A job's file or name."),
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="KEY=VALUE",
            help="Fields of the job: search.trials=4 protocol.epochs=2 resources.slots=1",
            show_default=False,
        ),
    ] = None,
    results: Directory = "results",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check and show the plan; start nothing.")
    ] = False,
    debug: Debug = False,
) -> None:
    """Search, test and rank the methods of a job.

    What is stored already is not run again: after an interruption the same command goes on.
    """
    keep_on_interrupt(context)
    spec = load(job, overrides or [])

    from clray import protocols, registry
    from clray.cli.live_table import LiveTable
    from clray.cli.plain_lines import PlainLines
    from clray.cli.plan import plan_page
    from clray.errors import RunFailed
    from clray.report.leaderboard import leaderboard
    from clray.report.reading import Final

    console = out()
    planned = protocols.plan(spec)
    if told := registry.configure("benchmark", planned.benchmark).remark():
        console.print(told, soft_wrap=True)
    if dry_run:
        console.print(plan_page(planned))
        console.print(Text("Nothing was started: this is a dry run.", style="dim"))
        return
    watcher = LiveTable(console) if console.is_terminal else PlainLines(console)
    with watcher:
        content = protocols.run_job(planned, results, watcher.watch)
    final = Final.model_validate(content)
    console.print()
    console.print(leaderboard(final, console.width))
    console.print(Text(f"\nresults in {final.results}", style="dim", overflow="fold"))
    if failed := what_failed(final):
        raise RunFailed(f"something failed: {failed}; the same command tries again")


def load(job: str, overrides: list[str]) -> JobSpec:
    """The job in a file, with the command line's overrides put over it.

    Raises:
        BadInput: there is no such job, or a field is not acceptable.
    """
    from clray import files
    from clray.parsing import merge, parse, parse_overrides
    from clray.spec import JobSpec

    spec = files.load_job(job)
    if not overrides:
        return spec
    given = parse_overrides(overrides, JobSpec.model_fields)
    written = {"model": spec.model.name, **spec.model_dump(mode="json", exclude_unset=True)}
    return parse(JobSpec, merge(written, given), f"job {spec.name} with overrides")


def what_failed(final: Final) -> str:
    """Entries without a result, and those whose trials failed; diverged ones are results too."""
    parts = []
    for row in final.rows:
        if row.trials.failed:
            plural = "s" * (row.trials.failed != 1)
            parts.append(f"{row.trials.failed} trial{plural} of {row.label}")
        elif row.error:
            parts.append(row.label)
    return ", ".join(parts)
