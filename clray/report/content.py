"""The plots and the data of a page, gathered figure by figure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from clray.report.facts import Sheet
from clray.report.figures.figure import Figure


@dataclass(frozen=True)
class Section:
    """A heading with what stands below it.

    Attributes:
        id: its address on the page.
        title: the heading.
        sheets: open tables.
        figures: as ``Content.add`` gives them.
        turns: figures of which one group is shown at a time, by group.
    """

    id: str
    title: str
    sheets: Sequence[Sheet] = ()
    figures: Sequence[dict[str, Any]] = ()
    turns: dict[str, list[dict[str, Any]]] = field(default_factory=dict)


@dataclass
class Content:
    """The plots of a page, as they are put into it."""

    plots: dict[str, dict[str, Any]] = field(default_factory=dict)
    data: dict[str, dict[str, list[Any]]] = field(default_factory=dict)
    pictures: dict[str, dict[str, Any]] = field(default_factory=dict)

    def add(self, figure: Figure, slug: str = "") -> dict[str, Any]:
        """Take a figure in; what the template shows of it."""
        name = f"{slug}.{figure.name}" if slug else figure.name
        panels = []
        for number, panel in enumerate(figure.panels):
            plot = f"{name}-{number}"
            self.plots[plot] = {
                "spec": panel.spec(),
                "data": [source.name for source in panel.sources],
                "marks": panel.marks,
                "ratio": panel.ratio,
            }
            for source in panel.sources:
                self.data.setdefault(source.name, source.columns)
            panels.append(
                {"id": plot, "title": panel.title, "height": 0 if panel.ratio else panel.height}
            )
        self.pictures[name] = figure.picture()
        return {"id": f"figure-{name}", "figure": figure, "panels": panels, "wide": figure.wide}

    def section(
        self,
        name: str,
        title: str,
        made: Iterable[Figure],
        sheets: Sequence[Sheet] = (),
        slug: str = "",
    ) -> Section:
        """A section of such figures; those of a group are shown in turns."""
        shown: list[dict[str, Any]] = []
        turns: dict[str, list[dict[str, Any]]] = {}
        for figure in made:
            into = turns.setdefault(figure.group, []) if figure.group else shown
            into.append(self.add(figure, slug))
        _fill_rows(shown)
        return Section(name, title, sheets, shown, turns)


def _fill_rows(shown: list[dict[str, Any]]) -> None:
    """A narrow figure without a narrow one beside it takes the whole width."""
    left: dict[str, Any] | None = None
    for one in [*shown, {"wide": True}]:
        if one["wide"] and left is not None:
            left["wide"] = True
        left = None if one["wide"] or left is not None else one
