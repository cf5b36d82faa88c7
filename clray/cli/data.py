"""``clray data``: streams that are cut into tasks once, stored, and read shard by shard."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.text import Text

from clray.cli.completion import complete_benchmark
from clray.cli.data_progress import DataProgress
from clray.cli.features import features
from clray.cli.terminal import Debug, keep_on_interrupt, out

if TYPE_CHECKING:
    from clray.streams.manifest import Manifest

data = typer.Typer(
    help="Build, show and check stored streams, and their features.", rich_markup_mode=None
)

_TASKS_DRAWN = 100
"""At most so many tasks are drawn; of longer streams, so many spread evenly."""

Address = Annotated[
    str, typer.Argument(metavar="STREAM", help="A stored stream: a folder, s3://… or gs://…")
]


@data.callback(invoke_without_command=True)
def _help(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@data.command("build")
def build(
    context: typer.Context,
    benchmark: Annotated[
        str,
        typer.Argument(
            metavar="BENCHMARK", autocompletion=complete_benchmark, help="Such as split-cifar10."
        ),
    ],
    to: Annotated[
        str,
        typer.Option(
            "--to", metavar="ADDRESS", help="Where it will lie: a folder, s3://… or gs://…"
        ),
    ],
    knobs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="KEY=VALUE",
            help="Knobs of the benchmark: num_tasks=5 class_order=3",
            show_default=False,
        ),
    ] = None,
    seed: Annotated[int, typer.Option(metavar="N", help="Of all draws.")] = 0,
    validation_fraction: Annotated[
        float,
        typer.Option(metavar="SHARE", help="Of the training examples, that is held out."),
    ] = 0.1,
    on_bad_row: Annotated[
        Literal["error", "skip"],
        typer.Option(help="Whether a bad row stops the build, or is left out and counted."),
    ] = "error",
    debug: Debug = False,
) -> None:
    """Cut a benchmark into tasks and store it.

    A build that was interrupted goes on where it stopped; a finished one is not done again.
    """
    keep_on_interrupt(context)

    from clray.cli.data_arguments import benchmark_to_build, check_build

    config = benchmark_to_build(benchmark, knobs or [])
    check_build(to, seed, validation_fraction)

    from clray.cli.stream_page import built_page
    from clray.streams import building

    console = out()
    with DataProgress(console, f"building {benchmark}") as progress:
        built = building.build(
            config,
            benchmark,
            to,
            seed=seed,
            validation_fraction=validation_fraction,
            on_bad_row=on_bad_row,
            watch=progress.watch,
        )
    console.print(built_page(to, built.manifest, built.was_stored, built.seconds))


@data.command("show")
def show(
    stream: Address,
    png: Annotated[
        str | None,
        typer.Option(
            metavar="FILE", help="Where the contact sheet goes, if not ./<name of the stream>.png."
        ),
    ] = None,
    no_png: Annotated[bool, typer.Option("--no-png", help="Draw no contact sheet.")] = False,
    seed: Annotated[int, typer.Option(metavar="N", help="Which examples are drawn.")] = 0,
    as_json: Annotated[
        bool, typer.Option("--json", help="All facts as JSON; draws a sheet with --png alone.")
    ] = False,
    debug: Debug = False,
) -> None:
    """Show what a stream holds, and draw examples of each task as PNG."""
    from clray.cli.stream_page import facts, stream_page
    from clray.errors import BadInput
    from clray.report.naming import stream_name
    from clray.streams.manifest import read_manifest

    if png is not None and no_png:
        raise BadInput("--png", png, "either --png or --no-png")
    manifest = read_manifest(stream)
    has_images = manifest.dtype == "uint8" and not manifest.is_text
    is_drawn = not no_png and has_images and (png is not None or not as_json)
    file = Path(png if png is not None else f"{stream_name(stream)}.png")
    if is_drawn:
        from clray.streams import sheet_file

        sheet_file.check_free(file, png is not None, "--png")
    console = out()
    if as_json:
        typer.echo(json.dumps(facts(stream, manifest), indent=1))
    else:
        console.print(stream_page(stream, manifest, console.width))
    if is_drawn:
        said = _draw(stream, manifest, file, seed)
    elif no_png or as_json:
        return
    else:
        what = "codes" if manifest.is_coded else "texts" if manifest.is_text else "features"
        said = f"no contact sheet: these are {what}, not images"
    if not as_json:
        console.print(Text(f"\n{said}", style="dim", overflow="fold"))


def _draw(stream: str, manifest: Manifest, file: Path, seed: int) -> str:
    """Draw the contact sheet into the file, and say so."""
    from clray.report.naming import stream_name
    from clray.report.numbers import evenly
    from clray.streams import sheet_file
    from clray.streams.contact_sheet import contact_sheet

    tasks = evenly(len(manifest.tasks), _TASKS_DRAWN)
    title = f"{stream_name(stream)}, {manifest.scenario}"
    sheet_file.save(contact_sheet(stream, manifest, title, tasks, seed), file, "--png")
    some = f" of {len(tasks)} tasks, evenly spread," if len(tasks) < len(manifest.tasks) else ""
    return f"contact sheet{some} in {file.resolve()}"


@data.command("check")
def check(
    context: typer.Context,
    stream: Address,
    task: Annotated[
        list[int] | None,
        typer.Option(metavar="N", help="This task alone (0 is task=000); may be repeated."),
    ] = None,
    debug: Debug = False,
) -> None:
    """Read every file of a stream and compare it with its checksum."""
    import time

    from clray.cli.fault_list import fault_list, sound_line
    from clray.errors import RunFailed
    from clray.report.naming import stream_name
    from clray.streams import checking
    from clray.streams.manifest import read_manifest

    manifest = read_manifest(stream)
    shards = checking.shards_of(manifest, task or None)
    console, start, name = out(), time.monotonic(), stream_name(stream)
    with DataProgress(console, f"checking {name}") as progress:
        faults = checking.check(stream, manifest, task or None, progress.watch)
    if faults:
        console.print(fault_list(faults, console.width))
        files = "1 file is" if len(faults) == 1 else f"{len(faults):,} files are"
        raise RunFailed(f"{stream}: {files} not as its manifest says, of {len(shards):,}")
    num_bytes = sum(shard.bytes for shard in shards)
    console.print(sound_line(name, len(shards), num_bytes, time.monotonic() - start))


data.command("features")(features)
