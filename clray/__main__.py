"""``clray``, and ``python -m clray``."""

from __future__ import annotations

import contextlib
import io
import sys

INTERRUPTED = 130
"""The exit code after Ctrl-C, as shells have it."""


def main() -> None:
    """Run the command line and leave with its exit code: 0 fine, 1 something that ran failed, 2 bad
    input, 130 Ctrl-C."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            with contextlib.suppress(ValueError):
                stream.reconfigure(errors="replace")
    try:
        code = invoke(sys.argv[1:])
    except KeyboardInterrupt:  # before there was anything to store
        code = INTERRUPTED
    sys.exit(code)


def invoke(arguments: list[str]) -> int:
    """Run one command line in this process; its exit code."""
    import typer.exceptions
    from typer.main import get_command

    from clray.cli.app import app
    from clray.cli.terminal import Settings, complain, remark
    from clray.errors import ClrayError

    settings = Settings()
    command = get_command(app)
    try:
        result = command.main(
            arguments or ["--help"], prog_name="clray", standalone_mode=False, obj=settings
        )
        code = int(result or 0)
    except typer.exceptions.TyperException as error:  # such as an option that there is not
        code = 2
        complain(error.format_message())
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except ClrayError as error:
        code = error.exit_code
        complain(str(error))
        settings.show_traceback()
    except Exception as error:
        code = 1
        hint = "" if settings.debug else "; --debug shows where"
        complain(f"unexpected {type(error).__name__}: {error}{hint}")
        settings.show_traceback()
    if code == INTERRUPTED:
        remark(settings.on_interrupt)
    return code


if __name__ == "__main__":
    main()
