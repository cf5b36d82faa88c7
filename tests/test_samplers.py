"""Which sampler serves what, and that the others are refused before anything starts."""

from __future__ import annotations

import importlib.util
import sys
import types
import warnings
from typing import Any

import optuna
import pytest
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from clray import samplers
from clray.errors import BadSpec
from clray.job import Search
from clray.objective import Constraint, Objective
from clray.samplers import distribution
from clray.space import Dimension
from clray.study import Result, Study

ACCURACY = Objective.model_validate("average_accuracy")
GROWTH = Objective.model_validate("growth")
SMALL = Constraint.model_validate("growth <= 0.5")
MIXED: dict[str, BaseDistribution] = {
    "method.strength": FloatDistribution(1, 10, log=True),
    "method.storage": CategoricalDistribution(["reservoir", "ring", None]),
    "protocol.epochs": IntDistribution(1, 4, log=True),
}


def build(sampler: Any, space: dict[str, BaseDistribution] = MIXED, **more: Any) -> Study:
    given = {"objectives": (ACCURACY,), "trials": 12, "lag": 1, **more}
    return Study(space, given.pop("points", []), Search(sampler=sampler, startup=4), **given)


def run(one: Study) -> list[dict[str, Any]]:
    proposals = []
    for number in range(one.trials):
        proposals.append(one.propose()[1])
        measures = {"average_accuracy": number / 20, "growth": 0.1 * (number % 3)}
        one.learn(number, Result("completed", measures))
    return proposals


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("sampler", ["tpe", "random", "gp", "nsga2", "qmc", "cmaes"])
def test_every_sampler_serves_a_mixed_space_in_silence(
    sampler: str, several: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    if sampler == "cmaes":
        pytest.importorskip("cmaes")
    plain = sampler == "cmaes"
    more: dict[str, Any] = {} if plain else {"constraints": (SMALL,)}
    more["trials"] = 8
    if several and not plain:
        more["objectives"] = (ACCURACY, GROWTH)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        proposals = run(build(sampler, **more))
    assert len({tuple(values.values()) for values in proposals}) > 4
    for values in proposals:
        types_ = [type(value) for value in values.values()]
        assert types_[0] is float
        assert types_[1] in (str, type(None))
        assert types_[2] is int
    assert capfd.readouterr() == ("", "")


def test_a_grid_tries_every_combination_once_in_a_random_order() -> None:
    space: dict[str, BaseDistribution] = {
        "a": FloatDistribution(0.1, 0.5, step=0.2),
        "b": CategoricalDistribution(["x", "y", None]),
        "c": IntDistribution(2, 6, step=2),
    }
    one = build("grid", space, trials=100)
    assert one.trials == 27
    proposals = run(one)
    every = {tuple(values.values()) for values in proposals}
    assert len(every) == 27
    assert {a for a, _, _ in every} == {0.1, 0.3, 0.5}
    assert [tuple(values.values()) for values in proposals] != sorted(every, key=str)
    assert one.finished
    point = {"a": 0.30000000000000004, "c": 6}  # its third knob is drawn
    few = build("grid", space, trials=4, points=[point, {**proposals[5]}])
    ordered = run(few)
    assert len(ordered) == 4
    assert (ordered[0]["a"], ordered[0]["c"]) == (0.3, 6)
    assert ordered[1] == proposals[5]
    assert run(build("grid", {}, trials=3)) == [{}]


REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "a grid without end": ("grid", {}, "method.strength.*step"),
    "cmaes on two objectives": ("cmaes", {"objectives": (ACCURACY, GROWTH)}, "several objectives"),
    "cmaes with constraints": ("cmaes", {"constraints": (SMALL,)}, "constraints"),
    "cmaes on choices": ("cmaes", {"space": {"c": CategoricalDistribution([1, 2])}}, "choices"),
    "auto with constraints": ("auto", {"constraints": (SMALL,)}, "constraints"),
}
EARLIER: dict[str, Any] = {"known": [({}, Result("failed"))]}
for _sampler in ("random", "qmc", "nsga2", "cmaes"):
    REFUSED[f"{_sampler} with earlier trials"] = (_sampler, EARLIER, "warm_start")


@pytest.mark.parametrize("case", REFUSED)
def test_what_a_sampler_cannot_do_is_refused(case: str) -> None:
    sampler, more, message = REFUSED[case]
    if sampler in ("cmaes", "auto"):
        pytest.importorskip("cmaes")
    with pytest.raises(BadSpec, match=message):
        build(sampler, **more)


def test_packages_that_are_missing_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(BadSpec, match=r"clray\[cmaes\]"):
        build("cmaes")
    present = {"cmaes": True}
    monkeypatch.setattr(importlib.util, "find_spec", present.get)
    with pytest.raises(BadSpec, match=r"optunahub.*clray\[auto\]"):
        build("auto")


def test_auto_is_fetched_from_optunahub_or_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def load(name: str) -> Any:
        asked.append(name)
        if len(asked) > 2:
            raise OSError("fetch failed:\ncould not resolve host")
        return types.SimpleNamespace(AutoSampler=optuna.samplers.TPESampler)

    hub = types.ModuleType("optunahub")
    hub.load_module = load  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "optunahub", hub)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    one = build("auto")
    assert isinstance(one.optuna.sampler, optuna.samplers.TPESampler)
    assert set(asked) == {"samplers/auto_sampler"}
    with pytest.raises(BadSpec, match=r"cannot be reached \(could not resolve host\)"):
        build("auto")


def test_types_come_from_the_knob() -> None:
    whole = distribution(Dimension.model_validate({"range": [1, 8], "log": True}), int, "k")
    assert whole == IntDistribution(1, 8, log=True)
    optional = distribution(Dimension.model_validate({"range": [0.5, 1]}), float | None, "k")
    assert optional == FloatDistribution(0.5, 1)
    with pytest.raises(BadSpec, match="integer"):
        distribution(Dimension.model_validate({"range": [0.5, 8]}), int, "k")
    with pytest.raises(BadSpec, match="choice"):
        distribution(Dimension.model_validate({"range": [0, 8]}), str, "k")
    assert samplers.inside({"k": 9}, {"k": whole}) is None
    assert samplers.inside({"other": 9}, {"k": whole}) == {}
