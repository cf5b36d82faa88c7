"""What the numbers of a board are, in a few lines below them."""

from __future__ import annotations

from rich.text import Text

from clray.report.board_table import ALARM, FRONT, overall_front
from clray.report.numbers import count, duration, span, words
from clray.report.ranking import ranked
from clray.report.significance import LEVEL, compare
from clray.report.stored import Board

SHOWN_ORDERS = 5
"""So many orders are named, of more the number alone is told."""


def notes(board: Board) -> list[Text]:
    """The lines, each a sentence or two."""
    plain = [
        _numbers(board),
        _letters(board),
        _front(board),
        _orders(board),
        shared_between_orders(board),
        _selection(board),
        _constraints(board),
        _transfer(board),
        _budget(board),
        _odd_trials(board),
    ]
    return [*_alarm(board), *(Text(text, style="dim") for text in plain if text)]


def _alarm(board: Board) -> list[Text]:
    if board.stamp is None:
        return []
    if board.stamp == "leak":
        return [Text(f"Leak: {board.leak}. These numbers are too good.", style=ALARM)]
    text = (
        "Chosen on test: on the very examples that are reported. To reproduce papers, never to "
        "compare."
    )
    return [Text(text, style=ALARM)]


def _numbers(board: Board) -> str:
    runs = sorted({len(row.places) // max(1, len(row.orders)) for row in board.rows if row.places})
    seeds = " or ".join(map(str, runs)) or "no"
    plural = "s" if runs != [1] else ""
    several = any(len(row.places) > 1 for row in board.rows)
    orders = max((len(row.orders) for row in board.rows), default=0)
    each = f" in each of {orders} orders" if orders > 1 else ""
    shown = f"On test: {'mean ± 95 % interval over' if several else 'from'} {seeds} fresh"
    shown += f" seed{plural}{each}, ranked by {words(board.objective.metric)}."
    if any(row.bound for row in board.rows):
        shown += " Bounds stand below the rule, unranked."
    return shown


def _letters(board: Board) -> str:
    comparisons = compare(board, board.objective.metric)
    if all(one.p is None for one in comparisons):
        return ""
    over = "seeds and orders" if any(len(row.orders) > 1 for row in ranked(board)) else "seeds"
    return (
        f"Rows that share a letter do not differ significantly in {words(board.objective.metric)}"
        f" (t test paired over {over}, {LEVEL * 100:g} %, Holm's correction for"
        f" {len(comparisons)} comparison{'s' * (len(comparisons) > 1)})."
    )


def _front(board: Board) -> str:
    if not overall_front(board):
        return ""
    goals = ", ".join(
        f"{words(objective.metric)} {'↑' if objective.sign > 0 else '↓'}"
        for objective in board.objectives
    )
    return f"{FRONT} No other row is as good or better in all objectives on test: {goals}."


def _orders(board: Board) -> str:
    names = next((row.orders for row in board.rows if len(row.orders) > 1), [])
    if not names:
        return ""
    listed = f" ({', '.join(names)})" if len(names) <= SHOWN_ORDERS else ""
    return (
        f"AOPD, MOPD: a task's final accuracy in its best of {len(names)} orders{listed} less that"
        " in its worst, in the mean over tasks and at most; seeds averaged first."
    )


def shared_between_orders(board: Board) -> str:
    """How much was learned once for several orders, in a sentence; "" where nothing was."""
    parts = [
        f"{row.name} {shared.tasks_learned} of {shared.tasks} tasks"
        f" ({count(shared.steps_learned)} of {count(shared.steps)} steps)"
        for row in board.rows
        if (shared := row.shared) is not None and shared.tasks_learned < shared.tasks
    ]
    if not parts:
        return ""
    return f"Learned once for all orders that begin with the same task: {', '.join(parts)}."


def _selection(board: Board) -> str:
    goals = " and ".join(words(objective.metric) for objective in board.objectives)
    timing = "a deterministic sweep" if board.deterministic else "timing may change this sweep"
    on = "test examples" if board.stamp == "chosen on test" else board.chosen_on
    return f"Hyperparameters ({board.title}): {goals} on {on}; {timing}."


def _constraints(board: Board) -> str:
    if not board.constraints:
        return ""
    texts = [str(constraint.model_dump()) for constraint in board.constraints]
    broken = [
        f"{row.name} breaks {text}"
        for row in ranked(board)
        for constraint, text in zip(board.constraints, texts, strict=True)
        if (mean := row.on_test(constraint.metric).mean) is not None
        and constraint.excess({constraint.metric: mean}) > 0
    ]
    return f"The choice must keep {' and '.join(texts)}." + (
        f" On test {', '.join(broken)}." if broken else ""
    )


def _transfer(board: Board) -> str:
    known = [row.transfer for row in board.rows if row.transfer]
    if not known:
        return ""
    number = span([transfer.configurations for transfer in known])
    missing = [row.name for row in ranked(board) if not row.transfer]
    return (
        f"Rank correlation (Spearman): of {number} configurations, between what was tuned on and"
        " what is reported. Regret: what the chosen one lacks there to the best of them, on"
        " validation examples." + (f" Not known of {', '.join(missing)}." if missing else "")
    )


def _budget(board: Board) -> str:
    budgets = [row.budget for row in board.rows if row.budget.trials]
    if not budgets:
        return ""
    counted = {
        "trial": [budget.trials for budget in budgets],
        "task training": [budget.task_trainings for budget in budgets],
        "example": [budget.examples_seen for budget in budgets],
    }
    parts = [f"{span(n)} {what}{'s' * (set(n) != {1})}" for what, n in counted.items()]
    seconds = [budget.seconds for budget in budgets if budget.seconds is not None]
    if seconds:
        parts.append(span(seconds, duration))
    return f"Each choice cost {', '.join(parts)}."


def _odd_trials(board: Board) -> str:
    odd = [
        f"{row.name} {number} {state}"
        for row in board.rows
        for state in ("diverged", "failed", "stopped")
        if (number := getattr(row.trials, state))
    ]
    return f"Trials that did not complete: {', '.join(odd)}." if odd else ""
