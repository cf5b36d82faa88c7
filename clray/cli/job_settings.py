"""What a job says, row by row, for its dry run and for ``clray list``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pydantic import ByteSize
from rich.console import RenderableType
from rich.text import Text

from clray.job import JobSpec, Orders, Scheduler
from clray.objective import Objective
from clray.registry import find
from clray.report.numbers import knobs, memory, words
from clray.report.tables import plain_table
from clray.selection import FirstK, Selection, TwoStage
from clray.spec import Component


def settings(job: JobSpec) -> RenderableType:
    """A row for each part of a job."""
    table = plain_table(2)
    if job.benchmark is not None:
        table.add_row("benchmark", component_text(job.benchmark))
    for label, arena in job.benchmarks.items():
        others = {**arena.protocol, **arena.optimizer}
        text = component_text(arena.benchmark)
        text += f"; with {component_text(arena.model)}" if arena.model else ""
        text += f"; here {_listed(others)}" if others else ""
        table.add_row(f"benchmark {label}", text)
    if any(one.name == "stored" for one in _benchmarks(job)):
        table.add_row("reading", _reading(job))
    if any(arena.model is None for arena in job.benchmarks.values()) or not job.benchmarks:
        table.add_row("model", component_text(job.model))
    replaced = {"epochs"} if job.protocol.updates is not None else set()
    table.add_row("protocol", _listed(job.protocol.model_dump(exclude={"selection", *replaced})))
    for selection in job.protocol.selection:
        table.add_row("selection", _selection(selection))
    table.add_row("optimizer", _listed(job.optimizer.model_dump(exclude_none=True)))
    _search_rows(job, table.add_row)
    table.add_row("test", _final(job))
    for logger in job.loggers:
        table.add_row("logger", component_text(logger))
    table.add_row("slots", _slots(job))
    return table


def _benchmarks(job: JobSpec) -> list[Component]:
    several = [arena.benchmark for arena in job.benchmarks.values()]
    return [*several, job.benchmark] if job.benchmark else several


def _search_rows(job: JobSpec, add: Callable[[str, str], None]) -> None:
    search = job.search
    add("objective", ", ".join(_aim(objective) for objective in search.objective))
    if search.constraints:
        add("constraints", ", ".join(str(one.model_dump()) for one in search.constraints))
    text = f"{search.sampler}, seed {search.seed}"
    text += f", {search.startup} random trials first" * (search.sampler in ("tpe", "gp", "cmaes"))
    ordered = search.deterministic and search.early is None
    add("search", text + (", deterministic" if ordered else ", timing may change it"))
    orders = num_orders(search.orders)
    if search.seeds * orders > 1:
        text = f"{counted(search.seeds, 'seed')} x {counted(orders, 'order')}, averaged"
        add("each trial", text + ", ended after the first where hopeless" * search.stop_hopeless)
    if search.early is not None:
        add("early stops", _scheduler(search.early))
    if search.warm_start:
        add("warm start", f"the trials of {', '.join(search.warm_start)}")


def _aim(objective: Objective) -> str:
    best = "highest" if objective.direction == "maximize" else "lowest"
    return f"{best} {words(objective.metric)}"


def _scheduler(scheduler: Scheduler) -> str:
    if scheduler.by == "task":
        text = f"{scheduler.name} by task, after {scheduler.grace:.0%} of the stream or later"
    else:
        text = f"{scheduler.name} by epoch, from {scheduler.first:.0%} of the epochs on"
    return text + f", 1 in {scheduler.factor:g} goes on" * (scheduler.name == "asha")


def _final(job: JobSpec) -> str:
    text = counted(job.final.seeds, "fresh seed")
    if job.final.orders is not None:
        text += f" x {counted(num_orders(job.final.orders), 'order')}"
        if not isinstance(job.final.orders, int):
            text += f" ({', '.join(map(_order, job.final.orders))})"
    text += " for each entry's choice"
    if len(job.search.objective) > 1:
        text += f", at most {counted(job.final.front, 'point')} of its front"
    return text


def _order(order: str | int | tuple[int, ...]) -> str:
    return f"[{', '.join(map(str, order))}]" if isinstance(order, tuple) else str(order)


def _slots(job: JobSpec) -> str:
    held = job.resources
    each = f"{held.cpus_per_worker:g} CPU"
    each += f" and {held.gpus_per_worker:g} GPU" if held.gpus_per_worker else ""
    return f"{held.slots} at once, each {counted(held.workers, 'worker')} with {each}"


def _reading(job: JobSpec) -> str:
    held = job.resources
    chosen = f"{held.reading}, the first way that fits" if held.reading == "auto" else held.reading
    return f"{chosen}; each worker keeps {memory(held.memory)} at most"


def _selection(selection: Selection) -> Text:
    beside = {"name", "label", "then"}
    own = selection.model_dump(mode="json", exclude=beside, exclude_defaults=True)
    name = str(getattr(selection, "name", ""))
    text = selection.title if selection.title == name else f"{selection.title} ({name})"
    if isinstance(selection, TwoStage):
        text += f", then {selection.then.title}"
    text += f", {_listed(own)}" if own else ""
    return Text.assemble(f"{text}: ", chosen_on(selection))


def is_oracle(selection: Selection) -> bool:
    """Whether the choice looks at the test set."""
    inner = selection.then if isinstance(selection, TwoStage) else selection
    return inner.chosen_on == "test"


def chosen_on(selection: Selection) -> Text:
    """What the choice looks at; loud where it is the test set."""
    inner = selection.then if isinstance(selection, TwoStage) else selection
    text = Text()
    if is_oracle(selection):
        text.append("chosen on test", style="bold red")
    elif isinstance(inner, FirstK) and inner.reuse:
        text.append(f"chosen on {inner.chosen_on}, ")
        text.append("which are reported again: a leak", style="yellow")
    else:
        text.append(f"chosen on {inner.chosen_on}")
    if isinstance(selection, TwoStage):
        first = "the first task" if selection.k == 1 else f"the first {selection.k} tasks"
        by = selection.method.name if selection.method else "fine-tuning"
        text.append(f"; training knobs by {by}, on {first}")
    return text


def num_orders(orders: Orders) -> int:
    """How many task orders a field of a job means."""
    return orders if isinstance(orders, int) else len(orders or (None,))


def counted(number: int, noun: str) -> str:
    """``1 task``, ``2 tasks``."""
    return f"{number} {noun}" + "s" * (number != 1)


def component_text(component: Component) -> str:
    """A component's name, and its knobs."""
    fields = find("benchmark", "stored").config.model_fields if component.name == "stored" else {}
    written = {
        name: memory(value) if name in fields and fields[name].annotation is ByteSize else value
        for name, value in component.knobs.items()
    }
    listed = _listed(written)
    return f"{component.name}, {listed}" if listed else component.name


def _listed(values: dict[str, Any]) -> str:
    return knobs({name: value for name, value in values.items() if value not in (None, [], "", {})})
