"""The tasks of a stored stream as a table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from rich.console import Group, RenderableType
from rich.text import Text

from clray.report.numbers import evenly, size
from clray.report.tables import INDENT, indented, ruled_table
from clray.streams.manifest import SPLITS, Manifest, SplitName, StoredTask

SHOWN = 20
"""At most so many tasks are shown; of longer streams, so many spread evenly."""

_GAP = 2
_NAME, _CLASS_NAMES = 12, 24


@dataclass(frozen=True)
class _Column:
    """A column of numbers: its head, its text for a task, and its text for all of them."""

    head: str
    cell: Callable[[StoredTask], str]
    total: str

    def width(self, tasks: list[StoredTask]) -> int:
        return max(len(self.head), len(self.total), *(len(self.cell(task)) for task in tasks))


def task_table(manifest: Manifest, width: int) -> RenderableType:
    """Name, examples of each split, classes, files and size of each task, for a terminal that wide.

    Where the columns do not fit, the last ones are left out.
    """
    shown = evenly(len(manifest.tasks), SHOWN)
    tasks = [manifest.tasks[position] for position in shown]
    numbers = max(len("task"), len(str(len(manifest.tasks) - 1)))
    longest = max(len("in all"), *(len(task.name) for task in tasks))
    room = width - INDENT - numbers - _GAP
    columns = _columns(manifest)
    while columns[len(SPLITS) :] and room - _taken(columns, tasks) < min(longest, _NAME):
        columns.pop()
    room -= _taken(columns, tasks)
    named = bool(manifest.class_names) and room - min(longest, 2 * _NAME) - _GAP >= _CLASS_NAMES
    name_width = max(4, min(longest, 2 * _NAME if named else room))
    heads = ["task", "name", *(column.head for column in columns)]
    table = ruled_table(*heads, *["class names"] * named, gap=_GAP)
    table.columns[0].no_wrap = True
    table.columns[1].justify, table.columns[1].max_width = "left", name_width
    if named:
        table.columns[-1].justify = "left"
        table.columns[-1].max_width = room - name_width - _GAP
    for position, task in zip(shown, tasks, strict=True):
        cells = [column.cell(task) for column in columns]
        names = [", ".join(_class_names(manifest, task))] if named else []
        table.add_row(f"{position:03d}", _cut(task.name, name_width), *cells, *names)
    if len(manifest.tasks) > 1:
        table.add_section()
        totals = [column.total for column in columns]
        table.add_row("", "in all", *totals, *[""] * named, style="dim")
    parts: list[RenderableType] = [indented(table)]
    if len(shown) < len(manifest.tasks):
        note = f"{len(shown)} of {len(manifest.tasks)} tasks, evenly spread; --json has all"
        parts.append(indented(Text(note, style="dim")))
    return Group(*parts)


def _columns(manifest: Manifest) -> list[_Column]:
    def rows(split: SplitName) -> Callable[[StoredTask], str]:
        return lambda task: f"{sum(shard.rows for shard in task.shards([split])):,}"

    files = [shard for task in manifest.tasks for shard in task.shards()]
    splits = [_Column(split, rows(split), f"{manifest.num_rows([split]):,}") for split in SPLITS]
    return [
        *splits,
        _Column("classes", lambda task: str(len(task.classes)), f"{manifest.num_classes:,}"),
        _Column(
            "size",
            lambda task: size(sum(shard.bytes for shard in task.shards())),
            size(sum(shard.bytes for shard in files)),
        ),
        _Column("shards", lambda task: f"{len(task.shards()):,}", f"{len(files):,}"),
    ]


def _taken(columns: list[_Column], tasks: list[StoredTask]) -> int:
    return sum(column.width(tasks) + _GAP for column in columns)


def _cut(name: str, width: int) -> str:
    """A name without its middle where it is too long: both ends tell names apart."""
    end = width // 3
    return name if len(name) <= width else f"{name[: width - 1 - end]}…{name[len(name) - end :]}"


def _class_names(manifest: Manifest, task: StoredTask) -> list[str]:
    names = manifest.class_names
    return [names[unit] if unit < len(names) else str(unit) for unit in task.classes]
