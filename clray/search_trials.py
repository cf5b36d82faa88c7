"""The trials of one search that have ended, and what the others must still run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from clray.errors import RunFailed
from clray.plan import Candidate, Plan
from clray.work import Work

Keep = Callable[[Candidate], None]


class Trials:
    """The trials of a search that have ended, by number.

    Args:
        plan: of the search.
        results: where trials are stored.
        keep: is given each trial that has ended.
    """

    def __init__(self, plan: Plan, results: str, keep: Keep) -> None:
        self.plan, self.results, self.keep = plan, results, keep
        self.ended: dict[int, Candidate] = {}
        self.told: dict[int, Candidate] = {}

    def add(self, candidate: Candidate) -> None:
        self.ended[candidate.number] = candidate
        self.keep(candidate)

    def in_order(self) -> list[Candidate]:
        return [self.ended[number] for number in sorted(self.ended)]

    def work(self, number: int, values: dict[str, Any]) -> Work:
        """The work of a proposal. What it waits to be judged by are trials that it was proposed
        from, so that timing does not matter."""
        known = number - self.plan.lag if self.plan.search.deterministic else number
        firsts = [c.first for n, c in self.ended.items() if n <= known and c.first is not None]
        return self.plan.work(self.plan.spec(values), self.plan.threshold(firsts))

    def assess(self, number: int, values: dict[str, Any], **others: Any) -> Candidate | None:
        """See ``clray.plan.Plan.assess``."""
        if number in self.told:
            return self.told[number]
        work = self.work(number, values)
        return self.plan.assess(number, values, work, self.results, **others)

    def end(self, number: int, values: dict[str, Any], last: dict[str, Any]) -> Candidate:
        """What a trial came to whose last report is known; without a state, a scheduler stopped
        it, and without a report, Tune lost it."""
        state = last.get("state", "stopped" if last else "failed")
        error = (last.get("error") or "Ray Tune lost the trial") if state == "failed" else None
        candidate = self.assess(number, values, stopped=state == "stopped", error=error)
        if candidate is None:
            raise RunFailed(f"{self.plan.label}: trial {number} ended and is not stored")
        self.told[number] = candidate
        return candidate
