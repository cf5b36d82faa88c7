"""A stored stream as a page, from its manifest alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import yaml
from rich.console import Group, RenderableType
from rich.text import Text

from clray.cli.task_table import task_table
from clray.report.naming import stream_name
from clray.report.numbers import count, duration, knobs, memory, size
from clray.report.tables import indented, plain_table
from clray.spec import PIN, Resources
from clray.store import Folder
from clray.streams import reading
from clray.streams.manifest import SPLITS, Manifest

_FILES_NAMED = 3


def stream_page(stream: str, manifest: Manifest, width: int) -> RenderableType:
    """What it holds, what it was made from and how it is read, for a terminal that wide."""
    encoder = "" if manifest.encoder is None else _flat(manifest.encoder)
    about = {
        "address": address(stream),
        "holds": f"{manifest.num_rows():,} examples of {_example(manifest)}",
        "size": _size(manifest),
        "made from": _flat(manifest.source),
        "encoder": encoder,
        "bad rows": _skipped(manifest),
        "hash": manifest.hash,
        "built by": f"clray {manifest.version}",
        "is read": _reading(manifest),
    }
    return Group(
        _title(stream, manifest), Text(), _lines(about), Text(), task_table(manifest, width)
    )


def built_page(to: str, manifest: Manifest, was_stored: bool, seconds: float) -> RenderableType:
    """What a build came to, and how a job names it."""
    rate = count(manifest.num_rows() / max(seconds, 1e-9))
    about = {
        "address": address(to),
        "holds": ", ".join(f"{manifest.num_rows([split]):,} {split}" for split in SPLITS),
        "size": _size(manifest),
        "bad rows": _skipped(manifest) or "none",
        "hash": manifest.hash,
        "took": f"{duration(seconds)}, {rate} rows/s",
    }
    if was_stored:
        about["took"] = "nothing was done: it was there already"
    line = yaml.safe_dump({"stream": address(to)}, default_flow_style=True, width=10**6)
    return Group(
        _title(to, manifest),
        Text(),
        _lines(about),
        Text("\nin a job:", style="dim"),
        indented(Text(f"benchmark: {line.strip()}", overflow="fold")),
    )


def facts(stream: str, manifest: Manifest) -> dict[str, Any]:
    """What the manifest says, for JSON; files are counted, not listed."""
    about = manifest.model_dump(mode="json", exclude={"tasks"})
    tasks = [
        {
            "name": task.name,
            "classes": list(task.classes),
            "examples": {s: sum(shard.rows for shard in task.shards([s])) for s in SPLITS},
            "shards": len(task.shards()),
            "bytes": sum(shard.bytes for shard in task.shards()),
        }
        for task in manifest.tasks
    ]
    reads = reading.choose(manifest, Resources(), torch.device("cpu"))
    return {
        "address": address(stream),
        "hash": manifest.hash,
        **about,
        "examples": {split: manifest.num_rows([split]) for split in SPLITS},
        "shards": sum(len(task.shards()) for task in manifest.tasks),
        "bytes": _num_bytes(manifest),
        "reading": reads,
        "tasks": tasks,
    }


def address(stream: str) -> str:
    """The address in full, without the hash that it may be pinned to."""
    return Folder(stream.partition(PIN)[0], "stream").uri


def _title(stream: str, manifest: Manifest) -> Text:
    tasks = f"{len(manifest.tasks)} task" + "s" * (len(manifest.tasks) != 1)
    about = f"  {tasks}, {manifest.scenario}, {manifest.num_classes:,} classes"
    return Text.assemble((stream_name(stream), "bold"), about)


def _lines(about: Mapping[str, str]) -> RenderableType:
    table = plain_table(2)
    table.columns[0].no_wrap = True
    for name, text in about.items():
        if text:
            table.add_row(Text(name, style="dim"), Text(text, overflow="fold"))
    return indented(table)


def _example(manifest: Manifest) -> str:
    channels, height, width = manifest.shape
    if manifest.is_text:
        return f"{height} tokens"
    if manifest.dtype == "uint8":
        return f"{channels} x {height} x {width}, {manifest.dtype}"
    if height * width == 1:
        what = "codes" if manifest.is_coded else "features"
        return f"{channels} {what}, {manifest.dtype}"
    return f"{height * width} states of {channels} features, {manifest.dtype}"


def _size(manifest: Manifest) -> str:
    files = sum(len(task.shards()) for task in manifest.tasks)
    return f"{size(_num_bytes(manifest))} in {files:,} shard" + "s" * (files != 1)


def _num_bytes(manifest: Manifest) -> int:
    return sum(shard.bytes for task in manifest.tasks for shard in task.shards())


def _skipped(manifest: Manifest) -> str:
    if not manifest.skipped:
        return ""
    files = list(manifest.skipped.items())
    named = ", ".join(f"{number:,} of {file}" for file, number in files[:_FILES_NAMED])
    more = len(files) - _FILES_NAMED
    named += f" and {more:,} more file" + "s" * (more != 1) if more > 0 else ""
    return f"{sum(manifest.skipped.values()):,} left out: {named}"


def _flat(source: Mapping[str, Any]) -> str:
    """Names, and the values that were given to them."""
    parts = []
    for key, value in source.items():
        if isinstance(value, Mapping):
            inner = dict(value)
            name = str(inner.pop("name", ""))
            parts += [part for part in (name, _flat(inner)) if part]
        elif value not in (None, "", [], {}):
            parts.append(knobs({key: value}))
    return ", ".join(parts)


def _reading(manifest: Manifest) -> str:
    """By a trial on the CPU whose resources are the default ones."""
    resources = Resources()
    room = f"resources.memory, {memory(int(resources.memory))}"
    if reading.choose(manifest, resources, torch.device("cpu")) == "device":
        return f"whole, on the device: it fits in {room}"
    return (
        f"from the machine's shared memory where half of Ray's object store holds it, else"
        f" streamed: it exceeds {room}"
    )
