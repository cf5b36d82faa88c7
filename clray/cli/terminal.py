"""What the commands share: the two consoles, the global settings, and how errors are told."""

from __future__ import annotations

import sys
import traceback
from dataclasses import dataclass
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text


@dataclass
class Settings:
    """What holds for one command line.

    Attributes:
        debug: whether errors show their traceback.
        on_interrupt: what Ctrl-C says.
    """

    debug: bool = False
    on_interrupt: str = "interrupted"

    def show_traceback(self) -> None:
        """Print the exception that is being handled, if ``--debug`` was given."""
        if self.debug:
            traceback.print_exc(file=sys.stderr)


def out() -> Console:
    """Standard output, as it is now."""
    return Console(highlight=False, markup=False)


def complain(message: str) -> None:
    """Tell an error, as one message."""
    _to_stderr(Text.assemble(("clray: error: ", "bold red"), (message.strip(), "red")))


def remark(message: str) -> None:
    """Tell something beside the output."""
    _to_stderr(Text(f"clray: {message}"))


def _to_stderr(text: Text) -> None:
    Console(stderr=True, highlight=False, markup=False).print(text, soft_wrap=True)


def keep_on_interrupt(context: typer.Context) -> None:
    """Let Ctrl-C say that nothing is lost."""
    settings(
        context
    ).on_interrupt = (
        "interrupted; everything that finished is stored, and the same command goes on from there"
    )


def settings(context: typer.Context) -> Settings:
    """The settings of this command line."""
    found = context.find_root().obj
    return found if isinstance(found, Settings) else Settings()


def _set_debug(context: typer.Context, value: bool) -> None:
    if value:
        settings(context).debug = True


Debug = Annotated[
    bool,
    typer.Option(
        "--debug", help="Show the traceback of an error.", callback=_set_debug, is_eager=True
    ),
]
Directory = Annotated[
    str | None,
    typer.Option(
        "--results",
        metavar="DIR",
        help="Where results lie; s3:// and gs:// too. By default where the job says, or "
        "$CLRAY_RESULTS, or results here.",
        show_default=False,
    ),
]
