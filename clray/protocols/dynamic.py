"""Choices that are made anew for each task: trials fork from the learner as it stands, the best one
goes on (``seen-tasks``; ``adaptive`` after Semola et al. 2024, arXiv 2403.07015).

A fork is a trial of the whole beginning of the stream with the hyperparameters chosen so far; that
its beginning is stored already is the store's business.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from clray import registry
from clray.importance import matter
from clray.plan import Candidate, Plan, Repeat
from clray.protocols.boards import Board, Contender
from clray.protocols.choosing import Choice, Found, nothing, shares, winners
from clray.protocols.session import Session
from clray.protocols.views import GRADED, View, data_of, inner
from clray.selection import Adaptive, SeenTasks
from clray.space import SearchSpace
from clray.spec import TrialSpec
from clray.study import Study


def fork_plan(
    board: Board, contender: Contender, view: View, incumbent: TrialSpec | None, at: int
) -> Plan:
    """The search for task ``at``.

    Args:
        board: under way.
        contender: whose hyperparameters are chosen.
        view: of the protocol.
        incumbent: the trial that was chosen last; None for the first task.
        at: position of the task.
    """
    selection = inner(board.selection)
    graded = GRADED[data_of(selection)]
    base = view.of(contender.base).model_copy(update={"graded": graded})
    held = getattr(selection, "held_out", None)
    if held is not None:
        base = base.model_copy(update={"held_out": held})
    base = (incumbent or base).model_copy(update={"until": at + 1})
    return Plan(
        label=contender.label,
        base=base,
        space=contender.space,
        trials=contender.trials,
        search=board.job.search,
        lag=board.job.resources.slots,
        num_tasks=1,
        permission=view.permission(graded, up_to=at + 1),
        repeats=(Repeat(base.seed, base.tasks),),
        at=at,
        keep=True,
    )


def choose_per_task(board: Board, contender: Contender, view: View, session: Session) -> Found:
    """Search for each task, and let the best fork go on."""
    selection = inner(board.selection)
    assert isinstance(selection, SeenTasks | Adaptive)
    found = Found(contender)
    trajectory: list[dict[str, Any]] = []
    studies: list[Study] = []
    incumbent: Candidate | None = None
    for at in range(len(view.places)):
        plan = fork_plan(board, contender, view, incumbent.runs[0] if incumbent else None, at)
        plan = dataclasses.replace(plan, offset=len(found.candidates))
        if at > 0:
            space = _later(contender, trajectory[-1])
            if isinstance(selection, Adaptive) and at >= selection.full_tasks:
                space = _important(space, studies, selection, trajectory[-1])
            trials = contender.trials if space.searched else 1
            if isinstance(selection, Adaptive) and at >= selection.full_tasks:
                trials = min(trials, selection.trials_after)
            plan = dataclasses.replace(plan, space=space, trials=trials)
        candidates, study = session.search(board, plan, at)
        if not isinstance(selection, Adaptive) or at < selection.full_tasks:
            studies.append(study)
        found.candidates += candidates
        best = winners(candidates, board.job.search)
        session.choose(board, plan, at, [one.number for one in best])
        losers = [one.runs[0] for one in candidates if one not in best]
        session.forget(losers + ([incumbent.runs[0]] if incumbent else []))
        if not best:
            found.error = f"task {at + 1}: {nothing(candidates, board.job.search)}"
            return found
        [incumbent] = best
        trajectory.append({**(trajectory[-1] if trajectory else {}), **incumbent.values})
    assert incumbent is not None
    session.forget([incumbent.runs[0]])
    found.choices = [Choice(incumbent, incumbent.runs[0], tuple(trajectory))]
    found.importances = mean_shares(studies)
    return found


def _later(contender: Contender, last: dict[str, Any]) -> SearchSpace:
    """What may still change after the first task; the last winner's values are tried first."""
    frozen = [
        path
        for path in contender.space.dimensions
        if registry.tag(contender.base, path) is None or path in contender.space.fixed
    ]
    return _starting(contender.space.without(frozen), last)


def _starting(space: SearchSpace, values: dict[str, Any]) -> SearchSpace:
    """The space with one starting point: those of the values that it searches."""
    point: dict[str, dict[str, Any]] = {}
    for path, value in values.items():
        if path in space.searched:
            section, _, knob = path.partition(".")
            point.setdefault(section, {})[knob] = value
    return space.model_copy(update={"start": (point,) if point else ()})


def _important(
    space: SearchSpace, studies: Sequence[Study], selection: Adaptive, last: dict[str, Any]
) -> SearchSpace:
    """What mattered in the first tasks; all of it, where that cannot be told."""
    told = next(iter(mean_shares(studies).values()), {})
    searched = {path: share for path, share in told.items() if path in space.searched}
    kept = matter(searched, selection.importance)
    gone = [path for path in space.searched if path not in kept] if kept else []
    return _starting(space.without(gone), last)


def mean_shares(studies: Sequence[Study]) -> dict[str, dict[str, float]]:
    """The knobs' importances, on average over those studies that tell any."""
    told = [own for study in studies if (own := shares(study))]
    return {
        metric: {
            path: sum(own.get(metric, {}).get(path, 0.0) for own in told) / len(told)
            for path in told[0][metric]
        }
        for metric in (told[0] if told else ())
    }
