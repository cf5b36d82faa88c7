"""What ``clray list`` knows of each component, file and part of a job."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel
from rich.console import RenderableType
from rich.text import Text

from clray import files, metrics, registry, selection
from clray.cli.job_settings import chosen_on
from clray.cli.knobs import knob_table, knobs_of
from clray.cli.plan import describe, dimension_rows, plan_page
from clray.errors import UnknownName
from clray.job import Entry, Final, SamplerName, Scheduler, Search
from clray.loggers import opening
from clray.objective import DIRECTIONS
from clray.report.naming import benchmark_title
from clray.selection import Selection
from clray.spec import SCENARIOS, Optimizer, Protocol, Resources, Storing

_COMPONENTS: dict[str, registry.Kind] = {
    "methods": "method",
    "benchmarks": "benchmark",
    "models": "model",
}
_SELECTIONS: dict[str, type[Selection]] = {
    kind.model_fields["name"].default: kind
    for kind in vars(selection).values()
    if isinstance(kind, type) and issubclass(kind, Selection) and kind is not Selection
}
_SECTIONS: dict[str, type[BaseModel]] = {
    "protocol": Protocol,
    "optimizer": Optimizer,
    "methods": Entry,
    "search": Search,
    "search.scheduler": Scheduler,
    "final": Final,
    "resources": Resources,
    "store": Storing,
}
_SAMPLERS: dict[str, str] = {
    "tpe": "Tree-structured Parzen estimator, over all knobs together.",
    "random": "Independent random draws.",
    "grid": "Every combination, in a random order.",
    "gp": "Gaussian process; slow beyond a few hundred trials.",
    "cmaes": "CMA-ES; numbers only, for many trials of one objective.",
    "nsga2": "NSGA-II, an evolution of several objectives at once.",
    "qmc": "Quasi-random draws that spread evenly.",
    "auto": "Optuna's own choice (needs the extra clray[auto]).",
}
_COSTS: dict[str, str] = {
    "growth": "Parameters at the end over those after the first task, less 1",
    "parameters": "Parameters kept at the end",
    "bytes": "Bytes kept at the end: parameters, memory, and all else that a method keeps",
    "steps": "Optimizer steps in all",
    "examples_seen": "Training examples passed over in all, repeats counted",
    "examples_processed": "The same and those replayed from a memory",
}
_CONTINUAL: dict[str, str] = {
    "continual_minimum_accuracy": "Mean over old tasks of the lowest accuracy after any update",
    "continual_worst_case_accuracy": "The same, with the last task's accuracy as it is now",
    "windowed_forgetting": "Largest fall of a task's accuracy within ten updates, mean over tasks",
    "windowed_plasticity": "Largest rise of a task's accuracy within ten updates, mean over tasks",
    "learning_curve_area": "Mean accuracy on a new task over its first thirty updates",
    "depth": "How far old accuracy falls, at its lowest, below what a task found",
    "depth_after_initialisation": "The same, below what the method's initialisation left of it",
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
    names: dict[str, Callable[[], list[str]]] = {
        "spaces": files.space_names,
        "jobs": files.job_names,
        "selections": lambda: list(selection.NAMES),
        "samplers": lambda: list(get_args(SamplerName)),
        "measures": lambda: list(DIRECTIONS),
        "loggers": opening.names,
        "sections": lambda: list(_SECTIONS),
    }
    return names[kind]()


def listed(kind: str, name: str) -> Listed:
    """One of them.

    Raises:
        UnknownName, BadSpec: there is none of that name, or its file is not acceptable.
    """
    if kind in _COMPONENTS:
        return _component(kind, name)
    if kind == "spaces":
        return _space(name)
    if kind == "jobs":
        return _job(name)
    if name not in names_of(kind):
        raise UnknownName(kind.removesuffix("s"), name, names_of(kind))
    makers = {
        "selections": _selection,
        "samplers": _sampler,
        "measures": _measure,
        "loggers": _logger,
        "sections": _section,
    }
    return makers[kind](name)


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
    several = [job.benchmark, *(arena.benchmark for arena in job.benchmarks.values())]
    titles = [benchmark_title(one.model_dump()) for one in several if one is not None]
    summary = _first_comment(path) or f"{', '.join(job.methods)} on {', '.join(titles)}"
    plain: dict[str, Any] = {"name": name, "summary": summary, "path": str(path)}
    plain["content"] = job.model_dump(mode="json", exclude_unset=True)
    return Listed(name, summary, plain, [_line("file", str(path)), Text(), plan_page(job, ())])


def _selection(name: str) -> Listed:
    kind = _SELECTIONS[name]
    return _model(name, _first_paragraph(kind), kind, ("name",), [chosen_on(kind()), Text()])


def _section(name: str) -> Listed:
    kind = _SECTIONS[name]
    return _model(name, _first_paragraph(kind), kind, ())


def _logger(name: str) -> Listed:
    found = opening.find(name)
    needs = _line("needs", f"pip install 'clray[{found.config.extra}]'")
    summary = found.summary.replace("``", "")
    return _model(name, summary, found.config, (), [needs, Text()])


def _sampler(name: str) -> Listed:
    return Listed(name, _SAMPLERS[name], {"name": name, "summary": _SAMPLERS[name]})


def _measure(name: str) -> Listed:
    better = "higher" if DIRECTIONS[name] == "maximize" else "lower"
    meaning = _COSTS.get(name) or _CONTINUAL.get(name) or _first_paragraph(getattr(metrics, name))
    summary = f"{meaning.rstrip('.')}; {better} is better."
    plain = {"name": name, "summary": summary, "direction": DIRECTIONS[name]}
    return Listed(name, summary, plain)


def _model(
    name: str,
    summary: str,
    kind: type[BaseModel],
    without: tuple[str, ...],
    page: list[Text] | None = None,
) -> Listed:
    """Something whose knobs are fields of a model."""
    knobs = [knob.plain() for knob in knobs_of(kind, without)]
    plain = {"name": name, "summary": summary, "knobs": knobs}
    return Listed(name, summary, plain, [*(page or []), knob_table(kind, without)])


def _first_paragraph(what: object) -> str:
    """Of a docstring, in one line."""
    return " ".join((what.__doc__ or "").partition("\n\n")[0].replace("``", "").split())


def _first_comment(path: Path) -> str:
    first = path.read_text(encoding="utf-8").partition("\n")[0]
    return first.lstrip("# ").rstrip(" :") if first.startswith("#") else ""


def _line(name: str, text: str) -> Text:
    return Text.assemble((f"{name}: ", "dim"), text)
