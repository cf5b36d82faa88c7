"""``clray sweep``: a job's searches and its final test runs."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from clray.cli.completion import complete_job
from clray.cli.terminal import Debug, Directory, keep_on_interrupt, out

if TYPE_CHECKING:
    from collections.abc import Sequence

    from clray import protocols
    from clray.cli.plan import PlannedBoard
    from clray.job import JobSpec
    from clray.report.stored import Final


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
    results: Directory = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check and show the plan; start nothing.")
    ] = False,
    anew: Annotated[
        bool,
        typer.Option("--anew", help="Start a changed job beside the stored one, as NAME-2."),
    ] = False,
    events: Annotated[
        bool,
        typer.Option(
            "--events", help="Tell events as lines of JSON, and nothing else.", hidden=True
        ),
    ] = False,
    debug: Debug = False,
) -> None:
    """Search, test and rank the methods of a job.

    What is stored already is not run again: after an interruption the same command goes on.
    """
    keep_on_interrupt(context)
    spec = load(job, overrides or [])

    from clray import job_changes, protocols
    from clray.addresses import results_at
    from clray.cli.event_lines import EventLines
    from clray.cli.live_table import LiveTable
    from clray.cli.plain_lines import PlainLines
    from clray.cli.plan import plan_page
    from clray.errors import RunFailed
    from clray.loggers.opening import check_loggers, open_loggers
    from clray.protocols.known import known_trials
    from clray.report.leaderboard import leaderboard
    from clray.report.reading import read_job
    from clray.report.stored import Final
    from clray.report.writing import write_report
    from clray.store import check_writable, job_folder

    console = out()
    results = results_at(results, spec.results)
    planned = protocols.plan(spec)
    if not dry_run:
        check_writable(results)
    if anew:
        planned = job_changes.beside(results, planned)
    boards = protocols.planned_boards(planned)
    remarks = dict.fromkeys(one.board.benchmark.remark() for one in boards)
    for told in filter(None, remarks):
        console.print(told, soft_wrap=True)
    folder = job_folder(results, planned.name)
    check_loggers(planned.loggers, folder)
    job_changes.refuse_changed(folder, planned)
    known_trials(planned, results)
    if dry_run:
        console.print(plan_page(planned, shown(boards)))
        text = f"Results would lie in {folder.uri}.\nNothing was started: this is a dry run."
        console.print(Text(text, style="dim"), soft_wrap=True)
        return
    watcher: LiveTable | PlainLines | EventLines
    if events:
        watcher = EventLines(console)
    else:
        watcher = LiveTable(console) if console.is_terminal else PlainLines(console)
    logged = open_loggers(planned, folder, watcher.watch)
    with logged as watch, watcher:
        content = protocols.run_job(planned, results, watch, command=["clray", *sys.argv[1:]])
    final = Final.model_validate(content)
    page = write_report(read_job(folder), folder, as_pictures=False)
    if not events:
        console.print()
        console.print(leaderboard(final, console.width))
        told = f"\nresults in {final.results}\npage: {page}"
        console.print(Text(told, style="dim", overflow="fold"))
    if failed := what_failed(final):
        again = any(row.trials.failed for board in final.boards for row in board.rows)
        hint = "; the same command tries again" if again else ""
        raise RunFailed(f"something failed: {failed}{hint}")


def load(job: str, overrides: list[str]) -> JobSpec:
    """The job in a file, with the command line's overrides put over it.

    Raises:
        BadInput: there is no such job, or a field is not acceptable.
    """
    from clray import files
    from clray.job import JobSpec
    from clray.parsing import merge, parse, parse_overrides

    spec = files.load_job(job)
    if not overrides:
        return spec
    given = parse_overrides(overrides, JobSpec.model_fields)
    written = {"model": spec.model.name, **spec.model_dump(mode="json", exclude_unset=True)}
    return parse(JobSpec, merge(written, given), f"job {spec.name} with overrides")


def what_failed(final: Final) -> str:
    """Entries without a result, and those whose trials failed; diverged ones are results too."""
    parts = []
    for board in final.boards:
        for row in board.rows:
            name = f"{row.label} on {board.name}" if board.name else row.label
            if row.trials.failed:
                plural = "s" * (row.trials.failed != 1)
                parts.append(f"{row.trials.failed} trial{plural} of {name}")
            elif row.error:
                parts.append(name)
    return ", ".join(dict.fromkeys(parts))


def shown(boards: Sequence[protocols.PlannedBoard]) -> list[PlannedBoard]:
    """The boards, for the page that shows a plan."""
    from clray.cli.plan import PlannedBoard
    from clray.report.naming import benchmark_title

    return [
        PlannedBoard(
            one.board.name,
            benchmark_title(one.board.contenders[0].base.benchmark.model_dump()),
            one.board.selection,
            one.board.num_tasks,
            one.planned,
            {contender.label: contender.space for contender in one.board.contenders},
            one.task_trainings,
        )
        for one in boards
    ]
