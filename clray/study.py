"""Proposals by Optuna, in an order that timing cannot change.

Trial n is proposed from the seed and from the results of the trials up to n minus the lag, told to
Optuna in the order of their numbers. So a sweep that starts anew proposes what it proposed before:
it replays, finds the results in the store, and goes on where nothing is stored. What an earlier
start proposed need not be worked out again: see ``Study.propose``.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from clray import samplers
from clray.errors import BadSpec
from clray.job import Search
from clray.objective import Constraint, Measures, Objective


@dataclass(frozen=True)
class Result:
    """What a trial came to.

    Attributes:
        state: completed, diverged, stopped or failed.
        measures: means over the trial's runs; empty unless completed.
        trace: the first objective's measure after each task (or rung), for trials that were
            stopped.
    """

    state: str
    measures: Measures = field(default_factory=dict)
    trace: tuple[float, ...] = ()


Known = tuple[Mapping[str, Any], Result]
"""A trial of an earlier job: its values by dotted path, and what it came to."""


class Study:
    """The proposals of one method's search.

    Args:
        distributions: by dotted path.
        starting_points: proposed first; a knob that is left out is drawn.
        search: sampler, seed, and whether timing may matter.
        trials: how many proposals there are; fewer where the sampler is a grid with fewer points.
        lag: trial n waits for the results of trials up to n - lag.
        objectives: what is optimised.
        constraints: what a winner must keep.
        known: trials of earlier jobs, which the sampler knows before its first proposal. They are
            neither counted nor numbered. One whose values lie outside the distributions, or that
            lacks one of them, is passed over; so are failed ones, and values of other knobs.

    Raises:
        BadSpec: the sampler cannot serve such a search, or a starting point lies outside.
    """

    def __init__(
        self,
        distributions: dict[str, BaseDistribution],
        starting_points: Sequence[Mapping[str, Any]],
        search: Search,
        trials: int,
        lag: int,
        objectives: tuple[Objective, ...],
        constraints: tuple[Constraint, ...] = (),
        known: Sequence[Known] = (),
    ) -> None:
        samplers.check(search, distributions, len(objectives), bool(constraints), bool(known))
        self.distributions = distributions
        self.search = search
        self.lag = lag
        self.deterministic = search.deterministic
        self.objectives, self.constraints = objectives, constraints
        self.points = [self._point(point) for point in starting_points]
        if search.sampler == "grid":
            self.points = samplers.grid(distributions, self.points, search.seed, trials)
            trials = len(self.points)
        self.trials = trials
        self.results: dict[int, Result] = {}
        self.learned: dict[int, datetime] = {}
        self.proposed: list[optuna.trial.Trial] = []
        self.told = 0
        self.worst: list[float] | None = None
        self.earlier = self._earlier(known)
        self.optuna = optuna.create_study(
            directions=[objective.direction for objective in objectives],
            sampler=samplers.make(search, search.seed),
        )
        for trial in self.earlier:
            self.optuna.add_trial(trial)

    def _point(self, point: Mapping[str, Any]) -> dict[str, Any]:
        values = samplers.inside(point, self.distributions)
        if values is None:
            raise BadSpec("start", dict(point), "values that the search itself could propose")
        return values

    def _earlier(self, known: Sequence[Known]) -> list[FrozenTrial]:
        trials = []
        for given, result in known:
            values = samplers.inside(given, self.distributions)
            result = self._counted(result)
            if values is None or len(values) < len(self.distributions) or result.state == "failed":
                continue
            trials.append(self._as_told(values, result))
        return trials

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

    def propose(self, before: Mapping[str, Any] | None = None) -> tuple[int, dict[str, Any]]:
        """The next trial's number, and its values by dotted path.

        Args:
            before: what an earlier start of the same search proposed at this number. It saves the
                sampler's work; samplers that would miss that work later (cmaes, nsga2, qmc, auto)
                answer the same anew. Where timing matters, so that they might not, it is taken.
        """
        number = len(self.proposed)
        if self.deterministic:
            while self.told <= number - self.lag:
                self._tell(self.told)
                self.told += 1
        fixed = self.points[number] if number < len(self.points) else {}
        repeatable = self.search.sampler in samplers.REPEATABLE
        if before is not None and (repeatable or not self.deterministic):
            same = samplers.inside(before, self.distributions)
            if same is not None and len(same) == len(self.distributions):
                fixed = same
        with samplers.quiet():
            if fixed:
                self.optuna.enqueue_trial(fixed)
            if repeatable and len(fixed) < len(self.distributions):
                # A seed for each number: nothing that was drawn before, or not, has an influence.
                self.optuna.sampler = samplers.make(self.search, _seed(self.search.seed, number))
            trial = self.optuna.ask(self.distributions)
        self.proposed.append(trial)
        return number, self.values(number)

    def values(self, number: int) -> dict[str, Any]:
        """What was proposed at a number, by dotted path."""
        values = samplers.inside(self.proposed[number].params, self.distributions)
        assert values is not None
        return values

    def learn(self, number: int, result: Result) -> None:
        """Take note of a result; the first one counts.

        A completed trial without a finite measure of every objective counts as failed.
        """
        if number not in self.results:
            self.results[number] = self._counted(result)
            self.learned[number] = datetime.now()
            if not self.deterministic:
                self._tell(number)

    def _counted(self, result: Result) -> Result:
        if result.state != "completed":
            return result
        values = [result.measures.get(objective.metric) for objective in self.objectives]
        if all(value is not None and math.isfinite(value) for value in values):
            return result
        return Result("failed", result.measures, result.trace)

    def _tell(self, number: int) -> None:
        trial = self.proposed[number]
        told = self._as_told(self.values(number), self.results[number])
        with samplers.quiet():
            for name, excess in told.constraints.items():
                trial.set_constraint(name, excess)
            if told.state == TrialState.PRUNED:
                for step, value in told.intermediate_values.items():
                    trial.report(value, step)
            values = told.values if told.state == TrialState.COMPLETE else None
            self.optuna.tell(trial, values, state=told.state)

    def _as_told(self, values: dict[str, Any], result: Result) -> FrozenTrial:
        """A trial as the sampler sees it.

        A Gaussian process models completed trials alone, so it would propose the best-looking
        point again and again where trials diverge or are stopped: it is told the worst so far.
        """
        trial = self.as_trial(values, result)
        if trial.state == TrialState.COMPLETE:
            signs = [objective.sign for objective in self.objectives]
            worst = trial.values if self.worst is None else self.worst
            pairs = zip(signs, worst, trial.values, strict=True)
            self.worst = [sign * min(sign * a, sign * b) for sign, a, b in pairs]
        blind = trial.state == TrialState.PRUNED and self.search.sampler in samplers.BLIND
        if blind and self.worst is not None:
            return create_trial(
                values=self.worst,
                params=values,
                distributions=self.distributions,
                constraints=dict.fromkeys(self._names(), math.inf),
            )
        return trial

    def as_trial(self, values: dict[str, Any], result: Result) -> FrozenTrial:
        """A trial as it was, in Optuna's form.

        Stopped trials rank behind completed ones by how far they came; a diverged one has no value
        at all and ranks last, so that the sampler learns to stay away. Told complete, the first
        would look best; told failed, the second would teach nothing. With several objectives
        Optuna takes no values of a pruned trial: both then rank behind all completed ones, and
        neither can be on the front.
        """
        state = {"completed": TrialState.COMPLETE, "failed": TrialState.FAIL}.get(
            result.state, TrialState.PRUNED
        )
        measured = [result.measures.get(objective.metric) for objective in self.objectives]
        traced = result.state == "stopped" and len(self.objectives) == 1
        # What diverged breaks every constraint: otherwise it would rank above what breaks one.
        judged = self.constraints if result.state in ("completed", "diverged") else ()
        return create_trial(
            state=state,
            values=[v for v in measured if v is not None] if result.state == "completed" else None,
            params=values,
            distributions=self.distributions,
            intermediate_values=dict(enumerate(result.trace)) if traced else {},
            constraints={
                name: constraint.excess(result.measures)
                for name, constraint in zip(self._names(), judged, strict=False)
            },
        )

    def _names(self) -> list[str]:
        return [str(constraint.model_dump()) for constraint in self.constraints]


def _seed(seed: int, number: int) -> int:
    return random.Random(f"{seed}/{number}").getrandbits(32)
