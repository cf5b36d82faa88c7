"""Which knobs mattered, where that is known by construction."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from clray.importance import importances, matter
from clray.job import Search
from clray.objective import Objective
from clray.study import Result, Study

ACCURACY = Objective.model_validate("average_accuracy")
FORGETTING = Objective.model_validate("forgetting")
SPACE: dict[str, BaseDistribution] = {
    "strength": FloatDistribution(1, 10000, log=True),
    "rank": IntDistribution(1, 1024, log=True),
    "x": FloatDistribution(0, 1),
    "storage": CategoricalDistribution(["reservoir", "ring"]),
    "alone": CategoricalDistribution([1]),
}
Measure = Callable[[dict[str, Any]], float]


def searched(
    trials: int, accuracy: Measure, forgetting: Measure = lambda values: 0.0, **more: Any
) -> Study:
    one = Study(
        SPACE, [], Search(sampler=more.pop("sampler", "random")), trials, trials,
        (ACCURACY, FORGETTING), **more,
    )  # fmt: skip
    for number in range(trials):
        _, values = one.propose()
        measures = {"average_accuracy": accuracy(values), "forgetting": forgetting(values)}
        one.learn(number, Result("completed", measures))
    return one


def low(values: dict[str, Any]) -> float:
    """Only the lowest quarter of the logarithmic range stands out: 0.1 % of the linear one."""
    return float((values["strength"] < 10) + 0.3 * values["x"])


@pytest.mark.parametrize(("trials", "by"), [(60, None), (60, "ped-anova"), (160, None)])
def test_the_knob_that_matters_comes_first_on_its_own_scale(trials: int, by: Any) -> None:
    shares = importances(searched(trials, low), by=by)
    assert next(iter(shares)) == "strength"
    assert shares["strength"] > 0.5
    assert sum(shares.values()) == pytest.approx(1)
    assert set(shares) == set(SPACE) - {"alone"}
    assert importances(searched(trials, low), by=by) == shares


def test_each_objective_has_its_own() -> None:
    one = searched(40, lambda v: 0.1 * (v["storage"] == "ring"), lambda v: v["rank"] ** 0.1)
    assert next(iter(importances(one, 0))) == "storage"
    assert next(iter(importances(one, 1))) == "rank"
    assert next(iter(importances(one, 1, by="ped-anova"))) == "rank"


def test_nothing_is_said_where_nothing_is_known() -> None:
    assert importances(searched(3, low)) == {}
    assert importances(searched(20, low), 1) == {}  # the same everywhere
    one = Study({"x": FloatDistribution(0, 1)}, [], Search(), 8, 8, (ACCURACY,))
    for number in range(8):
        one.propose()
        one.learn(number, Result("completed", {"average_accuracy": number / 8}))
    assert importances(one) == {}


def test_earlier_trials_count_and_those_that_did_not_complete_do_not() -> None:
    before = searched(40, low)
    known = [(before.values(number), result) for number, result in before.results.items()]
    few = searched(2, low, known=known, sampler="tpe")
    assert next(iter(importances(few))) == "strength"
    one = Study(SPACE, [], Search(sampler="gp", startup=4), 12, 12, (ACCURACY, FORGETTING))
    for number in range(12):
        one.propose()
        one.learn(number, Result("diverged"))
    assert importances(one) == {}


def test_the_fewest_knobs_that_hold_a_share() -> None:
    shares = {"a": 0.2, "b": 0.5, "c": 0.3}
    assert matter(shares, 0.5) == ["b"]
    assert matter(shares, 0.8) == ["b", "c"]
    assert matter(shares, 0.81) == ["b", "c", "a"]
    assert matter({}, 0.8) == []
