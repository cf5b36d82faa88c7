"""One trial as a page: what it was, the accuracy matrix, the metrics and what it cost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from clray.report.continual import SPELT
from clray.report.matrix import SHOWN, matrix_table
from clray.report.naming import benchmark_title
from clray.report.numbers import NONE, count, duration, evenly, fraction, size, words
from clray.report.stored import Trial
from clray.report.tables import indented, plain_table, ruled_table
from clray.report.trial_traces import traces_block

METRICS = (
    "average_accuracy",
    "average_incremental_accuracy",
    "learning_accuracy",
    "minimum_accuracy",
    "worst_case_accuracy",
    "forgetting",
    "backward_transfer",
    "forward_transfer",
)
"""Metrics in the order in which they are shown; others follow."""

COSTS = ("growth", "parameters", "bytes", "steps", "examples_seen", "examples_processed")
"""Measures that stand apart, among what the trial cost."""

WARNING = "warning"
"""The fact in which a method says where it hurts."""

GRADED = {
    "stream": "",
    "seen": " of the tasks seen so far",
    "current": " of the current task",
    "memory": " of the current task and ones held out of the memory",
}
"""Which examples, beside those of the whole stream."""


def trial_page(trial: Trial, width: int) -> RenderableType:
    """The page, for a terminal ``width`` columns wide."""
    return Group(
        *_heading(trial),
        Text(),
        matrix_table(trial.records, width),
        Text(),
        indented(_metrics(trial)),
        Text(),
        *traces_block(trial),
        *_facts(trial),
        indented(_costs(trial)),
        Text(),
        Text(f"records in {trial.path}", style="dim", overflow="fold"),
    )


def _name(trial: Trial, kind: str) -> str:
    component = trial.spec.get(kind, {})
    return str(component.get("name", "")) if isinstance(component, dict) else str(component)


def _heading(trial: Trial) -> list[Text]:
    split = trial.spec.get("split", "validation")
    method, model = (_name(trial, kind) for kind in ("method", "model"))
    benchmark = trial.spec.get("benchmark")
    if not isinstance(benchmark, dict):
        benchmark = {"name": benchmark or ""}
    title = Text.assemble((method, "bold"), " on ", (benchmark_title(benchmark), "bold"))
    if "scenario" in benchmark:
        title.append(f", {benchmark['scenario']},")
    title.append(f" with {model}, seed {trial.spec.get('seed', 0)}")
    graded = f"graded on {split} examples{GRADED.get(str(trial.spec.get('graded', 'stream')), '')}"
    state = Text(f"{trial.state}, {graded}", style="dim")
    if trial.state not in ("completed", "unfinished"):
        state = Text.assemble((trial.state, "red"), (f", {graded}", "dim"))
    if trial.stored:
        state.append("; stored before, nothing was run", style="dim")
    lines = [title, state]
    if isinstance(benchmark.get("stream"), str):
        lines.append(Text(f"stream {benchmark['stream']}", style="dim", overflow="fold"))
    part = _part(trial)
    if part:
        lines.append(Text(part, style="dim", overflow="fold"))
    if trial.error:
        lines.append(Text(trial.error, style="red"))
    return lines


def _part(trial: Trial) -> str:
    """Which tasks were learned, and what changed on the way, where that is not the plain stream."""
    parts = []
    tasks, until, changes = (trial.spec.get(name) for name in ("tasks", "until", "changes"))
    if isinstance(tasks, list):
        parts.append(f"tasks {_places(tasks)} of the benchmark")
    if until is not None:
        parts.append("the first task alone" if until == 1 else f"the first {until} tasks alone")
    starts = [change.get("task") for change in changes or () if isinstance(change, dict)]
    if starts:
        parts.append(f"other hyperparameters from task {_places(starts)} on")
    return "; ".join(parts)


def _places(tasks: Sequence[Any]) -> str:
    """Positions, counted from 1."""
    return ", ".join(str(task + 1) if isinstance(task, int) else str(task) for task in tasks)


def _metrics(trial: Trial) -> RenderableType:
    table = plain_table(2)
    table.columns[1].justify = "right"
    others = [name for name in trial.metrics if name not in (*METRICS, *COSTS, *SPELT)]
    for name in (*METRICS, *others):
        if name in trial.metrics:
            style = "bold" if name == "average_accuracy" else ""
            table.add_row(words(name), fraction(trial.metrics[name], 4), style=style)
    return table if table.row_count else Text("no metrics yet", style="dim")


def _facts(trial: Trial) -> list[RenderableType]:
    """What the method says of how it learned each task, where it says anything in one word."""
    told = [record for record in trial.records if record.facts]
    named = dict.fromkeys(n for r in told for n, v in r.facts.items() if _is_plain(v))
    names = [name for name in named if name != WARNING]
    warnings = _warnings(trial)
    if not names:
        return [*warnings, Text()] if warnings else []
    table = ruled_table("task", *map(words, names))
    for column in table.columns[1:]:
        column.no_wrap = False
    table.columns[0].no_wrap = True
    for place in evenly(len(told), SHOWN):
        cells = [_fact(told[place].facts.get(name)) for name in names]
        table.add_row(str(told[place].task + 1), *cells)
    return [indented(table), *warnings, Text()]


def _warnings(trial: Trial) -> list[RenderableType]:
    """What the method warns of, with the tasks that it says so of."""
    tasks: dict[str, list[int]] = {}
    for record in trial.records:
        if isinstance(warning := record.facts.get(WARNING), str) and warning:
            tasks.setdefault(warning, []).append(record.task)
    return [
        indented(Text(f"task{'s' * (len(some) > 1)} {_places(some)}: {warning}", style="yellow"))
        for warning, some in tasks.items()
    ]


def _is_plain(value: Any) -> bool:
    return isinstance(value, int | float | str)


def _fact(value: Any) -> str:
    if isinstance(value, float):
        return fraction(value)
    return str(value) if _is_plain(value) else NONE


def _costs(trial: Trial) -> RenderableType:
    table = plain_table(2)
    footprints = [record.footprint for record in trial.records if record.footprint]
    if footprints:
        last = footprints[-1]
        table.add_row("parameters", count(last.get("parameters")))
        if trial.metrics.get("growth"):
            table.add_row("growth", fraction(trial.metrics["growth"]))
        table.add_row("examples kept", count(last.get("examples")))
        table.add_row("kept in all", size(last.get("bytes")))
    steps = sum(record.steps for record in trial.records)
    table.add_row("steps", count(steps))
    seen = sum(record.examples_seen for record in trial.records)
    if seen:
        table.add_row("examples seen", count(seen))
    for name, title in (("train", "training"), ("eval", "evaluation")):
        if name in trial.seconds:
            table.add_row(title, duration(trial.seconds[name]))
    if trial.seconds.get("trace") is not None:
        table.add_row("continual evaluation", _of_training(trial.seconds))
    return table


def _of_training(seconds: dict[str, Any]) -> str:
    """How long continual evaluation took, and how much that is of training."""
    train = seconds.get("train")
    share = f" ({100 * seconds['trace'] / train:.0f} % of training)" if train else ""
    return duration(seconds["trace"]) + share
