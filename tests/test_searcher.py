"""What Ray Tune is told, and what is made of its answers."""

from __future__ import annotations

from typing import Any

from optuna.distributions import FloatDistribution
from ray.tune.search import Searcher

from clray.job import Search
from clray.objective import Objective
from clray.searcher import TuneSearcher
from clray.study import Result, Study


def study(trials: int, lag: int) -> Study:
    objectives = (Objective.model_validate("forgetting"),)
    return Study({"x": FloatDistribution(0, 1)}, [], Search(), trials, lag, objectives)


def numbered(number: int, values: dict[str, Any]) -> dict[str, Any]:
    return {"number": number}


def nothing(number: int) -> Result | None:
    return None


def read(number: int, last: dict[str, Any], lost: bool) -> Result:
    if lost or not last:
        return Result("failed")
    return Result(last.get("state", "stopped"), last.get("measures", {}), tuple(last["trace"]))


def end(value: float | None) -> dict[str, Any]:
    return {"state": "completed", "score": 0.0, "measures": {"forgetting": value}, "trace": [0.1]}


def test_it_reads_every_kind_of_end() -> None:
    one = study(trials=5, lag=5)
    searcher = TuneSearcher(one, [], 5, numbered, nothing, read)
    assert (searcher.metric, searcher.mode) == ("score", "max")
    names = [f"trial-{n}" for n in range(5)]
    assert [searcher.suggest(name)["number"] for name in names] == [0, 1, 2, 3, 4]
    ends: list[Any] = [
        end(0.2),
        {"score": -0.01, "trace": [0.05]},  # stopped by a scheduler: no state
        {"state": "diverged", "score": 0.0, "trace": []},
        end(float("nan")),
        {},
    ]
    for name, last in zip(names, ends, strict=True):
        searcher.on_trial_complete(name, last)
    states = [one.results[n].state for n in range(5)]
    assert states == ["completed", "stopped", "diverged", "failed", "failed"]
    assert one.results[0].measures == {"forgetting": 0.2}
    assert (one.results[1].measures, one.results[1].trace) == ({}, (0.05,))
    assert searcher.suggest("more") == Searcher.FINISHED


def test_leftovers_come_before_new_proposals() -> None:
    one = study(trials=3, lag=3)
    left = [one.propose(), one.propose()]
    searcher = TuneSearcher(one, left, 1, numbered, nothing, read)
    assert searcher.suggest("a") == {"number": 0}
    assert searcher.suggest("b") is None  # one at once
    searcher.on_trial_complete("a", end(0.5))
    assert searcher.suggest("b") == {"number": 1}


def test_an_earlier_end_that_tune_reads_later_is_looked_up() -> None:
    one = study(trials=3, lag=2)
    ended = {0: Result("completed", {"forgetting": 0.25})}
    searcher = TuneSearcher(one, [], 2, numbered, ended.get, read)
    searcher.suggest("a")
    searcher.suggest("b")
    searcher.on_trial_complete("b", end(0.5))
    assert searcher.suggest("c") == {"number": 2}
    assert one.optuna.trials[0].value == 0.25
