"""What stands on the page of one job, or of several side by side, and in which order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from clray.report import facts, figures
from clray.report.content import Content, Section
from clray.report.facts import Sheet
from clray.report.figures.standing import shown_metrics
from clray.report.naming import benchmark_title
from clray.report.numbers import duration, words
from clray.report.provenance import Provenance, provenance
from clray.report.ranking import ranked
from clray.report.reading import Job
from clray.report.rendering import Page, rendered
from clray.report.stored import Board
from clray.report.view import View, methods, views

CARDS = 8
"""Cards that stand at the top at most."""


@dataclass(frozen=True)
class _BoardPart:
    title: str
    warning: str | None
    lead: str
    sections: Sequence[Section]


def job_page(job: Job) -> Page:
    """The page of one job, finished or running.

    Raises:
        BadData: the records of a final run are damaged.
    """
    content, boards = Content(), views(job)
    sections = []
    if len(boards) > 1:
        made = [figure for make in figures.OF_A_JOB for figure in make(boards)]
        sections.append(content.section("boards", "All boards", made, facts.ranks(boards)))
    parts = [_board(content, view, number) for number, view in enumerate(boards, start=1)]
    first = parts[0].sections if parts else []
    links = [(one.title, one.id) for one in first if one.figures or one.sheets]
    if len(boards) > 1:
        links = [("All boards", "boards"), ("Each board", "board-tabs")]
    return rendered(
        content,
        labels=methods(job),
        page={
            "title": job.name,
            "state": None if job.final else "running",
            "lead": _lead(boards),
            "warnings": [] if len(boards) > 1 else [v.warning for v in boards if v.warning],
            "cards": _cards(job, boards),
            "sections": sections,
            "boards": parts,
            "links": [*links, ("Provenance", "provenance")],
            "provenance": [("", provenance(job))],
        },
    )


def jobs_page(jobs: Sequence[Job]) -> Page:
    """One page of several jobs, side by side.

    Raises:
        BadData: the records of a final run are damaged.
    """
    labels = list(dict.fromkeys(label for job in jobs for label in methods(job)))
    boards = [view for job in jobs for view in views(job, labels)]
    content = Content()
    made = [figure for make in figures.OF_JOBS for figure in make(boards)]
    sections = [content.section("sides", "Side by side", made)]
    for number, view in enumerate(boards, start=1):
        sheets = [*facts.standings(view, _metrics(view)), *facts.progress(view)]
        sections.append(Section(f"job-{number}", _full_title(view), sheets))
    told: list[tuple[str, Provenance]] = [(job.name, provenance(job)) for job in jobs]
    return rendered(
        content,
        labels=labels,
        page={
            "title": " · ".join(job.name for job in jobs),
            "state": None,
            "lead": f"{len(jobs)} jobs side by side, with {len(boards)} boards.",
            "warnings": [f"{_full_title(v)}: {v.warning}" for v in boards if v.warning],
            "cards": [c for view in boards for c in _winner(view, _full_title(view))][:CARDS],
            "sections": sections,
            "boards": [],
            "links": [("Side by side", "sides"), ("Provenance", "provenance")],
            "provenance": told,
        },
    )


def _board(content: Content, view: View, number: int) -> _BoardPart:
    slug, sections = view.slug, []
    for place, (title, makers) in enumerate(figures.OF_A_BOARD.items()):
        made = [figure for make in makers for figure in make(view)]
        sheets: list[Sheet] = []
        if place == 0:
            sheets = [*facts.standings(view, _metrics(view)), *facts.progress(view)]
        elif title == figures.CONTINUAL:
            sheets = facts.continual(view)
        elif place == len(figures.OF_A_BOARD) - 1:
            sheets = [*facts.budgets(view), *facts.transfer(view)]
        sections.append(content.section(f"part-{number}-{place}", title, made, sheets, slug))
    return _BoardPart(view.title, view.warning, _board_lead(view.board), sections)


def _metrics(view: View) -> list[str]:
    return shown_metrics(view.board) if view.board else []


def _lead(boards: Sequence[View]) -> str:
    known = [view.board for view in boards if view.board]
    if len(known) == 1:
        return _board_lead(known[0])
    if known:
        tasks = sorted({board.num_tasks for board in known})
        names = dict.fromkeys(benchmark_title(board.benchmark) for board in known)
        return f"{', '.join(names)}, {' or '.join(map(str, tasks))} tasks, on {len(known)} boards."
    spec = boards[0].spec if boards else None
    if spec is None or spec.benchmark is None:
        return "This job has not ended: what is known so far."
    title = benchmark_title(spec.benchmark.model_dump())
    return f"{title}. This job has not ended: what is known so far."


def _board_lead(board: Board | None) -> str:
    if board is None:
        return ""
    parts = [benchmark_title(board.benchmark)]
    if "scenario" in board.benchmark:
        parts.append(str(board.benchmark["scenario"]))
    parts.append(f"{board.num_tasks} tasks")
    if board.model.get("name"):
        parts.append(str(board.model["name"]))
    goals = " and ".join(words(objective.metric) for objective in board.objectives)
    kept = "".join(f", with {c.metric} {c.relation} {c.bound:g}" for c in board.constraints)
    return f"{', '.join(parts)}. Chosen by {goals}{kept} on {board.chosen_on}."


def _full_title(view: View) -> str:
    return f"{view.job.name}: {view.name}" if view.name else view.job.name


def _cards(job: Job, boards: Sequence[View]) -> list[tuple[str, str, str]]:
    cards = [("boards", str(len(boards)), "benchmarks and selection protocols")]
    if len(boards) == 1:
        cards = _winner(boards[0], "best on test")
    completed = sum(line.state == "completed" for line in job.trials)
    cards.append(("trials of the search", str(len(job.trials)), f"{completed} completed"))
    rows = [row for view in boards for row in (view.board.rows if view.board else [])]
    if rows:
        runs = sum(len(row.test_keys) for row in rows)
        cards.append(("final runs", str(runs), f"{len({r.label for r in rows})} methods"))
    seconds = job.final.seconds.get("this_run") if job.final else None
    if seconds is not None:
        cards.append(("time", duration(seconds), "of the last start"))
    return cards


def _winner(view: View, name: str) -> list[tuple[str, str, str]]:
    rows = ranked(view.board) if view.board else []
    if not rows or view.board is None:
        return []
    metric = view.board.objective.metric
    found = rows[0].on_test(metric)
    told = f"{words(metric)} {facts.measure(metric, found.mean, found.interval)}"
    return [(name + (" †" if view.warning else ""), rows[0].name, told)]
