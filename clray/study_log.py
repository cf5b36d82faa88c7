"""A job's searches as stock Optuna and optuna-dashboard read them: a journal file.

::

    optuna-dashboard results/jobs/NAME/optuna.log
    optuna.load_study(
        study_name=..., storage=JournalStorage(JournalFileBackend("optuna.log"))
    ).best_trial

One Optuna study for each search. Trial numbers are clray's, so trials of earlier jobs are left out.
The file is written whole, never appended to: the trials in the store are the truth.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import optuna
from optuna.storages.journal import BaseJournalBackend
from optuna.trial import FrozenTrial, TrialState, create_trial

from clray.samplers import quiet
from clray.study import Study

# Optuna 5 writes each constraint under a key of its own and reads this list too; the dashboard
# reads the list alone.
_CONSTRAINTS = "constraints"


@dataclass(frozen=True)
class Logged:
    """One search in the log.

    Attributes:
        name: the Optuna study's, such as ``job/board/label``; no two may be the same.
        study: what was proposed, and what came of it.
        attributes: of the search, for a person, such as its label.
        keys: of each trial's runs, by number.
    """

    name: str
    study: Study
    attributes: Mapping[str, Any] = field(default_factory=dict)
    keys: Mapping[int, Sequence[str]] = field(default_factory=dict)


class _Lines(BaseJournalBackend):  # type: ignore[misc]
    """A journal in memory."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        self.lines += [json.dumps(log, separators=(",", ":")) for log in logs]

    def read_logs(self, log_number_from: int) -> Iterable[dict[str, Any]]:
        return (json.loads(line) for line in self.lines[log_number_from:])


def study_log(searches: Sequence[Logged]) -> bytes:
    """The journal of some searches, as far as they have come."""
    lines = _Lines()
    with quiet():
        storage = optuna.storages.JournalStorage(lines)
        for search in searches:
            _write(search, storage)
    return "".join(f"{line}\n" for line in lines.lines).encode()


def _write(search: Logged, storage: optuna.storages.BaseStorage) -> None:
    study = search.study
    log = optuna.create_study(
        storage=storage,
        study_name=search.name,
        directions=[objective.direction for objective in study.objectives],
    )
    log.set_metric_names([objective.metric for objective in study.objectives])
    constraints = [str(constraint.model_dump()) for constraint in study.constraints]
    attributes = {**search.attributes, "sampler": study.search.sampler, "constraints": constraints}
    for name, value in attributes.items():
        if value not in ([], None):
            log.set_user_attr(name, value)
    for number in range(len(study.proposed)):
        log.add_trial(_trial(study, number, search.keys.get(number, ())))


def _trial(study: Study, number: int, keys: Sequence[str]) -> FrozenTrial:
    result = study.results.get(number)
    user: dict[str, Any] = {"keys": list(keys)} if keys else {}
    if result is None:
        trial = create_trial(
            state=TrialState.RUNNING,
            params=study.values(number),
            distributions=study.distributions,
            user_attrs=user,
        )
    else:
        known = study.as_trial(study.values(number), result)
        # No JSON for infinity: a browser would refuse the whole page.
        excess = [min(value, sys.float_info.max) for value in known.constraints.values()]
        user["state"] = result.state
        user |= {name: value for name, value in result.measures.items() if value is not None}
        trial = create_trial(
            state=known.state,
            values=known.values,
            params=known.params,
            distributions=known.distributions,
            intermediate_values=known.intermediate_values,
            user_attrs=user,
            system_attrs={_CONSTRAINTS: excess} if excess else {},
        )
    started: datetime | None = study.proposed[number].datetime_start
    trial.datetime_start = started
    trial.datetime_complete = study.learned.get(number)
    return trial
