"""Every figure of the report, by what it answers; each family is a module of its own.

A figure is made from a ``View`` by a function that returns none where there is nothing to show.
Altair is imported here, so that the rest of the report does without it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from clray.report.figures import (
    boards,
    costs,
    curves,
    first_updates,
    fronts,
    knobs,
    matrices,
    regions,
    searching,
    sides,
    standing,
    traced_tasks,
    traces,
    trajectories,
)
from clray.report.figures.figure import Figure
from clray.report.view import View

CONTINUAL = "Continual evaluation"
"""The section of what was graded while tasks were learned."""
OF_A_BOARD: dict[str, tuple[Callable[[View], list[Figure]], ...]] = {
    "Results": (standing.leaderboard, fronts.pareto, standing.significance, curves.curve),
    "Task by task": (
        regions.regions,
        matrices.accuracy_matrix,
        matrices.tasks_over_time,
        matrices.forgetting,
        trajectories.trajectories,
        costs.costs,
    ),
    CONTINUAL: (traces.stream, first_updates.first_updates, traced_tasks.tasks),
    "The search": (searching.importances, searching.history, searching.stopped, knobs.knobs),
}
"""The figures of one board, by section."""
OF_A_JOB: tuple[Callable[[Sequence[View]], list[Figure]], ...] = (
    boards.rank_changes,
    boards.budgets,
)
"""The figures over several boards of a job."""
OF_JOBS: tuple[Callable[[Sequence[View]], list[Figure]], ...] = (
    sides.standings,
    sides.differences,
    sides.side_curves,
)
"""The figures over several jobs."""
