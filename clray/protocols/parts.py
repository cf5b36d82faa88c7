"""The parts of final runs, learned before these are put together (``clray.apart``).

Each part is learned once, whatever orders it belongs to, and as many at once as there are slots:
first tasks, then all later ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from clray import apart
from clray.events import TrialEnded, TrialStarted
from clray.plan import Plan
from clray.protocols.session import Session
from clray.seen import Seen
from clray.spec import TrialSpec
from clray.work import Work, in_turn


def count_parts(specs: Sequence[TrialSpec], num_tasks: int) -> int:
    """How many trials ``learn_parts`` would run for these, if nothing is stored."""
    return sum(map(len, apart.waves(specs, num_tasks)))


def learn_parts(session: Session, plan: Plan, specs: Sequence[TrialSpec]) -> None:
    """Learn what is put together in those of the trials that are not stored.

    Args:
        session: runs them.
        plan: of the trials.
        specs: complete.

    Raises:
        BadInput, Leak, StorageFailed: no other trial would do better.
    """
    missing = [s for s in specs if apart.is_whole(s) and session.outcome(s) is None]
    number = 0
    for wave in apart.waves(missing, plan.num_tasks):
        left = []
        for part in wave:
            known = session.outcome(part)
            if known is None:
                left.append((number, part))
            else:
                _tell_end(session, plan, number, known.state, stored=True)
            number += 1
        if left:
            _run(session, plan, left)


def _run(session: Session, plan: Plan, parts: Sequence[tuple[int, TrialSpec]]) -> None:
    seen = Seen(session.watch)
    for place, (number, _) in enumerate(parts):
        seen.know(place, TrialStarted(plan.label, "parts", number, tasks=1))

    def on_record(place: int, record: dict[str, Any]) -> None:
        seen.start(place)

    works = [
        Work(runs=(part,), permission=plan.permission, keep=part.until == 1) for _, part in parts
    ]
    for place, outcome in session.get_slots().run(in_turn(works), on_record, seen.hear):
        if "fatal" in outcome:
            raise outcome["fatal"]
        seen.end(place)
        error = (outcome.get("error") or "lost") if outcome["state"] == "failed" else None
        _tell_end(session, plan, parts[place][0], outcome["state"], error=error)


def _tell_end(
    session: Session,
    plan: Plan,
    number: int,
    state: str,
    stored: bool = False,
    error: str | None = None,
) -> None:
    session.watch(TrialEnded(plan.label, "parts", number, state, None, stored, error))
