"""The rules by which Ray Tune stops trials early."""

from __future__ import annotations

import math
from dataclasses import dataclass

from clray.tune_search import MedianRule


@dataclass(frozen=True)
class _Named:
    trial_id: str


def test_the_median_rule_looks_at_where_trials_stand() -> None:
    told = {"time_attr": "step", "metric": "score", "mode": "max", "grace_period": 2}
    rule = MedianRule(3, **told, min_samples_required=2, min_time_slice=math.inf)

    def report(name: str, *scores: float) -> list[str]:
        """What becomes of a trial, after each of its steps."""
        trial = _Named(name)
        results = [{"step": step, "score": score} for step, score in enumerate(scores, start=1)]
        return [rule.on_trial_result(None, trial, result) for result in results]

    for honest in "abc":
        assert report(honest, 0.9, 0.8, 0.8, 0.8) == ["CONTINUE"] * 4
    # Perfect at first: by Tune's own rule it would pass for good, since that counts the best.
    assert report("trap", 1.0, 0.2) == ["CONTINUE", "STOP"]
    assert report("late", 0.9, 0.9, 0.9, 0.1) == ["CONTINUE"] * 4  # all but the last task learned
