"""``clray data features``: a frozen encoder over a stored stream, once."""

from __future__ import annotations

import time
from typing import Annotated, Literal

import typer
from rich.text import Text

from clray.cli.data_progress import DataProgress
from clray.cli.terminal import Debug, keep_on_interrupt, out
from clray.report.numbers import duration, size


def features(
    context: typer.Context,
    stream: Annotated[
        str, typer.Argument(metavar="STREAM", help="A stored stream of images or texts.")
    ],
    encoder: Annotated[
        str,
        typer.Option("--encoder", metavar="NAME", help="Such as timm/resnet18; of texts text_cnn."),
    ],
    to: Annotated[
        str, typer.Option("--to", metavar="URI", help="Where they lie; s3:// and gs:// too.")
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="KEY=VALUE",
            help="Other knobs of the encoder: mean=[0.5,0.5,0.5], or encoder=FOLDER of text_cnn",
            show_default=False,
        ),
    ] = None,
    weights: Annotated[
        str,
        typer.Option(
            "--weights", metavar="FILE|TAG", help="A .safetensors file, or a tag of timm's."
        ),
    ] = "pretrained",
    image_size: Annotated[
        int | None,
        typer.Option(
            "--image-size",
            metavar="PIXELS",
            help="Side that images are resized to; as stored without it.",
            show_default=False,
        ),
    ] = None,
    dtype: Annotated[
        Literal["float32", "float16"],
        typer.Option("--dtype", help="Of what is stored; float16 takes half the space."),
    ] = "float32",
    debug: Debug = False,
) -> None:
    """Run a frozen encoder over a stored stream once, and store the features as a stream.

    Trials whose model is that encoder, frozen, then read them by themselves; others name them with
    benchmark: {stream: URI}. What is stored already is not computed again.
    """
    keep_on_interrupt(context)

    from clray import registry
    from clray.errors import BadSpec
    from clray.parsing import parse_overrides
    from clray.spec import Component

    found = registry.find("model", encoder)
    given = parse_overrides(overrides or [], found.config.model_fields)
    own = {"weights": weights, "image_size": image_size, "frozen": True}
    if twice := sorted(own.keys() & given):
        option = {"weights": "--weights", "image_size": "--image-size"}.get(twice[0])
        accepted = f"{option} instead" if option else "nothing: the encoder is frozen"
        raise BadSpec("override", twice[0], accepted)
    for knob, option, unset in (
        ("weights", "--weights", "pretrained"),
        ("image_size", "--image-size", None),
    ):
        if own[knob] != unset and knob not in found.config.model_fields:
            raise BadSpec(option, own[knob], f"nothing: {encoder} has no such knob")
    knobs = {k: v for k, v in own.items() if k in found.config.model_fields and v is not None}
    config = registry.configure("model", Component(name=encoder, **knobs, **given))

    from clray.streams.features import compute

    console = out()
    start = time.monotonic()
    with DataProgress(console, f"encoding with {encoder}") as progress:
        manifest, was_stored = compute(stream, encoder, config, to, dtype, progress.watch)
    seconds = time.monotonic() - start
    rows = manifest.num_rows()
    width, length, _ = manifest.shape
    of = f"{width} features" if length == 1 else f"{length} states of {width} features"
    what = f"{rows:,} rows of {of} in {manifest.dtype}"
    num_bytes = sum(shard.bytes for task in manifest.tasks for shard in task.shards())
    console.print(f"{what}, {size(num_bytes)}", soft_wrap=True)
    if was_stored:
        console.print("nothing was done: they were there already")
    else:
        console.print(f"in {duration(seconds)}, the start of Ray included")
    console.print(Text(f"features in {to}", style="dim", overflow="fold"))
