"""What ``clray list`` knows of each component and file."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import RenderableType
from rich.text import Text

from clray import files, registry
from clray.cli.knobs import knob_table, knobs_of
from clray.cli.plan import describe, dimension_rows, plan_page
from clray.report.naming import benchmark_title
from clray.spec import SCENARIOS

_COMPONENTS: dict[str, registry.Kind] = {
    "methods": "method",
    "benchmarks": "benchmark",
    "models": "model",
}


@dataclass(frozen=True)
class Listed:
    """One thing to list.

    Attributes:
        name: as a spec or a command line writes it.
        summary: one line.
        plain: all of it, for JSON.
        page: all of it, for a person.
    """

    name: str
    summary: str
    plain: dict[str, Any]
    page: list[RenderableType] = field(default_factory=list)


def names_of(kind: str) -> list[str]:
    """The names of all that there is of a kind."""
    if kind in _COMPONENTS:
        return registry.names(_COMPONENTS[kind])
    return files.space_names() if kind == "spaces" else files.job_names()


def listed(kind: str, name: str) -> Listed:
    """One of them.

    Raises:
        UnknownName, BadSpec: there is none of that name, or its file is not acceptable.
    """
    if kind in _COMPONENTS:
        return _component(kind, name)
    return _space(name) if kind == "spaces" else _job(name)


def _component(kind: str, name: str) -> Listed:
    found = registry.find(_COMPONENTS[kind], name)
    summary = found.summary.replace("``", "")
    plain: dict[str, Any] = {"name": name, "summary": summary}
    page: list[RenderableType] = []
    if kind == "methods":
        scenarios = sorted(found.learner.scenarios)
        spaces = [s for s in files.space_names() if s.partition(".")[0] == found.name]
        plain |= {"scenarios": scenarios, "spaces": spaces}
        page.append(
            _line(
                "serves",
                "all scenarios" if len(scenarios) == len(SCENARIOS) else ", ".join(scenarios),
            )
        )
        page.append(_line("search spaces", ", ".join(spaces) or "none"))
        if found.learner.uses_memory:
            page.append(_line("needs", "protocol.memory of 1 or more"))
        page.append(Text())
    plain["knobs"] = [knob.plain() for knob in knobs_of(found.config)]
    return Listed(name, summary, plain, [*page, knob_table(found.config)])


def _space(name: str) -> Listed:
    path = files.space_path(name)
    space = files.load_space(name)
    searched = {path: describe(dimension) for path, dimension in space.searched.items()}
    summary = ", ".join(searched) or "nothing is searched"
    plain: dict[str, Any] = {"name": name, "summary": summary, "path": str(path)}
    plain["content"] = space.model_dump(mode="json", exclude_unset=True)
    return Listed(name, summary, plain, [_line("file", str(path)), dimension_rows(space)])


def _job(name: str) -> Listed:
    path = files.job_path(name)
    job = files.load_job(name)
    benchmark = benchmark_title(job.benchmark.model_dump())
    summary = _first_comment(path) or f"{', '.join(job.methods)} on {benchmark}"
    plain: dict[str, Any] = {"name": name, "summary": summary, "path": str(path)}
    plain["content"] = job.model_dump(mode="json", exclude_unset=True)
    return Listed(name, summary, plain, [_line("file", str(path)), Text(), plan_page(job)])


def _first_comment(path: Path) -> str:
    first = path.read_text(encoding="utf-8").partition("\n")[0]
    return first.lstrip("# ").rstrip(" :") if first.startswith("#") else ""


def _line(name: str, text: str) -> Text:
    return Text.assemble((f"{name}: ", "dim"), text)
