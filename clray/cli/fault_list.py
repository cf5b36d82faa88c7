"""What ``clray data check`` found."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import RenderableType
from rich.text import Text

from clray.report.numbers import duration, size
from clray.report.tables import INDENT, indented, ruled_table
from clray.streams.checking import Fault

_GAP = 2


def fault_list(faults: Sequence[Fault], width: int) -> RenderableType:
    """A row for each file that is not as expected; a file's name goes below its folder's where the
    terminal is too narrow."""
    found = max(len("found"), *(len(fault.found) for fault in faults))
    expected = max(len("expected"), *(len(fault.expected) for fault in faults))
    room = width - INDENT - found - expected - 2 * _GAP
    narrow = room < max(len(fault.path) for fault in faults)
    table = ruled_table("file", "found", "expected", gap=_GAP)
    for column in table.columns[1:]:
        column.justify, column.no_wrap = "left", False
    table.columns[0].overflow = "fold"
    for fault in faults:
        path = fault.path.replace("/", "/\n") if narrow else fault.path
        table.add_row(path, fault.found, fault.expected)
    return indented(table)


def sound_line(name: str, files: int, num_bytes: int, seconds: float) -> RenderableType:
    """That all is as the manifest says, and how fast it was read."""
    shards = f"{files:,} shard" + "s" * (files != 1)
    rate = size(num_bytes / max(seconds, 1e-9))
    speed = f"  ({duration(seconds)}, {rate}/s)"
    text = f"  {shards}, {size(num_bytes)}: all as the manifest says"
    return Text.assemble((name, "bold"), text, (speed, "dim"))
