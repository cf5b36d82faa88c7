"""What a job will do, as a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from rich.console import Group, RenderableType
from rich.text import Text

from clray import files
from clray.cli.job_settings import (
    chosen_on,
    component_text,
    counted,
    is_oracle,
    num_orders,
    settings,
)
from clray.cli.job_state import STAGES
from clray.events import Stage
from clray.job import Entry, JobSpec
from clray.report.naming import benchmark_title
from clray.report.numbers import count, knob, knobs
from clray.report.tables import indented, plain_table, ruled_table
from clray.selection import FirstK, Gtep, Selection, TwoStage
from clray.space import Dimension, SearchSpace
from clray.spec import Component

STAGE_NAMES: dict[Stage, str] = {
    "first stage": "first-stage trials",
    "search": "search trials",
    "test": "test runs",
    "transfer": "transfer trials",
    "parts": "tasks learned apart",
}

_Spaces = list[tuple[SearchSpace, list[str]]]


@dataclass(frozen=True)
class PlannedBoard:
    """One benchmark under one selection protocol.

    Attributes:
        name: of the board; "" for a single one.
        benchmark: its title.
        selection: how hyperparameters are chosen.
        num_tasks: length of the stream.
        planned: trials by entry and stage, the most there can be.
        spaces: what is searched, by entry.
        task_trainings: learned in all, if no trial stops early; none: estimated here.
    """

    name: str
    benchmark: str
    selection: Selection
    num_tasks: int
    planned: Mapping[tuple[str, Stage], int] = field(default_factory=dict)
    spaces: Mapping[str, SearchSpace] = field(default_factory=dict)
    task_trainings: int | None = None


def plan_page(job: JobSpec, boards: Sequence[PlannedBoard]) -> RenderableType:
    """Settings, boards, entries with their trials, and spaces with their bounds.

    Args:
        job: as planned, or as a file has it.
        boards: of a planned job; none for one that is only shown.
    """
    if boards:
        spaces = {label: _spaces_of(label, boards) for label in job.methods}
        planned = _totals(boards)
    else:
        spaces = {label: [(space_of(label, e), [""])] for label, e in job.methods.items()}
        planned = _asked_for(job, spaces)
    parts: list[RenderableType] = [_heading(job, boards), Text(), indented(settings(job))]
    if boards:
        shown = _board(job, boards[0]) if len(boards) == 1 else _boards(job, boards)
        parts += [Text(), indented(shown)]
    parts += [Text(), indented(_entries(job, planned, spaces))]
    for label in job.methods:
        parts += _space_parts(label, spaces[label])
    return Group(*parts, Text())


def task_trainings(job: JobSpec, board: PlannedBoard) -> int:
    """About how many tasks are learned on a board, if no trial stops early."""
    if board.task_trainings is not None:
        return board.task_trainings
    search = job.search.seeds * num_orders(job.search.orders)
    learned: dict[Stage, int] = {
        "first stage": board.selection.k if isinstance(board.selection, TwoStage) else 1,
        "search": search * _searched_tasks(board.selection, board.num_tasks),
        "test": _reported_tasks(board.selection, board.num_tasks),
        "transfer": search * _reported_tasks(board.selection, board.num_tasks),
        "parts": 1,
    }
    put_together = {label for label, stage in board.planned if stage == "parts"}
    return sum(
        trials * learned[stage]
        for (label, stage), trials in board.planned.items()
        if stage != "test" or label not in put_together
    )


def space_of(label: str, entry: Entry) -> SearchSpace:
    """The search space that a job's file means: written out, by name, or the one named like the
    entry.

    Raises:
        BadInput: it is named, and there is none or it is not acceptable.
    """
    if isinstance(entry.space, SearchSpace):
        return entry.space
    if entry.space is None and label not in files.space_names():
        return SearchSpace()
    return files.load_space(entry.space or label)


def describe(dimension: Dimension) -> str:
    """A dimension's values, for a person."""
    if dimension.choice is not None:
        return " | ".join(knob(value) for value in dimension.choice)
    if dimension.range is None:
        return f"{knob(dimension.fixed)}, fixed"
    low, high = dimension.range
    text = f"{low:g} to {high:g}"
    text += ", logarithmic" if dimension.log else ""
    return text + (f", in steps of {dimension.step:g}" if dimension.step is not None else "")


def dimension_rows(space: SearchSpace) -> RenderableType:
    """A row for each dimension, and one for each starting point."""
    table = plain_table(2)
    for path, dimension in space.dimensions.items():
        table.add_row(path, describe(dimension))
    for point in space.starting_points:
        table.add_row(Text("tried first", style="dim"), Text(knobs(point), style="dim"))
    if not table.row_count:
        return Text("nothing is searched", style="dim")
    return table


def _heading(job: JobSpec, boards: Sequence[PlannedBoard]) -> Text:
    arenas = [arena.benchmark for arena in job.benchmarks.values()]
    titles = [benchmark_title(one.model_dump()) for one in [*arenas, job.benchmark] if one]
    line = Text.assemble((job.name, "bold"), f"  {' and '.join(titles)} with {job.model.name}")
    return line.append(f", {len(boards)} boards" if len(boards) > 1 else "")


def _board(job: JobSpec, board: PlannedBoard) -> RenderableType:
    """What is run on a single board, in numbers."""
    told = [
        f"{trials} {STAGE_NAMES[stage]}" for stage, trials in _sums(board.planned).items() if trials
    ]
    told.append(f"about {count(task_trainings(job, board))} task trainings")
    stream = f"{board.benchmark}, {counted(board.num_tasks, 'task')}: {', '.join(told)}"
    return Group(Text(stream), chosen_on(board.selection))


def _boards(job: JobSpec, boards: Sequence[PlannedBoard]) -> RenderableType:
    """A row for each of several, in the order in which they run."""
    sums = [_sums(board.planned) for board in boards]
    stages = [stage for stage in STAGES if any(each[stage] for each in sums)]
    table = ruled_table("board", "tasks", *stages, "trainings")
    for board, each in zip(boards, sums, strict=True):
        name = Text(board.name)
        if is_oracle(board.selection):
            name.append(", chosen on test", style="bold red")
        numbers = [str(each[stage]) for stage in stages]
        about = count(task_trainings(job, board))
        table.add_row(name, str(board.num_tasks), *numbers, f"~ {about}")
    return table


def _sums(planned: Mapping[tuple[str, Stage], int]) -> dict[Stage, int]:
    return {stage: sum(n for (_, s), n in planned.items() if s == stage) for stage in STAGES}


def _entries(
    job: JobSpec, planned: Mapping[tuple[str, Stage], int], spaces: Mapping[str, _Spaces]
) -> RenderableType:
    """Each entry with its method, and its trials over all boards."""
    stages = [stage for stage in STAGES if any(key[1] == stage for key in planned)]
    table = ruled_table("entry", "method", *(STAGE_NAMES[stage] for stage in stages))
    table.columns[0].no_wrap = True
    table.columns[1].justify, table.columns[1].no_wrap = "left", False
    for label, entry in job.methods.items():
        own = [planned.get((label, stage), 0) for stage in stages]
        table.add_row(label, _method(label, entry, spaces[label]), *map(str, own))
    table.add_section()
    sums = _sums(planned)
    table.add_row("in all", "", *(str(sums[stage]) for stage in stages), style="dim")
    return table


def _method(label: str, entry: Entry, spaces: _Spaces) -> str:
    """The method, those of its knobs that are not searched, and what is the entry's own."""
    method = entry.method or Component(name=label.partition(".")[0])
    searched = {path for space, _ in spaces for path in space.dimensions}
    held = {k: v for k, v in method.knobs.items() if f"method.{k}" not in searched}
    text = component_text(Component(name=method.name, **held))
    text += f"; with {component_text(entry.model)}" if entry.model else ""
    text += f"; on {', '.join(entry.benchmarks)}" if entry.benchmarks else ""
    return f"{text}  (bound)" if entry.bound else text


def _totals(boards: Sequence[PlannedBoard]) -> dict[tuple[str, Stage], int]:
    totals: dict[tuple[str, Stage], int] = {}
    for board in boards:
        for key, trials in board.planned.items():
            totals[key] = totals.get(key, 0) + trials
    return totals


def _asked_for(job: JobSpec, spaces: Mapping[str, _Spaces]) -> dict[tuple[str, Stage], int]:
    """The trials on one board, as a job's file has them: one where nothing is searched."""
    asked: dict[tuple[str, Stage], int] = {}
    for label, entry in job.methods.items():
        searched = any(space.searched for space, _ in spaces[label])
        asked[label, "search"] = (entry.trials or job.search.trials) if searched else 1
        asked[label, "test"] = job.final.seeds * num_orders(job.final.orders)
    return asked


def _spaces_of(label: str, boards: Sequence[PlannedBoard]) -> _Spaces:
    """An entry's spaces that differ, each with the boards that it is searched on."""
    found: _Spaces = []
    for board in boards:
        if label not in board.spaces:
            continue
        space = board.spaces[label]
        same = next((names for known, names in found if known == space), None)
        if same is None:
            found.append((space, [board.name]))
        else:
            same.append(board.name)
    return found


def _space_parts(label: str, spaces: _Spaces) -> list[RenderableType]:
    parts: list[RenderableType] = []
    for space, names in spaces:
        where = f"  on {', '.join(names)}" if len(spaces) > 1 else ""
        head = Text.assemble((label, "bold"), (where, "dim"))
        parts += [Text(), indented(head), indented(dimension_rows(space))]
    return parts


def _searched_tasks(selection: Selection, num_tasks: int) -> int:
    """Tasks that one run of a trial of the search learns."""
    inner = selection.then if isinstance(selection, TwoStage) else selection
    if inner.dynamic:
        return 1
    if isinstance(inner, FirstK):
        return min(inner.k, num_tasks)
    if isinstance(inner, Gtep) and inner.tune_on == "first-half":
        return num_tasks // 2
    return num_tasks


def _reported_tasks(selection: Selection, num_tasks: int) -> int:
    """Tasks that one test run learns."""
    inner = selection.then if isinstance(selection, TwoStage) else selection
    if isinstance(inner, FirstK) and not inner.reuse:
        return max(0, num_tasks - inner.k)
    if isinstance(inner, Gtep) and inner.tune_on == "first-half":
        return num_tasks - num_tasks // 2
    return num_tasks
