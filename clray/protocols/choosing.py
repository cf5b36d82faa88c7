"""Choices that are made once: a search over the whole of what the protocol may look at."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from clray import registry
from clray.files import load_space, space_names
from clray.importance import importances
from clray.job import Search
from clray.objective import feasible, front, scores
from clray.parsing import parse
from clray.plan import Candidate, Plan, put_over
from clray.protocols.boards import Board, Contender
from clray.protocols.session import Session
from clray.protocols.views import View, repeats_of
from clray.selection import TwoStage
from clray.space import SearchSpace
from clray.spec import Component, TrialSpec
from clray.study import Study


@dataclass(frozen=True)
class Choice:
    """Hyperparameters that were chosen.

    Attributes:
        candidate: the trial that won, or the last of those that did.
        spec: that the final runs are made of.
        chosen: values for each task, where they were chosen anew for each.
        held: values that a first stage chose.
    """

    candidate: Candidate
    spec: TrialSpec
    chosen: tuple[dict[str, Any], ...] | None = None
    held: Mapping[str, Any] = field(default_factory=dict)

    @property
    def trajectory(self) -> list[dict[str, Any]] | None:
        """All values for each task, where they were chosen anew for each."""
        return None if self.chosen is None else [{**self.held, **one} for one in self.chosen]

    @property
    def values(self) -> dict[str, Any]:
        """All values, those of the last task where they were chosen anew for each."""
        path = self.trajectory
        return path[-1] if path else {**self.held, **self.candidate.values}


@dataclass
class Found:
    """What a search came to, for one entry of a board.

    Attributes:
        contender: the entry.
        candidates: all of its trials.
        before: trials of a first stage, which all entries share.
        choices: what won: one, or a front; none where nothing completed.
        importances: of the searched knobs, by objective.
        transfer: how the choice holds on another benchmark.
        error: why nothing could be chosen.
    """

    contender: Contender
    candidates: list[Candidate] = field(default_factory=list)
    before: list[Candidate] = field(default_factory=list)
    choices: list[Choice] = field(default_factory=list)
    importances: dict[str, dict[str, float]] = field(default_factory=dict)
    transfer: dict[str, Any] | None = None
    error: str | None = None


def static_plan(board: Board, contender: Contender, view: View, **others: Any) -> Plan:
    """An entry's search by a protocol that chooses once."""
    return Plan(
        label=contender.label,
        base=view.of(contender.base),
        space=contender.space,
        trials=contender.trials,
        search=board.job.search,
        lag=board.job.resources.slots,
        num_tasks=len(view.places),
        permission=view.permission(),
        repeats=repeats_of(board, view),
        **others,
    )


def choose_once(board: Board, contender: Contender, plan: Plan, session: Session) -> Found:
    """Search, and choose by what the trials came to at the end.

    Args:
        board: under way.
        contender: whose hyperparameters are chosen.
        plan: of the search.
        session: runs it.
    """
    candidates, study = session.search(board, plan)
    chosen = winners(candidates, board.job.search, board.job.final.front)
    session.choose(board, plan, None, [one.number for one in chosen])
    found = Found(contender, candidates)
    found.choices = [Choice(one, plan.spec(one.values)) for one in chosen]
    found.error = None if chosen else nothing(candidates, board.job.search)
    found.importances = shares(study)
    return found


def shares(study: Study) -> dict[str, dict[str, float]]:
    """The importances of a search's knobs, by objective; none where nothing can be said."""
    told = {o.metric: importances(study, i) for i, o in enumerate(study.objectives)}
    return {metric: own for metric, own in told.items() if own}


def winners(candidates: Sequence[Candidate], search: Search, most: int = 1) -> list[Candidate]:
    """The best completed trial that keeps the constraints, of equals the first; with several
    objectives the front, at most so many of it, spread evenly along the first objective."""
    fit = [
        (points, one)
        for one in candidates
        if one.result.state == "completed" and feasible(one.result.measures, search.constraints)
        if (points := scores(one.result.measures, search.objective)) is not None
    ]
    if len(search.objective) == 1:
        return [max(fit, key=lambda pair: (pair[0], -pair[1].number))[1]] if fit else []
    best = sorted((fit[i] for i in front([points for points, _ in fit])), key=lambda p: p[0])[::-1]
    if len(best) > most:
        last = max(1, most - 1)
        best = [best[round(i * (len(best) - 1) / last)] for i in range(most)]
    return [one for _, one in best]


def nothing(candidates: Sequence[Candidate], search: Search) -> str:
    """Why there is no winner."""
    completed = [one for one in candidates if one.result.state == "completed"]
    if not completed:
        return f"none of {len(candidates)} trials completed"
    kept = " and ".join(str(c.model_dump()) for c in search.constraints)
    return f"none of {len(completed)} completed trials keeps {kept}"


# Two-stage.


def first_stage_plan(board: Board, selection: TwoStage, view: View) -> Plan:
    """The search for training knobs, by one method for all entries.

    Raises:
        BadInput: there is no such method or space, or nothing in it to tune.
    """
    method = selection.method or Component(name=registry.plain_method())
    name = method.name
    space = load_space(name) if name in space_names() else SearchSpace()
    others = [path for path in space.dimensions if not is_training(path)]
    space = space.without(others)
    if not space.searched:
        accepted = "a method whose search space has training knobs (optimizer, protocol)"
        raise board.refuse("method", name, accepted)
    if selection.k > len(view.places):
        raise board.refuse("k", selection.k, f"at most {len(view.places)} tasks")
    common = {"method": method, "model": board.job.model}
    base = board.contenders[0].base.model_copy(update=common)
    stage = dataclasses.replace(view, places=view.places[: selection.k], whole=False)
    contender = Contender(
        f"({name})", base, space, selection.trials or board.job.search.trials, False
    )
    plan = static_plan(board, contender, stage, stage="first stage")
    return dataclasses.replace(plan, repeats=plan.repeats[:1])


def is_training(path: str) -> bool:
    """Whether a knob belongs to training as such, not to a method."""
    return path.partition(".")[0] in ("optimizer", "protocol")


def second_stage(contender: Contender, values: dict[str, Any]) -> Contender:
    """The entry with its training knobs held at what the first stage chose."""
    training = [path for path in contender.space.dimensions if is_training(path)]
    space = contender.space.without(training)
    plain = contender.base.model_dump(mode="json")
    base = registry.complete(parse(TrialSpec, put_over(plain, values), contender.label))
    trials = contender.trials if space.searched else 1
    return dataclasses.replace(contender, base=base, space=space, trials=trials)
