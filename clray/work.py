"""What a slot is handed: the runs of one trial, one after another in the same workers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Literal

from clray.guard import Permission, own
from clray.spec import Spec, TrialSpec


class Work(Spec):
    """One trial's runs, and when to give up."""

    runs: tuple[TrialSpec, ...]
    """Complete specs."""
    permission: Permission
    """What all of them may read."""
    keep: bool = False
    """Whether each leaves a checkpoint for longer ones."""
    repeats: int = 1
    """How many of the runs, the last ones, are full and count."""
    metric: str = "average_accuracy"
    """The first objective."""
    sign: int = 1
    """1 where larger is better, else -1."""
    threshold: float | None = None
    """The trial ends after the first full run where its score is below this."""

    lenient: bool = False
    """Whether a value that turns out to be infeasible fails this trial alone."""

    waits: Literal["task", "epoch"] | None = None
    """Whether the slot waits, after each task or each run, until its reader has decided."""

    @classmethod
    def of(cls, spec: TrialSpec) -> Work:
        """The work of a trial that no protocol stands behind."""
        return cls(runs=(spec,), permission=own(spec))

    @property
    def keys(self) -> list[str]:
        """The keys of the runs."""
        return [run.key for run in self.runs]

    @property
    def first(self) -> int:
        """Index of the first full run."""
        return len(self.runs) - self.repeats

    def score(self, metrics: Mapping[str, float | None]) -> float | None:
        """A run's first objective, turned so that larger is better."""
        value = metrics.get(self.metric)
        return None if value is None else self.sign * value

    def is_hopeless(self, index: int, metrics: Mapping[str, float | None]) -> bool:
        """Whether the trial ends after the run of that index."""
        score = self.score(metrics)
        if index != self.first or self.repeats == 1 or self.threshold is None or score is None:
            return False
        return score < self.threshold


def in_turn(works: Iterable[Work]) -> Callable[[], Work | None]:
    """Gives one after another, then None."""
    left = iter(works)
    return lambda: next(left, None)
