"""The command line: its commands and global options."""

from __future__ import annotations

from typing import Annotated

import typer

import clray
from clray.cli.data import data
from clray.cli.listing import list_
from clray.cli.report import report
from clray.cli.run import run
from clray.cli.submit import submit
from clray.cli.submitted import fetch, logs, status, stop
from clray.cli.sweep import sweep
from clray.cli.terminal import Debug

app = typer.Typer(
    name="clray",
    help="Sweeps for continual learning, on Ray.",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(value: bool) -> None:
    if value:
        typer.echo(f"clray {clray.__version__}")
        raise typer.Exit


@app.callback()
def _global(
    debug: Debug = False,
    version: Annotated[
        bool,
        typer.Option("--version", help="Show the version.", callback=_show_version, is_eager=True),
    ] = False,
) -> None:
    pass


app.command("run")(run)
app.command("sweep")(sweep)
app.command("submit")(submit)
app.command("status")(status)
app.command("logs")(logs)
app.command("stop")(stop)
app.command("fetch")(fetch)
app.command("report")(report)
app.command("list")(list_)
app.add_typer(data, name="data")
