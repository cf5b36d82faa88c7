"""What a job will do, as a page."""

from __future__ import annotations

from typing import Any

from pydantic import ByteSize
from rich.console import Group, RenderableType
from rich.text import Text

from clray import files
from clray.registry import find
from clray.report.naming import benchmark_title
from clray.report.numbers import knob, knobs, memory, words
from clray.report.tables import indented, plain_table, ruled_table
from clray.spec import Component, Dimension, Entry, JobSpec, SearchSpace


def plan_page(job: JobSpec) -> RenderableType:
    """Entries, spaces with their bounds, trials, test runs and slots."""
    spaces = {label: space_of(label, entry) for label, entry in job.methods.items()}
    title = benchmark_title(job.benchmark.model_dump())
    return Group(
        Text.assemble((job.name, "bold"), f"  {title} with {job.model.name}"),
        Text(),
        indented(_settings(job)),
        Text(),
        indented(_entries(job, spaces)),
        *_spaces(spaces),
    )


def space_of(label: str, entry: Entry) -> SearchSpace:
    """The entry's search space: written out, by name, or the one named like the entry.

    Raises:
        BadInput: it is named, and there is none or it is not acceptable.
    """
    if isinstance(entry.space, SearchSpace):
        return entry.space
    if entry.space is None and label not in files.space_names():
        return SearchSpace()
    return files.load_space(entry.space or label)


def num_trials(job: JobSpec, entry: Entry, space: SearchSpace) -> int:
    """Trials of an entry's search: one where nothing is searched."""
    return (entry.trials or job.search.trials) if space.searched else 1


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


def _settings(job: JobSpec) -> RenderableType:
    table = plain_table(2)
    table.add_row("benchmark", _component(job.benchmark))
    if job.benchmark.name == "stored":
        table.add_row("reading", _reading(job))
    table.add_row("model", _component(job.model))
    table.add_row("protocol", _listed(job.protocol.model_dump(exclude={"selection"})))
    table.add_row("optimizer", _listed(job.optimizer.model_dump(exclude_none=True)))
    search = job.search
    chosen = f"{search.sampler}, seed {search.seed}, maximises {words(search.objective)} on"
    chosen += " validation examples"
    chosen += ", deterministic" if search.deterministic else ", timing may change it"
    if search.scheduler is not None:
        chosen += f", {search.scheduler.name} stops trials early"
    table.add_row("search", chosen)
    plural = "s" * (job.final.seeds != 1)
    table.add_row("test", f"{job.final.seeds} fresh seed{plural} for each entry's choice")
    table.add_row("slots", _slots(job))
    return table


def _slots(job: JobSpec) -> str:
    held = job.resources
    workers = f"{held.workers} worker" + "s" * (held.workers != 1)
    each = f"{held.cpus_per_worker:g} CPU"
    each += f" and {held.gpus_per_worker:g} GPU" if held.gpus_per_worker else ""
    return f"{held.slots} at once, each {workers} with {each}"


def _reading(job: JobSpec) -> str:
    held = job.resources
    chosen = f"{held.reading}, the first way that fits" if held.reading == "auto" else held.reading
    return f"{chosen}; each worker keeps {memory(held.memory)} at most"


def _entries(job: JobSpec, spaces: dict[str, SearchSpace]) -> RenderableType:
    table = ruled_table("entry", "method", "search trials", "test runs")
    table.columns[0].no_wrap = True
    table.columns[1].justify, table.columns[1].no_wrap = "left", False
    searched = tested = 0
    for label, entry in job.methods.items():
        method = _method(label, entry, spaces[label])
        trials = num_trials(job, entry, spaces[label])
        table.add_row(label, method, str(trials), str(job.final.seeds))
        searched, tested = searched + trials, tested + job.final.seeds
    table.add_section()
    table.add_row("in all", "", str(searched), str(tested), style="dim")
    return table


def _method(label: str, entry: Entry, space: SearchSpace) -> str:
    """The method, and those of its knobs that are not searched."""
    method = entry.method or Component(name=label.partition(".")[0])
    held = {k: v for k, v in method.knobs.items() if f"method.{k}" not in space.dimensions}
    text = _component(Component(name=method.name, **held))
    return f"{text}  (bound)" if entry.bound else text


def _spaces(spaces: dict[str, SearchSpace]) -> list[RenderableType]:
    parts: list[RenderableType] = []
    for label, space in spaces.items():
        parts += [Text(), indented(Text(label, style="bold")), indented(dimension_rows(space))]
    return [*parts, Text()]


def _component(component: Component) -> str:
    fields = find("benchmark", "stored").config.model_fields if component.name == "stored" else {}
    written = {
        name: memory(value) if name in fields and fields[name].annotation is ByteSize else value
        for name, value in component.knobs.items()
    }
    listed = _listed(written)
    return f"{component.name}, {listed}" if listed else component.name


def _listed(values: dict[str, Any]) -> str:
    return knobs({name: value for name, value in values.items() if value not in (None, [], "", {})})
