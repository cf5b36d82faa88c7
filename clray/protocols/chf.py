"""The continual hyperparameter framework (De Lange et al. 2021, arXiv 1909.08383).

For each task, the learning rate is the one with which plain fine-tuning from the learner as it
stands does best on the task; stability knobs start high and decay until the method comes close to
that accuracy. The whole ladder is run at once, and its first acceptable rung taken.

Differences: a knob decays alone, then each other one, then all of them (as in the authors' code);
a first task has one rung, since there is nothing to hold on to, unless a stability knob is for
plasticity as well.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from clray import registry
from clray.errors import BadSpec
from clray.parsing import parse
from clray.plan import Candidate, Plan, changed, put_over
from clray.protocols.boards import Board, Contender
from clray.protocols.choosing import Choice, Found
from clray.protocols.dynamic import fork_plan
from clray.protocols.session import Session
from clray.protocols.views import View, inner
from clray.selection import Chf
from clray.spec import Component, TrialSpec

RATE = "optimizer.lr"

Values = dict[str, Any]


def stability(board: Board, contender: Contender) -> Values:
    """Where an entry's stability knobs start: the strongest end of what is searched.

    Raises:
        BadSpec: a start that its knob refuses, or a knob that cannot decay.
    """
    selection = inner(board.selection)
    assert isinstance(selection, Chf)
    start: Values = {}
    for path, dimension in contender.space.searched.items():
        if registry.tag(contender.base, path) != "stability":
            continue
        if path in selection.start:
            start[path] = selection.start[path]
        elif dimension.range is not None:
            start[path] = _typed(contender, path, dimension.range[1])
    for path, value in selection.start.items():
        if path in start and isinstance(value, str | bool):
            raise board.refuse(f"start: {path}", value, "a number, which can decay")
    return start


def is_felt_at_once(contender: Contender, start: Values) -> bool:
    """Whether a stability knob acts on the first task as well."""
    return any("plasticity" in registry.tags(contender.base, path) for path in start)


def _typed(contender: Contender, path: str, value: float) -> float | int:
    """A whole number where the knob takes no other."""
    try:
        spec_of(contender.base, 0, {path: value})
    except BadSpec:
        return round(value)
    return value


def spec_of(base: TrialSpec, at: int, values: Values, method: Component | None = None) -> TrialSpec:
    """``base`` with values from task ``at`` on, by another method if one is named.

    Raises:
        BadInput: a value that its knob refuses.
    """
    plain = base.model_dump(mode="json")
    if at == 0:
        plain = put_over(plain, values)
        where = plain
    else:
        where = changed(base, at, values)
        plain["changes"] = [*plain["changes"], where]
    if method is not None:
        where["method"] = method.model_dump(mode="json")
    return registry.complete(parse(TrialSpec, plain, base.method.name))


def ladder(selection: Chf, start: Values, lows: dict[str, float]) -> list[Values]:
    """The rungs: each stability knob decays alone, the others restored; then all, and so on.

    Args:
        selection: how far each decays.
        start: the first rung.
        lows: below which a knob cannot go.
    """
    rungs, now = [dict(start)], dict(start)
    if not start:
        return rungs
    while len(rungs) < selection.attempts:
        lower = {path: _decayed(selection, now[path], lows[path]) for path in now}
        if len(now) > 1:
            rungs += [{**now, path: lower[path]} for path in now]
        rungs.append(dict(lower))
        now = lower
    return rungs[: selection.attempts]


def _decayed(selection: Chf, value: Any, low: float) -> Any:
    lower = (
        value * selection.decay if selection.operation == "multiply" else value - selection.decay
    )
    lower = max(lower, low)
    return int(lower) if isinstance(value, int) else lower


def choose_by_decay(board: Board, contender: Contender, view: View, session: Session) -> Found:
    """Choose the learning rate and the stability knobs for each task."""
    selection = inner(board.selection)
    assert isinstance(selection, Chf)
    found, trajectory = Found(contender), list[Values]()
    first = stability(board, contender)
    strengths = dict(first)
    lows = {p: _low(contender, p) for p in first}
    at_once = is_felt_at_once(contender, first)
    others = _others(contender, first)
    method = selection.method or Component(name=registry.plain_method())
    incumbent: Candidate | None = None
    for at in range(len(view.places)):
        plan = fork_plan(board, contender, view, incumbent.runs[0] if incumbent else None, at)
        rates = (selection.first_rates if at == 0 else None) or selection.rates
        plan = dataclasses.replace(plan, keep=False, offset=len(found.candidates))
        plastic = [({RATE: rate, "method.name": method.name}, rate) for rate in rates]
        proposals = [
            (values, spec_of(plan.base, at, {RATE: rate}, method)) for values, rate in plastic
        ]
        tried = session.run(plan, proposals)
        best = max(tried, key=_accuracy)
        if best.result.state != "completed":
            return _gave_up(found, tried, at, board, plan, session)
        rate = best.values[RATE]
        decays = at > 0 or at_once
        rungs = ladder(selection, strengths, lows) if decays else [dict(strengths)]
        plan = dataclasses.replace(plan, keep=True, offset=plan.offset + len(tried))
        climbed = session.run(
            plan,
            [
                (values, spec_of(plan.base, at, {**(others if at == 0 else {}), **values}))
                for values in ({**rung, RATE: rate} for rung in rungs)
            ],
        )
        enough = (1 - selection.margin) * _accuracy(best)
        completed = [one for one in climbed if one.result.state == "completed"]
        taken = next((one for one in completed if _accuracy(one) >= enough), None)
        taken = taken or (completed[-1] if completed else None)
        _log(board, plan, at, [*tried, *climbed], taken, session)
        found.candidates += [*tried, *climbed]
        losers = [one.runs[0] for one in climbed if one is not taken]
        session.forget(losers + ([incumbent.runs[0]] if incumbent else []))
        if taken is None:
            found.error = f"task {at + 1}: none of {len(climbed)} rungs completed"
            return found
        incumbent = taken
        trajectory.append({**(others if at == 0 else trajectory[-1]), **taken.values})
        if not selection.reset and decays:
            strengths = {path: taken.values[path] for path in strengths}
    assert incumbent is not None
    session.forget([incumbent.runs[0]])
    found.choices = [Choice(incumbent, incumbent.runs[0], tuple(trajectory))]
    return found


def _others(contender: Contender, start: Values) -> Values:
    """Searched knobs that this framework does not choose: at the first published value, if any."""
    points = contender.space.starting_points
    known = points[0] if points else {}
    return {
        path: known[path]
        for path in contender.space.searched
        if path not in start and path != RATE and path in known
    }


def _low(contender: Contender, path: str) -> float:
    dimension = contender.space.searched[path]
    return dimension.range[0] if dimension.range is not None else 0.0


def _accuracy(one: Candidate) -> float:
    """On the current task; below all others where the trial did not complete."""
    value = one.result.measures.get("average_accuracy")
    return value if one.result.state == "completed" and value is not None else -1.0


def _gave_up(
    found: Found, tried: list[Candidate], at: int, board: Board, plan: Plan, session: Session
) -> Found:
    _log(board, plan, at, tried, None, session)
    found.candidates += tried
    found.error = f"task {at + 1}: fine-tuning diverged at each of {len(tried)} learning rates"
    return found


def _log(
    board: Board,
    plan: Plan,
    at: int,
    candidates: list[Candidate],
    taken: Candidate | None,
    session: Session,
) -> None:
    numbered = [dataclasses.replace(one, number=i) for i, one in enumerate(candidates)]
    keep = session.keep(board, plan, at)
    for one in numbered:
        keep(one)
    chosen = [i for i, one in enumerate(candidates) if one is taken]
    session.choose(board, plan, at, chosen)
