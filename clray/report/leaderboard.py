"""The leaderboard of a job: ranked methods, bounds apart, failures with their reasons."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from clray.report.naming import benchmark_title
from clray.report.numbers import NONE, count, duration, estimate, fraction, knobs, words
from clray.report.reading import Final, Job, Row
from clray.report.tables import indented, plain_table, ruled_table

WIDE = 112
"""From so many columns on, the chosen hyperparameters stand in the table, else below it."""

ROOMY = 96
"""A third metric leaves room for the size of models and memories from so many columns on."""


def ranked(final: Final) -> list[Row]:
    """The rows that are ranked, best first: neither bounds nor failures."""
    rows = [row for row in final.rows if not row.bound and _score(final, row) is not None]
    return sorted(rows, key=lambda row: -(_score(final, row) or 0.0))


def bounds(final: Final) -> list[Row]:
    """The bounds that have a result, best first."""
    rows = [row for row in final.rows if row.bound and _score(final, row) is not None]
    return sorted(rows, key=lambda row: -(_score(final, row) or 0.0))


def failures(final: Final) -> list[Row]:
    """The rows without a result, or whose test runs did not all complete: a mean over those that
    did would flatter them."""
    return [row for row in final.rows if _score(final, row) is None]


def leaderboard(final: Final, width: int) -> RenderableType:
    """The whole leaderboard, for a terminal ``width`` columns wide."""
    shown = [*ranked(final), *bounds(final)]
    parts: list[RenderableType] = [_title(final), Text()]
    if shown:
        parts.append(indented(_table(final, width)))
    if shown and width < WIDE and any(row.values for row in shown):
        parts += [Text(), indented(_chosen(shown))]
    parts += _failed(final)
    parts += [Text(), *(indented(line) for line in _protocol(final))]
    return Group(*parts)


def job_page(job: Job, width: int) -> RenderableType:
    """A job's leaderboard, or how far it is while it is not finished."""
    if job.final is not None:
        return leaderboard(job.final, width)
    title = Text.assemble((job.name, "bold"), ("  not finished", "yellow"))
    table = ruled_table("method", "search trials", "completed", "best so far")
    labels = list(job.spec.methods) if job.spec else sorted({line.label for line in job.trials})
    for label in labels:
        lines = [line for line in job.trials if line.label == label]
        values = [line.value for line in lines if line.value is not None]
        completed = sum(line.state == "completed" for line in lines)
        best = fraction(max(values)) if values else NONE
        table.add_row(label, str(len(lines)), str(completed), best)
    objective = words(job.spec.search.objective) if job.spec else "the objective"
    note = Text(
        f"best so far: {objective} on validation examples; the same sweep command goes on",
        style="dim",
    )
    return Group(title, Text(), indented(table), Text(), indented(note))


def _score(final: Final, row: Row) -> float | None:
    if row.seeds < len(row.test_keys):
        return None
    return row.on_test(final.objective).mean


def _title(final: Final) -> Text:
    title = Text.assemble((final.job, "bold"), f"  {benchmark_title(final.benchmark)}")
    knobs_shown = [str(final.benchmark["scenario"])] if "scenario" in final.benchmark else []
    knobs_shown.append(f"{final.num_tasks} tasks")
    if final.model.get("name"):
        knobs_shown.append(str(final.model["name"]))
    title.append(", " + ", ".join(knobs_shown), style="dim")
    return title


def _metrics(final: Final) -> list[str]:
    return list(dict.fromkeys([final.objective, "average_accuracy", "forgetting"]))


def _table(final: Final, width: int) -> Table:
    metrics, wide = _metrics(final), width >= WIDE
    costs = len(metrics) == 2 or width >= ROOMY
    table = ruled_table(
        "",
        "method",
        *(["chosen hyperparameters"] if wide else []),
        *(words(metric).replace(" ", "\n") for metric in metrics),
        *(["parameters", "examples\nkept"] if costs else []),
        "training\ntime",
    )
    for column in table.columns[1 : 3 if wide else 2]:
        column.justify, column.no_wrap, column.overflow = "left", False, "fold"
    ranks = [(str(place), row) for place, row in enumerate(ranked(final), start=1)]
    apart = [("", row) for row in bounds(final)]
    for place, row in ranks + apart:
        table.add_row(
            place,
            Text(row.label, style="bold" if place == "1" else ""),
            *([knobs(row.values)] if wide else []),
            *(_estimate(row, metric) for metric in metrics),
            *([count(row.parameters), count(row.examples)] if costs else []),
            duration(row.train_seconds),
            style="dim" if row.bound else "",
            end_section=place == str(len(ranks)) and bool(apart),
        )
    return table


def _estimate(row: Row, metric: str) -> str:
    found = row.on_test(metric)
    return estimate(found.mean, found.interval)


def _chosen(rows: list[Row]) -> Table:
    table = plain_table(2)
    for row in rows:
        if row.values:
            table.add_row(row.label, knobs(row.values), style="dim" if row.bound else "")
    return table


def _failed(final: Final) -> list[RenderableType]:
    """What has no place in the table, and what went wrong for those that have one."""
    lost = failures(final)
    noted = [row for row in final.rows if row.error and row not in lost]
    table = plain_table(3)
    for row in lost:
        table.add_row(row.label, Text("failed", style="red"), row.error or "nothing on test")
    for row in noted:
        table.add_row(row.label, Text("note", style="yellow"), row.error)
    return [Text(), indented(table)] if table.row_count else []


def _protocol(final: Final) -> list[Text]:
    """What the numbers are, in a line or two."""
    counts = sorted({row.seeds for row in final.rows if row.seeds})
    seeds = " or ".join(map(str, counts)) or "no"
    plural = "s" if counts != [1] else ""
    spread = "mean ± 95 % interval over" if counts and counts[-1] > 1 else "from"
    shown = f"On test: {spread} {seeds} fresh seed{plural}, ranked by {words(final.objective)}."
    if any(row.bound for row in final.rows):
        shown += " Bounds stand below the rule, unranked."
    selection = final.selection.replace("-", " ")
    chosen = f"Hyperparameters: {words(final.objective)} on validation examples, {selection};"
    chosen += " a deterministic sweep." if final.deterministic else " timing may change this sweep."
    lines = [Text(shown, style="dim"), Text(chosen, style="dim")]
    odd = [
        f"{row.label} {number} {state}"
        for row in final.rows
        for state in ("diverged", "failed", "stopped")
        if (number := getattr(row.trials, state))
    ]
    if odd:
        lines.append(Text("Trials that did not complete: " + ", ".join(odd) + ".", style="dim"))
    return lines
