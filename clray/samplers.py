"""Optuna's samplers: what each of them can do, and the distributions that they draw from.

=======  ==================  ===========  ==============
sampler  several objectives  constraints  earlier trials
=======  ==================  ===========  ==============
tpe      yes                 respected    learned from
gp       yes                 respected    learned from
cmaes    no                  refused      refused
auto     yes                 refused      learned from
nsga2    yes                 respected    refused
random   yes                 not needed   refused
qmc      yes                 not needed   refused
grid     yes                 not needed   refused
=======  ==================  ===========  ==============

"Not needed": the sampler heeds no result at all, so constraints only decide who wins.
"""

from __future__ import annotations

import importlib.util
import itertools
import math
import random
import types
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Union, get_args, get_origin

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.samplers import BaseSampler

from clray.errors import BadSpec
from clray.job import Search
from clray.space import Dimension

optuna.logging.set_verbosity(optuna.logging.ERROR)

WHERE = "search.sampler"
REPEATABLE = frozenset({"tpe", "random", "grid", "gp"})
"""Samplers without a memory of their own: what they propose follows from a seed and the trials."""
LEARNING = frozenset({"tpe", "gp", "auto"})
"""Samplers that make use of trials which they did not propose."""
BLIND = frozenset({"gp", "auto"})
"""Samplers that would propose the same point for ever if trials without a value were left out."""


def distribution(dimension: Dimension, annotation: Any, where: str) -> BaseDistribution:
    """Optuna's form of a searched dimension, for a knob of the annotated type.

    Raises:
        BadSpec: a range that does not suit the knob.
    """
    if dimension.choice is not None:
        return CategoricalDistribution(dimension.choice)
    assert dimension.range is not None
    low, high = dimension.range
    if _takes(annotation, float):
        return FloatDistribution(low, high, log=dimension.log, step=dimension.step)
    if not _takes(annotation, int):
        raise BadSpec(where, list(dimension.range), "choice: [...]: this knob is no number")
    step = 1.0 if dimension.step is None else dimension.step
    if not all(number.is_integer() for number in (low, high, step)):
        raise BadSpec(where, list(dimension.range), "whole numbers: this knob is an integer")
    return IntDistribution(int(low), int(high), log=dimension.log, step=int(step))


def _takes(annotation: Any, kind: type) -> bool:
    if get_origin(annotation) in (Union, types.UnionType):
        return any(_takes(argument, kind) for argument in get_args(annotation))
    return annotation is kind


def inside(
    values: Mapping[str, Any], distributions: Mapping[str, BaseDistribution]
) -> dict[str, Any] | None:
    """The values of these distributions, in their types; None where one lies outside."""
    kept = {}
    for path in (path for path in distributions if path in values):
        one = distributions[path]
        try:
            number = one.to_internal_repr(values[path])
        except ValueError:
            return None
        if not one._contains(number):
            return None
        kept[path] = one.to_external_repr(number)
    return kept


@contextmanager
def quiet() -> Iterator[None]:
    """Keeps Optuna's remarks, such as that a sampler is experimental, off the terminal."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def check(
    search: Search,
    distributions: Mapping[str, BaseDistribution],
    objectives: int,
    constrained: bool,
    warm: bool,
) -> None:
    """Refuse what the sampler cannot do.

    Args:
        search: names the sampler.
        distributions: what is searched.
        objectives: how many.
        constrained: whether there are constraints.
        warm: whether it is to learn from earlier trials.

    Raises:
        BadSpec: the sampler does not serve such a search, or a package of it is missing.
    """
    name = search.sampler
    if name in ("cmaes", "auto") and importlib.util.find_spec("cmaes") is None:
        raise BadSpec(WHERE, name, f"another one, or the package cmaes: pip install clray[{name}]")
    if name == "cmaes" and objectives > 1:
        raise BadSpec(WHERE, name, "tpe, gp, nsga2, auto, random, qmc or grid: several objectives")
    if name in ("cmaes", "auto") and constrained:
        raise BadSpec(WHERE, name, "tpe, gp, nsga2, random, qmc or grid: there are constraints")
    numbers = [one for one in distributions.values() if not _is_choice(one)]
    if name == "cmaes" and distributions and not numbers:
        raise BadSpec(WHERE, name, "another one: cmaes needs a range, all of these are choices")
    if warm and name not in LEARNING:
        raise BadSpec("search.warm_start", name, f"sampler {', '.join(sorted(LEARNING))}")
    if name == "auto":
        _auto()
    if name == "grid":
        for path, one in distributions.items():
            levels(one, path)


def make(search: Search, seed: int) -> BaseSampler:
    """The sampler that a search names.

    Args:
        search: names it.
        seed: of its draws.

    Raises:
        BadSpec: a package of it is missing or out of reach.
    """
    with quiet():
        if search.sampler == "tpe":
            return optuna.samplers.TPESampler(
                seed=seed,
                n_startup_trials=search.startup,
                multivariate=True,
                group=True,
                constant_liar=True,
            )
        if search.sampler == "gp":
            return optuna.samplers.GPSampler(
                seed=seed,
                n_startup_trials=search.startup,
                deterministic_objective=True,
                warn_independent_sampling=False,
            )
        if search.sampler == "cmaes":  # choices are drawn at random
            return optuna.samplers.CmaEsSampler(
                seed=seed,
                n_startup_trials=search.startup,
                with_margin=True,  # whole numbers do not get stuck
                warn_independent_sampling=False,
            )
        if search.sampler == "nsga2":
            return optuna.samplers.NSGAIISampler(seed=seed, population_size=max(2, search.startup))
        if search.sampler == "qmc":
            return optuna.samplers.QMCSampler(
                seed=seed, scramble=True, warn_independent_sampling=False
            )
        if search.sampler == "auto":
            sampler: BaseSampler = _auto()(seed=seed)
            return sampler
        return optuna.samplers.RandomSampler(seed=seed)  # random, and what a grid leaves open


def _auto() -> Any:
    if importlib.util.find_spec("optunahub") is None:
        accepted = "another one, or the package optunahub: pip install clray[auto]"
        raise BadSpec(WHERE, "auto", accepted)
    import optunahub  # an extra

    try:
        return optunahub.load_module("samplers/auto_sampler").AutoSampler
    except Exception as error:  # git's, the network's, Python's: whatever keeps it from us
        reason = str(error).strip().rpartition("\n")[2].strip() or type(error).__name__
        accepted = f"another one: OptunaHub, where this one lies, cannot be reached ({reason})"
        raise BadSpec(WHERE, "auto", accepted) from None


def levels(one: BaseDistribution, path: str) -> list[Any]:
    """Every value of a finite dimension, in order.

    Raises:
        BadSpec: it has no end of values.
    """
    if isinstance(one, CategoricalDistribution):
        return list(one.choices)
    if isinstance(one, IntDistribution):
        return list(range(one.low, one.high + 1, one.step))
    assert isinstance(one, FloatDistribution)
    if one.step is None:
        accepted = "choice: [...], or a range with step: sampler grid tries every combination"
        raise BadSpec(path, [one.low, one.high], accepted)
    count = round((one.high - one.low) / one.step) + 1
    return [round(one.low + index * one.step, 12) for index in range(count)]


def grid(
    distributions: Mapping[str, BaseDistribution],
    points: Sequence[Mapping[str, Any]],
    seed: int,
    trials: int,
) -> list[dict[str, Any]]:
    """The first combinations of a finite space: the starting points, then in a random order.

    Args:
        distributions: the space.
        points: inside it; a knob that is left out is drawn.
        seed: of the order.
        trials: how many at most.

    Raises:
        BadSpec: a dimension has no end of values.
    """
    values = [levels(one, path) for path, one in distributions.items()]
    draw = random.Random(seed)
    first = [
        tuple(
            round(_position(one, point[path])) if path in point else draw.randrange(len(known))
            for (path, one), known in zip(distributions.items(), values, strict=True)
        )
        for point in points
    ]
    total = math.prod(len(known) for known in values)
    some = draw.sample(range(total), min(total, trials + len(first)))
    order = dict.fromkeys(itertools.chain(first, (_unravel(index, values) for index in some)))
    return [
        {
            path: known[index]
            for path, known, index in zip(distributions, values, chosen, strict=True)
        }
        for chosen in itertools.islice(order, trials)
    ]


def _position(one: BaseDistribution, value: Any) -> float:
    number = float(one.to_internal_repr(value))
    if isinstance(one, FloatDistribution | IntDistribution):
        return (number - float(one.low)) / float(one.step or 1)
    return number


def _unravel(index: int, values: Sequence[Sequence[Any]]) -> tuple[int, ...]:
    chosen = []
    for known in values:
        index, position = divmod(index, len(known))
        chosen.append(position)
    return tuple(chosen)


def _is_choice(one: BaseDistribution) -> bool:
    return isinstance(one, CategoricalDistribution)
