"""What a trial's traces say: its measures in words, and how old accuracy went in each task."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from rich.console import RenderableType
from rich.text import Text

from clray.report.continual import SPELT
from clray.report.matrix import SHOWN
from clray.report.numbers import NONE, evenly, fraction
from clray.report.stored import Trial
from clray.report.tables import indented, plain_table, ruled_table
from clray.traces import Trace, interpolated

BARS = "▁▂▃▄▅▆▇█"
"""From no accuracy to all of it."""
BLOCKS = 24
"""Signs of a line."""


def traces_block(trial: Trial) -> list[RenderableType]:
    """The measures of a trial's traces and a table of its tasks; nothing where it has none."""
    told = {name: trial.metrics[name] for name in SPELT if name in trial.metrics}
    traces = trial.traces()
    if not traces and not any(value is not None for value in told.values()):
        return []
    parts: list[RenderableType] = [indented(Text("continual evaluation", style="bold"))]
    if told:
        table = plain_table(2)
        table.columns[1].justify = "right"
        for name, value in told.items():
            text = f"{value:.1f}" if name == "updates_to_recover" and value is not None else None
            table.add_row(SPELT[name], text or fraction(value, 4))
        parts.append(indented(table))
    later = [trace for trace in traces if trace.task]
    if later:
        parts += [Text(), _tasks(later)]
    return [*parts, Text()]


def _tasks(later: Sequence[Trace]) -> RenderableType:
    """How accuracy on old tasks went while each was learned."""
    table = ruled_table("task", "found", "at the start", "lowest", "at update", "end", "old tasks")
    table.columns[-1].justify = "left"
    for place in evenly(len(later), SHOWN):
        trace = later[place]
        old = trace.of_group("old")
        cells = [NONE] * 4 + [""]
        if old is not None:
            lowest = min(old)
            update = str(trace.updates[old.index(lowest)])
            line = sparkline(interpolated(trace.updates, old))
            cells = [fraction(old[0]), fraction(lowest), update, fraction(old[-1]), line]
        table.add_row(str(trace.task + 1), fraction(trace.found()), *cells)
    return indented(table)


def sparkline(curve: Sequence[float], blocks: int = BLOCKS) -> str:
    """A curve from 0 to 1 as bars, each at the lowest that it stands for: no dip is lost."""
    number = min(blocks, len(curve))
    ends = [round(i * len(curve) / number) for i in range(number + 1)]
    lowest = (min(curve[low:high]) for low, high in pairwise(ends))
    return "".join(BARS[min(len(BARS) - 1, int(value * len(BARS)))] for value in lowest)
