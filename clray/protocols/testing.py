"""The final runs: what was chosen, on the test set, with fresh seeds and in the orders asked for.

Nothing is chosen here any more: each run is made once, and its numbers are the ones reported.
"""

from __future__ import annotations

from dataclasses import dataclass

from clray.errors import BadSpec
from clray.job import Search
from clray.outcome import Outcome
from clray.plan import Plan, Repeat
from clray.protocols.boards import Board, Contender
from clray.protocols.choosing import Choice
from clray.protocols.parts import count_parts, learn_parts
from clray.protocols.session import Session
from clray.protocols.views import View, arrangements, inner
from clray.selection import Gtep
from clray.space import SearchSpace
from clray.spec import TrialSpec


@dataclass(frozen=True)
class FinalRun:
    """One run of a choice on test.

    Attributes:
        order: its task order's name; "" for the benchmark's own.
        spec: complete.
        outcome: what it came to.
    """

    order: str
    spec: TrialSpec
    outcome: Outcome


def final_repeats(board: Board, view: View) -> list[tuple[str, Repeat]]:
    """Orders by name, with each of the fresh seeds: those after the search's. On another benchmark
    than was tuned on, each seed has a fresh order too, unless orders are named.

    Raises:
        BadSpec: an order that this benchmark does not have.
    """
    final, seed = board.job.final, board.job.search.seed
    seeds = [seed + 1 + number for number in range(final.seeds)]
    if isinstance(inner(board.selection), Gtep) and final.orders is None:
        drawn = arrangements(board, final.seeds, view, "final")
        return [("", Repeat(s, tasks)) for s, (_, tasks) in zip(seeds, drawn, strict=True)]
    orders = arrangements(board, final.orders, view, "final")
    if final.orders is not None and len(orders) > 1:
        places = {tasks for _, tasks in orders}
        if len(places) < len(orders):
            accepted = "orders that differ in the tasks that are reported"
            raise BadSpec("final.orders", len(orders), accepted)
    return [(name, Repeat(s, tasks)) for name, tasks in orders for s in seeds]


def final_parts(contender: Contender, repeats: list[tuple[str, Repeat]], view: View) -> int:
    """How many tasks one choice's final runs share, where the method learns tasks apart; else 0."""
    specs = [_final(contender.base, view, repeat) for _, repeat in repeats]
    return count_parts(specs, len(view.places))


def run_final(
    board: Board, label: str, choices: list[Choice], view: View, session: Session
) -> list[list[FinalRun]]:
    """Run each choice with every order and seed; as many lists as choices.

    Args:
        board: under way.
        label: of the entry.
        choices: of hyperparameters.
        view: what final runs see.
        session: runs what is not stored.
    """
    repeats = final_repeats(board, view)
    runs = [
        (choice, name, _final(choice.spec, view, repeat))
        for choice in choices
        for name, repeat in repeats
    ]
    if not runs:
        return []
    plan = Plan(
        label=label,
        base=runs[0][2],
        space=SearchSpace(),
        trials=len(runs),
        search=Search(objective=board.job.search.objective),
        lag=1,
        num_tasks=len(view.places),
        permission=view.permission(),
        repeats=(repeats[0][1],),
        stage="test",
        exact=True,
    )
    learn_parts(session, plan, [spec for _, _, spec in runs])
    ended = session.run(plan, [(c.candidate.values, spec) for c, _, spec in runs])
    finals = []
    for (_, name, spec), one in zip(runs, ended, strict=True):
        known = None if one.result.state == "failed" else session.outcome(spec)
        outcome = known or Outcome(one.result.state, error=one.error)
        finals.append(FinalRun(name, spec, outcome))
    size = len(repeats)
    return [finals[start : start + size] for start in range(0, len(finals), size)]


def _final(spec: TrialSpec, view: View, repeat: Repeat) -> TrialSpec:
    moved = view.of(spec)
    return moved.model_copy(update={"seed": repeat.seed, "tasks": repeat.tasks})
