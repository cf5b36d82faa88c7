"""Traps of Optuna, and the promise that timing and restarts change nothing."""

from __future__ import annotations

import random
from typing import Any

import pytest
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import TrialState

from clray import samplers
from clray.errors import BadSpec
from clray.job import Search
from clray.objective import Constraint, Objective, feasible, front, scores
from clray.study import Result, Study

ACCURACY = Objective.model_validate("average_accuracy")
GROWTH = Objective.model_validate("growth")
SMALL = Constraint.model_validate("growth <= 0.2")
SPACE: dict[str, BaseDistribution] = {
    "method.strength": FloatDistribution(1, 1e4, log=True),
    "optimizer.lr": FloatDistribution(1e-3, 0.3, log=True),
    "protocol.epochs": IntDistribution(1, 5),
}
FINITE: dict[str, BaseDistribution] = {
    "method.strength": FloatDistribution(100, 400, step=100),
    "optimizer.lr": CategoricalDistribution([0.01, 0.1]),
    "protocol.epochs": IntDistribution(1, 5, step=2),
}
START = [{"method.strength": 100.0}]


def study(trials: int = 14, lag: int = 2, several: bool = False, **search: Any) -> Study:
    space = FINITE if search.get("sampler") == "grid" else SPACE
    objectives = (ACCURACY, GROWTH) if several else (ACCURACY,)
    return Study(space, START, Search(startup=4, **search), trials, lag, objectives)


def done(accuracy: float | None, growth: float | None = 0.0) -> Result:
    return Result("completed", {"average_accuracy": accuracy, "growth": growth})


def outcome(number: int, values: dict[str, Any]) -> Result:
    """What a trial comes to: now and then it ends in another way than it should."""
    strength, lr = float(values["method.strength"]), float(values["optimizer.lr"])
    accuracy = 1 / (1 + abs(strength - 300) / 300 + lr)
    if number % 7 == 3:
        return Result("diverged")
    if number % 7 == 5:
        return Result("stopped", trace=(accuracy, accuracy / 2))
    return done(None if number % 7 == 6 else accuracy, values["protocol.epochs"] * lr)


def drive(one: Study, slots: int, order: random.Random) -> list[dict[str, Any]]:
    """Run a study whose trials end in a random order; what it proposed."""
    proposals: list[dict[str, Any]] = []
    running: dict[int, dict[str, Any]] = {}
    while len(one.results) < one.trials:
        while one.may_propose() and len(running) < slots:
            number, values = one.propose()
            assert number == len(proposals)
            proposals.append(values)
            running[number] = values
        number = order.choice(list(running))
        one.learn(number, outcome(number, running.pop(number)))
    return proposals


SAMPLERS = [
    (sampler, several)
    for sampler in ("tpe", "random", "grid", "gp", "cmaes", "nsga2", "qmc")
    for several in (False, True)
    if (sampler, several) != ("cmaes", True)
]


@pytest.mark.parametrize(("sampler", "several"), SAMPLERS)
def test_timing_and_restarts_change_no_proposal(sampler: str, several: bool) -> None:
    if sampler == "cmaes":
        pytest.importorskip("cmaes")
    trials = 7 if sampler == "gp" else 16

    def fresh() -> Study:
        return study(trials, lag=3, several=several, sampler=sampler)

    whole = drive(fresh(), 3, random.Random(0))
    assert len(whole) == trials
    assert drive(fresh(), 1, random.Random(1)) == whole
    for ended in range(1, trials, 3):  # the start before learned of so many, and was killed
        again = fresh()
        for number in range(trials):
            known = whole[number] if number < ended + 3 else None
            assert again.may_propose()
            assert again.propose(known) == (number, whole[number])
            again.learn(number, outcome(number, whole[number]))


@pytest.mark.parametrize("sampler", sorted(samplers.REPEATABLE))
def test_what_was_proposed_before_is_not_worked_out_again(
    sampler: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = drive(study(8, sampler=sampler), 2, random.Random(0))
    again = study(8, sampler=sampler)
    monkeypatch.setattr(samplers, "make", lambda *_: pytest.fail("the sampler was asked"))
    for number, values in enumerate(whole):
        assert again.propose(values) == (number, values)
        again.learn(number, outcome(number, values))


def test_where_timing_matters_a_restart_keeps_what_was_proposed() -> None:
    one = study(4, sampler="nsga2", deterministic=False)
    odd = {"method.strength": 2.0, "optimizer.lr": 0.01, "protocol.epochs": 3}
    assert one.propose(odd) == (0, odd)
    one = study(4, sampler="tpe")
    assert one.propose({**odd, "protocol.epochs": 9})[1] != odd  # not of this search


def test_seeds_differ_and_zero_is_a_seed() -> None:
    first, same, other = (drive(study(seed=s), 2, random.Random(0)) for s in (0, 0, 1))
    assert first == same
    assert first[1:] != other[1:]


def test_starting_points_come_first_and_are_used() -> None:
    whole = {"method.strength": 7.0, "optimizer.lr": 0.02, "protocol.epochs": 2}
    one = Study(SPACE, [whole, {"method.strength": 9}], Search(), 3, 3, (ACCURACY,))
    assert one.propose() == (0, whole)
    assert one.propose()[1]["method.strength"] == 9.0
    with pytest.raises(BadSpec, match="start"):
        Study(FINITE, [{"method.strength": 150.0}], Search(), 3, 3, (ACCURACY,))


def test_proposals_wait_for_the_results_that_they_depend_on() -> None:
    one = study(lag=2)
    one.propose()
    one.propose()
    assert not one.may_propose()
    one.learn(1, done(0.9))
    assert not one.may_propose()  # trial 2 depends on trial 0, not on whichever was quick
    one.learn(0, done(0.1))
    assert one.may_propose()
    relaxed = study(lag=2, deterministic=False)
    relaxed.propose()
    relaxed.propose()
    relaxed.learn(1, done(0.9))
    assert relaxed.may_propose()


def test_no_trial_is_left_running_and_stopped_ones_do_not_look_best() -> None:
    one = study(trials=7, lag=1, sampler="random")
    results = [
        done(0.5),
        Result("stopped", trace=(0.99, 0.9)),
        Result("diverged"),
        Result("failed"),
        done(float("nan")),
        done(0.6),
    ]
    for number, result in enumerate(results):
        one.propose()
        one.learn(number, result)
    one.propose()
    states = [trial.state for trial in one.optuna.trials]
    complete, pruned, failed = TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL
    assert states == [complete, pruned, pruned, failed, failed, complete, TrialState.RUNNING]
    assert one.results[4].state == "failed"
    assert one.optuna.best_trial.number == 5
    assert one.optuna.trials[1].intermediate_values == {0: 0.99, 1: 0.9}


@pytest.mark.parametrize(
    ("sampler", "trials", "several"), [("tpe", 40, False), ("tpe", 40, True), ("gp", 16, False)]
)
def test_the_sampler_learns_to_stay_away_from_where_trials_diverge(
    sampler: str, trials: int, several: bool
) -> None:
    space: dict[str, BaseDistribution] = {
        "x": FloatDistribution(0, 1),
        "y": FloatDistribution(0, 1),
    }
    objectives = (ACCURACY, GROWTH) if several else (ACCURACY,)
    one = Study(space, [], Search(startup=8, sampler=sampler), trials, 1, objectives)
    diverged = 0
    for number in range(trials):
        _, values = one.propose()
        if values["x"] > 0.3:
            diverged += number >= 8
            one.learn(number, Result("diverged"))
        else:
            # It seems to get better the nearer it comes to where it diverges.
            one.learn(number, done(values["x"] - (values["y"] - 0.5) ** 2, values["y"]))
    assert diverged < 0.6 * (trials - 8)
    if sampler == "tpe":
        assert {t.number for t in one.optuna.best_trials} <= {
            number for number, result in one.results.items() if result.state == "completed"
        }


def test_several_objectives_have_a_front_and_each_its_direction() -> None:
    one = study(trials=20, several=True, sampler="nsga2")
    drive(one, 2, random.Random(0))
    one._tell(18)
    one._tell(19)
    ended = [n for n, result in one.results.items() if result.state == "completed"]
    points = [scores(one.results[n].measures, one.objectives) or () for n in ended]
    assert [t.number for t in one.optuna.best_trials] == sorted(ended[i] for i in front(points))
    assert [one.results[n].state for n in (3, 5, 6)] == ["diverged", "stopped", "failed"]


@pytest.mark.parametrize("sampler", ["tpe", "gp", "nsga2"])
def test_constraints_are_heeded_and_decide_who_is_best(sampler: str) -> None:
    trials = 16 if sampler == "gp" else 40
    space: dict[str, BaseDistribution] = {
        "x": FloatDistribution(0, 1),
        "y": FloatDistribution(0, 1),
    }
    search = Search(startup=8, sampler=sampler)
    one = Study(space, [{"x": 1.0}], search, trials, 1, (ACCURACY,), (SMALL,))
    for number in range(trials):  # the more it grows, the better it is
        _, values = one.propose()
        better = done(values["x"] + values["y"], values["x"])
        one.learn(number, Result("diverged") if number == 1 else better)
    one._tell(trials - 1)
    kept = [n for n, result in one.results.items() if feasible(result.measures, (SMALL,))]
    # A fifth of the space is feasible; without constraints a tenth of the proposals would be.
    assert len([n for n in kept if n >= 8]) > 0.3 * (trials - 8)
    best = max(kept, key=lambda n: (one.results[n].measures["average_accuracy"], -n))
    assert one.optuna.best_trial.number == best
    assert one.optuna.trials[0].constraints == {"growth <= 0.2": 0.8}
    assert one.optuna.trials[1].constraints == {"growth <= 0.2": float("inf")}


def test_earlier_trials_are_known_but_neither_counted_nor_numbered() -> None:
    good = {"method.strength": 30.0, "optimizer.lr": 0.01, "protocol.epochs": 2}
    known = [({**good, "method.strength": 30.0 + n, "model.width": 9}, done(0.9)) for n in range(4)]
    known += [({**good, "method.strength": 5000.0 + n}, done(0.1)) for n in range(4)]
    passed_over = [
        ({**good, "method.strength": 1e5}, done(0.9)),  # outside
        ({"method.strength": 10.0}, done(0.9)),  # a knob is missing
        (good, done(None)),
        (good, Result("failed")),
    ]
    near, far = 0, 0
    for seed in range(20):
        search = Search(startup=4, seed=seed)
        one = Study(SPACE, [], search, 2, 1, (ACCURACY,), known=known + passed_over)
        assert len(one.earlier) == 8
        number, values = one.propose()
        assert number == 0
        near += 10 < values["method.strength"] < 100
        far += values["method.strength"] > 1000
    assert near > 2 * far  # the first proposal is no random one
    again = Study(SPACE, [], search, 2, 1, (ACCURACY,), known=known)
    assert again.propose(values) == (0, values)
