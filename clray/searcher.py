"""What Ray Tune asks for trials."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ray.tune.search import Searcher

from clray.study import Result, Study

SCORE = "score"
"""What Tune's trials report: the first objective, turned so that larger is better."""


class TuneSearcher(Searcher):  # type: ignore[misc]
    """What Ray Tune asks for trials: a Study's proposals, those left over from its replay first.

    Args:
        study: proposes.
        leftover: (number, values) already proposed, whose results are not known.
        at_once: trials that may be under way.
        config: makes the Tune trial's config of a proposal.
        stored: the result of an ended trial, by number. Ends are sent in the order of their
            numbers, but Tune may read the later one first; were the earlier one then not looked
            up, the proposal would wait for it, and Tune would throw an idle process away.
        read: what a trial came to, by its number, its last report and whether Tune lost it.

    What schedulers compare is the reports' ``score``.
    """

    def __init__(
        self,
        study: Study,
        leftover: list[tuple[int, dict[str, Any]]],
        at_once: int,
        config: Callable[[int, dict[str, Any]], dict[str, Any]],
        stored: Callable[[int], Result | None],
        read: Callable[[int, dict[str, Any], bool], Result],
    ) -> None:
        super().__init__(metric=SCORE, mode="max")
        self.study = study
        self.leftover = list(leftover)
        self.at_once = at_once
        self.config = config
        self.stored = stored
        self.read = read
        self.running: dict[str, int] = {}

    def suggest(self, trial_id: str) -> Any:
        """The next trial, None to be asked again later, or that there is none."""
        if not self.leftover and self.study.finished:
            return Searcher.FINISHED
        if len(self.running) >= self.at_once:
            return None
        if self.leftover:
            number, values = self.leftover.pop(0)
        elif self.study.may_propose():
            number, values = self.study.propose()
        else:
            return None
        self.running[trial_id] = number
        return self.config(number, values)

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Pass a trial's end on to the study: an error, or a last result without an end, too."""
        number = self.running.pop(trial_id, None)
        if number is None:
            return
        self.study.learn(number, self.read(number, result or {}, error))
        if self.study.deterministic:
            for earlier in self.running.values():
                known = self.stored(earlier) if earlier < number else None
                if known is not None:
                    self.study.learn(earlier, known)

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune pickles its searcher, and would restore it, but the store is the truth."""
        return {}

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the store is the truth, and the study replays it."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: the store is the truth, and the study replays it."""
