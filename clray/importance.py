"""How much each knob mattered: its share in the variance of an objective."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import optuna
from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from clray.samplers import quiet
from clray.study import Study

LEAST = 4
"""Fewer completed trials say nothing."""
MANY = 100
"""More completed trials are judged by PED-ANOVA, which stays quick."""


def importances(
    study: Study, objective: int = 0, by: Literal["fanova", "ped-anova"] | None = None
) -> dict[str, float]:
    """The shares of the searched knobs by dotted path, the largest first; together 1.

    fANOVA (Hutter et al. 2014) asks what moves the objective anywhere in the space, PED-ANOVA
    (Watanabe et al. 2023, arXiv 2304.10255) what it takes to be among the best tenth. Knobs with a
    logarithmic range are judged on that scale. Completed trials of earlier jobs count too.

    Args:
        study: with its results.
        objective: which one, by position.
        by: which measure of importance; by default fANOVA, and PED-ANOVA where trials are many.

    Returns:
        Nothing where nothing can be said: fewer than 4 completed trials, fewer than two knobs with
        more than one value, or an objective that never changes.
    """
    trials = [
        study.as_trial(study.values(number), result)
        for number, result in sorted(study.results.items())
        if result.state == "completed"
    ]
    trials += [trial for trial in study.earlier if trial.state == TrialState.COMPLETE]
    searched = [path for path, one in study.distributions.items() if not one.single()]
    if len(trials) < LEAST or len(searched) < 2:
        return {}
    # The best tenth, to PED-ANOVA, are those with the lowest values.
    sign = -study.objectives[objective].sign
    if len({trial.values[objective] for trial in trials}) == 1:
        return {}
    evaluator: optuna.importance.BaseImportanceEvaluator
    if by == "ped-anova" or (by is None and len(trials) > MANY):
        evaluator = optuna.importance.PedAnovaImportanceEvaluator()
    else:
        evaluator = optuna.importance.FanovaImportanceEvaluator(seed=study.search.seed)
    with quiet():
        seen = optuna.create_study(directions=[o.direction for o in study.objectives])
        seen.add_trials([_on_their_scales(trial) for trial in trials])
        shares = optuna.importance.get_param_importances(
            seen,
            evaluator=evaluator,
            params=searched,
            target=lambda trial: sign * trial.values[objective],
            normalize=False,
        )
    total = sum(shares.values())
    if total == 0:
        return {}
    ranked = sorted(shares.items(), key=lambda item: -item[1])
    return {path: float(share / total) for path, share in ranked}


def _on_their_scales(trial: FrozenTrial) -> FrozenTrial:
    """A trial with the logarithms of knobs that were drawn on that scale.

    Optuna's fANOVA measures the space linearly, so all but a logarithmic range's highest decade
    would be next to nothing.
    """
    values: dict[str, Any] = {}
    distributions: dict[str, BaseDistribution] = {}
    for path, one in trial.distributions.items():
        values[path], distributions[path] = trial.params[path], one
        if isinstance(one, FloatDistribution | IntDistribution) and one.log:
            values[path] = math.log(trial.params[path])
            distributions[path] = FloatDistribution(math.log(one.low), math.log(one.high))
    return create_trial(values=trial.values, params=values, distributions=distributions)


def matter(shares: Mapping[str, float], least: float) -> list[str]:
    """The fewest knobs that together hold at least a share of the importance, largest first.

    Args:
        shares: as from ``importances``; where it is empty, so is the answer.
        least: in (0, 1].
    """
    kept: list[str] = []
    held = 0.0
    for path, share in sorted(shares.items(), key=lambda item: -item[1]):
        if held >= least - 1e-9:
            break
        kept.append(path)
        held += share
    return kept
