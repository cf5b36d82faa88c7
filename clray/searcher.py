"""Proposals by Optuna, in an order that timing cannot change.

Trial n is proposed from the seed and from the results of the trials up to n minus the lag, told to
Optuna in the order of their numbers. So a sweep that starts anew proposes what it proposed before:
it replays, finds the results in the store, and goes on where nothing is stored.
"""

from __future__ import annotations

import math
import types
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Union, get_args, get_origin

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import TrialState
from ray.tune.search import Searcher

from clray.errors import BadSpec
from clray.spec import Dimension, Search

optuna.logging.set_verbosity(optuna.logging.WARNING)


@dataclass(frozen=True)
class Result:
    """What a trial came to.

    Attributes:
        state: completed, diverged, stopped or failed.
        value: the objective, larger is better; None unless completed.
        trace: the objective after each task, for trials that were stopped.
    """

    state: str
    value: float | None = None
    trace: tuple[float, ...] = ()


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


class Study:
    """The proposals of one method's search.

    Args:
        distributions: by dotted path.
        starting_points: proposed first; a knob that is left out is drawn.
        search: sampler, seed, and whether timing may matter.
        trials: how many proposals there are.
        lag: trial n waits for the results of trials up to n - lag.
    """

    def __init__(
        self,
        distributions: dict[str, BaseDistribution],
        starting_points: list[dict[str, Any]],
        search: Search,
        trials: int,
        lag: int,
    ) -> None:
        self.distributions = distributions
        self.trials = trials
        self.lag = lag
        self.deterministic = search.deterministic
        self.results: dict[int, Result] = {}
        self.proposed: list[optuna.trial.Trial] = []
        self.told = 0
        self.optuna = optuna.create_study(direction="maximize", sampler=_sampler(search))
        for point in starting_points:
            known = {path: value for path, value in point.items() if path in distributions}
            self.optuna.enqueue_trial(known)

    @property
    def finished(self) -> bool:
        """Whether there is nothing left to propose."""
        return len(self.proposed) == self.trials

    def may_propose(self) -> bool:
        """Whether the results that the next proposal depends on are known."""
        number = len(self.proposed)
        if self.finished:
            return False
        if self.deterministic:
            return all(n in self.results for n in range(self.told, number - self.lag + 1))
        return number - len(self.results) < self.lag

    def propose(self) -> tuple[int, dict[str, Any]]:
        """The next trial's number, and its values by dotted path."""
        number = len(self.proposed)
        if self.deterministic:
            while self.told <= number - self.lag:
                self._tell(self.told)
                self.told += 1
        trial = self.optuna.ask(self.distributions)
        self.proposed.append(trial)
        return number, {path: trial.params[path] for path in self.distributions}

    def learn(self, number: int, result: Result) -> None:
        """Take note of a result; the first one counts."""
        if number not in self.results:
            self.results[number] = result
            if not self.deterministic:
                self._tell(number)

    def _tell(self, number: int) -> None:
        trial, result = self.proposed[number], self.results[number]
        if result.state == "completed" and result.value is not None:
            self.optuna.tell(trial, result.value)
        elif result.state == "failed":
            self.optuna.tell(trial, state=TrialState.FAIL)
        else:
            # Stopped trials rank behind completed ones by how far they came; a diverged one has no
            # value at all and ranks last, so that the sampler learns to stay away. Told complete,
            # the first would look best; told failed, the second would teach nothing.
            for step, value in enumerate(result.trace if result.state == "stopped" else ()):
                trial.report(value, step)
            self.optuna.tell(trial, state=TrialState.PRUNED)


def _sampler(search: Search) -> optuna.samplers.BaseSampler:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return _make_sampler(search)


def _make_sampler(search: Search) -> optuna.samplers.BaseSampler:
    if search.sampler == "random":
        return optuna.samplers.RandomSampler(seed=search.seed)
    if search.sampler == "qmc":
        return optuna.samplers.QMCSampler(seed=search.seed, scramble=True)
    if search.sampler == "gp":
        return optuna.samplers.GPSampler(
            seed=search.seed, n_startup_trials=search.startup, deterministic_objective=True
        )
    return optuna.samplers.TPESampler(
        seed=search.seed,
        n_startup_trials=search.startup,
        multivariate=True,
        constant_liar=True,
    )


class TuneSearcher(Searcher):  # type: ignore[misc]
    """What Ray Tune asks for trials: a Study's proposals, those left over from its replay first.

    Args:
        study: proposes.
        leftover: (number, values) already proposed, whose results are not known.
        at_once: trials that may be under way.
        objective: the metric's name.
        config: makes the Tune trial's config of a proposal, with its ``key``.
        stored: the result of an ended trial, by key. Ends are sent in the order of their numbers,
            but Tune may read the later one first; were the earlier one then not looked up, the
            proposal would wait for it, and Tune would throw an idle process away.
    """

    def __init__(
        self,
        study: Study,
        leftover: list[tuple[int, dict[str, Any]]],
        at_once: int,
        objective: str,
        config: Callable[[int, dict[str, Any]], dict[str, Any]],
        stored: Callable[[str], Result | None],
    ) -> None:
        super().__init__(metric=objective, mode="max")
        self.study = study
        self.leftover = list(leftover)
        self.at_once = at_once
        self.config = config
        self.stored = stored
        self.running: dict[str, int] = {}
        self.keys: dict[int, str] = {}

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
        config = self.config(number, values)
        self.keys[number] = config["key"]
        return config

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Pass a trial's end on to the study: an error, or a last result without an end, too."""
        number = self.running.pop(trial_id, None)
        if number is None:
            return
        self.study.learn(number, self._read(result or {}, error))
        if self.study.deterministic:
            for earlier in self.running.values():
                known = self.stored(self.keys[earlier]) if earlier < number else None
                if known is not None:
                    self.study.learn(earlier, known)

    def _read(self, result: dict[str, Any], error: bool) -> Result:
        trace = tuple(result.get("trace", ()))
        if error or not result:
            return Result("failed")
        value = result.get(self.metric)
        state = result.get("state", "stopped")  # no end was reported: a scheduler stopped it
        if state == "completed" and (value is None or not math.isfinite(value)):
            return Result("failed")
        return Result(state, value if state == "completed" else None, trace)

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune pickles its searcher, and would restore it, but the store is the truth."""
        return {}

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the store is the truth, and the study replays it."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: the store is the truth, and the study replays it."""
