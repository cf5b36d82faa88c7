"""Figures: what they show, and that Vega-Lite takes every one of them."""

from __future__ import annotations

from typing import Any

import pytest
import vl_convert

from clray.report import figures
from clray.report.figures.figure import Figure, rounded
from clray.report.figures.surface import CELLS, surface
from clray.report.reading import Job, read
from clray.report.view import View, views


def _job(path: object) -> Job:
    found = read(str(path))
    assert isinstance(found, Job)
    return found


def _made(view: View) -> dict[str, Figure]:
    makers = [maker for some in figures.OF_A_BOARD.values() for maker in some]
    return {figure.name: figure for maker in makers for figure in maker(view)}


def _column(figure: Figure, name: str, panel: int = 0, source: int = 0) -> list[object]:
    return list(figure.panels[panel].sources[source].columns[name])


def test_every_figure_of_a_front_is_valid_and_has_numbers(stored: Any) -> None:
    folder = stored.job(objectives=("average_accuracy", "forgetting"), orders=("A", "B"), seeds=2)
    made = _made(views(_job(folder))[0])
    assert {name.partition(".")[0] for name in made} == {
        "leaderboard",
        "pareto",
        "significance",
        "average-accuracy",
        "accuracy-matrix",
        "tasks-over-time",
        "forgetting",
        "costs",
        "importances",
        "history",
        "stopped",
        "slices",
        "contours",
        "parallel",
    }
    for name, figure in made.items():
        assert vl_convert.vegalite_to_vega(figure.picture())["marks"]
        assert figure.caption.endswith("."), name
        assert figure.table.rows, name
        assert all(len(row) == len(figure.table.heads) for row in figure.table.rows), name
        for panel in figure.panels:
            assert panel.marks, f"{name}: {panel.title}"
            assert "legend': {" not in str(panel.spec()), "the page's key is HTML"


def test_figures_over_boards_and_tasks(stored: Any) -> None:
    folder = stored.job(
        selections=("end-of-training", "seen-tasks", "oracle"), arenas=("a", "b"), trials=8, seeds=2
    )
    boards = views(_job(folder))
    assert [view.slug for view in boards][:3] == ["a-end-of-training", "a-seen-tasks", "a-oracle"]
    changes, budgets = (maker(boards)[0] for maker in figures.OF_A_JOB)
    assert [panel.title for panel in changes.panels] == ["a", "b"]
    assert sorted({str(row[1]) for row in changes.table.rows}) == [
        "end-of-training",
        "oracle †",
        "seen-tasks",
    ]
    assert budgets.table.rows
    made = _made(boards[1])
    assert _column(made["trajectories"], "task")[:5] == [1, 2, 3, 4, 5]
    stamped = [figure for figure in _made(boards[2]).values() if figure.name != "costs"]
    assert all(f.stamp == "chosen on test" for f in stamped if f.name != "stopped")
    for figure in (changes, budgets, made["trajectories"]):
        assert vl_convert.vegalite_to_vega(figure.picture())["marks"]


def test_numbers_are_those_of_the_runs(stored: Any) -> None:
    job = _job(stored.job(methods=("er",), trials=6, tasks=3, seeds=2))
    view = views(job)[0]
    made = _made(view)
    runs = view.runs["er"]
    mean = sum(run.R[2][0] or 0.0 for run in runs) / 2
    row = next(r for r in made["accuracy-matrix"].table.rows if r[:2] == ["er", "3"])
    assert row[3] == pytest.approx(mean)
    last = next(r for r in made["average-accuracy"].table.rows if r[:2] == ["er", 3])
    board = view.rows[0]
    assert last[2] == pytest.approx(board.on_test("average_accuracy").mean)
    fallen = [r for r in made["forgetting"].table.rows if r[0] == "er"]
    assert sum(float(r[2] or 0.0) for r in fallen) / 2 == pytest.approx(
        board.on_test("forgetting").mean
    )


def test_a_method_keeps_its_colour(stored: Any) -> None:
    view = views(_job(stored.job(trials=6)))[0]
    domains = {
        str(layer["encoding"]["color"]["scale"]["domain"])
        for figure in _made(view).values()
        for panel in figure.panels
        for layer in panel.drawn["layer"]
        if layer["encoding"].get("color", {}).get("field") == "method"
    }
    assert domains == {"['er', 'ewc', 'finetune', 'joint']"}


def test_a_stopped_trial_is_shown_where_it_ended(stored: Any) -> None:
    view = views(_job(stored.job(methods=("er",), trials=40)))[0]
    lines = [line for line in view.trials if line.state == "stopped"]
    made = _made(view)
    rows = [row for row in made["stopped"].table.rows if row[2] == "stopped"]
    assert sum(int(str(row[3])) for row in rows) == len(lines) > 0
    assert {row[1] for row in rows} == {len(line.trace) for line in lines}
    shown = {row[1]: row[4] for row in made["history"].table.rows}
    assert all(shown[line.number] == line.trace[-1] for line in lines)


def test_a_surface_speaks_only_where_there_are_trials() -> None:
    cells = {(i, j): value for i, j, value in surface([(0.0, 0.0, 1.0), (0.1, 0.1, 3.0)])}
    assert (CELLS - 1, CELLS - 1) not in cells
    assert 1.0 < cells[0, 0] < 2.0 < cells[3, 3] < 3.0


@pytest.mark.parametrize(
    ("given", "kept"),
    [(0.123456789, 0.12346), (float("nan"), None), (2.0, 2), ("a", "a"), (True, True)],
)
def test_numbers_are_short(given: object, kept: object) -> None:
    assert rounded(given) == kept


def test_forgetting_is_aligned_by_name_or_else_by_position(stored: Any) -> None:
    folder = stored.job(seeds=2, tasks=3)
    by_name = _made(views(_job(folder))[0])["forgetting"]
    assert {row[1] for row in by_name.table.rows} == {"0-1", "2-3"}
    records = next(iter(sorted(folder.parent.parent.glob("trials/*/records.jsonl"))))
    records.write_text(records.read_text().replace('"2-3"', '"2-9"'))
    by_position = _made(views(_job(folder))[0])["forgetting"]
    assert {row[1] for row in by_position.table.rows} == {"1", "2"}
    first = [row[2] for row in by_name.table.rows if row[1] == "0-1"]
    assert first == [row[2] for row in by_position.table.rows if row[1] == "1"]
