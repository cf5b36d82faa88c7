"""``clray list``: what there is, from the code and the files themselves."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from clray.cli.completion import KINDS, complete_kind
from clray.cli.terminal import Debug, out

if TYPE_CHECKING:
    from clray.cli.listed import Listed


def list_(
    kind: Annotated[
        str | None,
        typer.Argument(
            metavar=f"[{'|'.join(KINDS)}]",
            autocompletion=complete_kind,
            help="What to list; all of it if left out.",
            show_default=False,
        ),
    ] = None,
    name: Annotated[
        str | None,
        typer.Argument(metavar="[NAME]", help="One of them, in full.", show_default=False),
    ] = None,
    knobs: Annotated[
        bool, typer.Option("--knobs", help="Show each one in full, with all its knobs.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, in full.")] = False,
    debug: Debug = False,
) -> None:
    """List what there is: components, files, and what a job may ask for."""
    from clray.cli.listed import listed, names_of
    from clray.errors import UnknownName

    if kind is not None and kind not in KINDS:
        raise UnknownName("list", kind, KINDS)
    found: dict[str, list[Listed]] = {}
    for one in [kind] if kind else KINDS:
        chosen = [name] if name is not None else names_of(one)
        found[one] = [listed(one, each) for each in chosen]
    if as_json:
        plain: dict[str, Any] = {one: [each.plain for each in found[one]] for one in found}
        typer.echo(json.dumps(plain, indent=1))
        return
    console = out()
    if name is not None or knobs:
        _print_in_full(console, found)
    else:
        _print_summaries(console, found)


def _print_summaries(console: Console, found: dict[str, list[Listed]]) -> None:
    from clray.report.tables import indented, plain_table

    width = max((len(each.name) for several in found.values() for each in several), default=0)
    for index, (kind, several) in enumerate(found.items()):
        if index:
            console.print()
        console.print(Text(kind, style="bold"))
        table = plain_table(2)
        table.columns[0].min_width = width
        for each in several:
            table.add_row(each.name, Text(each.summary, style="dim"))
        if not several:
            table.add_row(Text("none", style="dim"), "")
        console.print(indented(table))
    example = "clray list methods ewc"
    console.print(Text(f"\nOne of them in full: {example}", style="dim"))


def _print_in_full(console: Console, found: dict[str, list[Listed]]) -> None:
    everything = [each for several in found.values() for each in several]
    for index, each in enumerate(everything):
        if index:
            console.print()
        console.print(Text.assemble((each.name, "bold"), f"  {each.summary}"))
        for part in each.page:
            console.print(Padding(part, (0, 0, 0, 2), expand=False))
