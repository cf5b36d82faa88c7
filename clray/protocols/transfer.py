"""How a choice made on one benchmark holds on another (Cha and Cho 2025, arXiv 2403.09066).

After the choice, configurations of the search also learn the reported benchmark and are graded on
its validation examples: never on test, and with no say in the choice.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from clray.objective import scores
from clray.plan import Candidate, Plan
from clray.protocols.boards import Board
from clray.protocols.choosing import Found
from clray.protocols.session import Session
from clray.protocols.views import View, inner
from clray.selection import Gtep


def compare(board: Board, found: Found, plan: Plan, reported: View, session: Session) -> None:
    """Tell ``found`` the rank correlation and the regret of its choice.

    Args:
        board: under way.
        found: with a choice.
        plan: of the search.
        reported: what the final runs see.
        session: runs what is not stored.
    """
    selection = inner(board.selection)
    assert isinstance(selection, Gtep)
    if not found.choices:
        return
    chosen = found.choices[0].candidate
    shown = _spread(found.candidates, board, selection.compare, chosen)
    view = dataclasses.replace(reported, split="validation")
    other = dataclasses.replace(
        plan,
        base=view.of(found.contender.base),
        permission=view.permission(),
        stage="transfer",
        exact=True,
        offset=0,
        num_tasks=len(view.places),
    )
    proposals = [(one.values, other.spec(one.values)) for one in shown]
    learned = session.run(other, proposals)
    keep = session.keep(board, other, None)
    for one in learned:
        keep(one)
    pairs = [
        (there, here, one is chosen)
        for one, again in zip(shown, learned, strict=True)
        if (there := _score(board, one)) is not None and (here := _score(board, again)) is not None
    ]
    found.transfer = _told(pairs)


def _told(pairs: list[tuple[float, float, bool]]) -> dict[str, Any]:
    """What the scores there and here of each configuration, and which was chosen, say."""
    from scipy.stats import spearmanr

    here = [score for _, score, _ in pairs]
    constant = len(set(here)) < 2 or len({score for score, _, _ in pairs}) < 2
    correlation = None
    if len(pairs) > 2 and not constant:
        correlation = float(spearmanr([score for score, _, _ in pairs], here).statistic)
    own = next((score for _, score, chosen in pairs if chosen), None)
    return {
        "configurations": len(pairs),
        "rank_correlation": correlation,
        "regret": None if own is None else max(here) - own,
    }


def _score(board: Board, one: Candidate) -> float | None:
    if one.result.state != "completed":
        return None
    points = scores(one.result.measures, board.job.search.objective)
    return None if points is None else points[0]


def _spread(
    candidates: list[Candidate], board: Board, most: int | None, chosen: Candidate
) -> list[Candidate]:
    """Completed trials evenly over their ranks, the chosen one among them."""
    ranked = sorted(
        (one for one in candidates if _score(board, one) is not None),
        key=lambda one: (-(_score(board, one) or 0.0), one.number),
    )
    if most is not None and len(ranked) > most:
        ranked = [ranked[round(i * (len(ranked) - 1) / (most - 1))] for i in range(most)]
    if chosen not in ranked:
        ranked[0] = chosen
    return sorted(ranked, key=lambda one: one.number)
