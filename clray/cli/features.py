"""``clray data features``: a frozen encoder over a stored stream, once; or a method's coder."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.text import Text

from clray.cli.data_progress import DataProgress
from clray.cli.terminal import Debug, keep_on_interrupt, out
from clray.report.numbers import duration, size

if TYPE_CHECKING:
    from clray.learner import Coder
    from clray.models.classifier import ModelConfig
    from clray.streams.manifest import Manifest


def features(
    context: typer.Context,
    stream: Annotated[
        str,
        typer.Argument(
            metavar="STREAM", help="A stored stream of images or texts; of features, for codes."
        ),
    ],
    to: Annotated[
        str, typer.Option("--to", metavar="URI", help="Where they lie; s3:// and gs:// too.")
    ],
    encoder: Annotated[
        str | None,
        typer.Option(
            "--encoder",
            metavar="NAME",
            help="Such as timm/resnet18; of texts text_cnn.",
            show_default=False,
        ),
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(
            "--method",
            metavar="NAME",
            help="In place of an encoder: whose codes of features are stored, such as dkvb.",
            show_default=False,
        ),
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="KEY=VALUE",
            help="Knobs of the encoder or method: mean=[0.5,0.5,0.5], encoder=FOLDER, pairs=256",
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
    benchmark: {stream: URI}. With --method, what a method makes of each example's features before
    it learns is stored, and read by its trials with the same knobs. What is stored already is not
    computed again.
    """
    keep_on_interrupt(context)

    from clray.errors import BadSpec
    from clray.streams.features import compute

    console = out()
    start = time.monotonic()
    if (encoder is None) == (method is None):
        accepted = "one of --encoder (of images or texts) and --method (of features)"
        raise BadSpec("--encoder", "both" if encoder is not None else "none", accepted)
    if method is not None:
        plain = {"--weights": (weights, "pretrained"), "--image-size": (image_size, None)}
        for option, (value, unset) in {**plain, "--dtype": (dtype, "float32")}.items():
            if value != unset:
                raise BadSpec(option, value, "nothing, with --method: codes are made of features")
        coder = _coder(method, stream, overrides or [])
        with DataProgress(console, f"coding with {method}") as progress:
            found = compute(stream, method, coder, to, "int16", progress.watch)
    else:
        assert encoder is not None
        config = _encoder(encoder, weights, image_size, overrides or [])
        with DataProgress(console, f"encoding with {encoder}") as progress:
            found = compute(stream, encoder, config, to, dtype, progress.watch)
    manifest, was_stored = found
    seconds = time.monotonic() - start
    num_bytes = sum(shard.bytes for task in manifest.tasks for shard in task.shards())
    console.print(f"{_described(manifest)}, {size(num_bytes)}", soft_wrap=True)
    if was_stored:
        console.print("nothing was done: they were there already")
    else:
        console.print(f"in {duration(seconds)}, the start of Ray included")
    what = "codes" if manifest.is_coded else "features"
    console.print(Text(f"{what} in {to}", style="dim", overflow="fold"))


def _encoder(name: str, weights: str, image_size: int | None, overrides: list[str]) -> ModelConfig:
    """The model whose encoder, or lower network, is run, frozen."""
    from clray import registry
    from clray.errors import BadSpec
    from clray.parsing import parse_overrides
    from clray.spec import Component

    found = registry.find("model", name)
    given = parse_overrides(overrides, found.config.model_fields)
    whole = given.get("lower") is None  # else the part before it is what is frozen
    own: dict[str, Any] = {"weights": weights, "image_size": image_size, "frozen": whole}
    if twice := sorted(own.keys() & given):
        option = {"weights": "--weights", "image_size": "--image-size"}.get(twice[0])
        accepted = f"{option} instead" if option else "nothing: the encoder is frozen"
        raise BadSpec("override", twice[0], accepted)
    for knob, option, unset in (
        ("weights", "--weights", "pretrained"),
        ("image_size", "--image-size", None),
    ):
        if own[knob] != unset and knob not in found.config.model_fields:
            raise BadSpec(option, own[knob], f"nothing: {name} has no such knob")
    knobs = {k: v for k, v in own.items() if k in found.config.model_fields and v is not None}
    config: ModelConfig = registry.configure("model", Component(name=name, **knobs, **given))
    return config


def _coder(name: str, stream: str, overrides: list[str]) -> Coder:
    """What makes the method's codes of the stream's features."""
    from clray import registry
    from clray.errors import BadSpec
    from clray.parsing import parse_overrides
    from clray.spec import Component
    from clray.streams.manifest import read_manifest

    found = registry.find("method", name)
    given = parse_overrides(overrides, found.config.model_fields)
    computed_by = read_manifest(stream, "stream").encoder
    config = registry.configure("method", Component(name=name, **given))
    coder = found.learner.coder(config.pinned(computed_by["key"] if computed_by else None))
    if coder is None:
        having = [
            one
            for one in registry.names("method")
            for plain in [registry.configure("method", Component(name=one))]
            if registry.find("method", one).learner.coder(plain) is not None
        ]
        raise BadSpec("--method", name, f"a method that makes codes: {', '.join(having)}")
    coder.check("")
    return coder


def _described(manifest: Manifest) -> str:
    rows = manifest.num_rows()
    width, length, _ = manifest.shape
    if manifest.is_coded:
        return f"{rows:,} rows of {width} codes"
    of = f"{width} features" if length == 1 else f"{length} states of {width} features"
    return f"{rows:,} rows of {of} in {manifest.dtype}"
