"""A job, from its plan to its leaderboard."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from typing import Any

import yaml

from clray import job_changes, ray_session
from clray.errors import BadData, RunFailed
from clray.events import BoardEnded, BoardStarted, JobStarted, Stage, Watch
from clray.job import JobSpec
from clray.plan import Candidate, Plan
from clray.protocols import chf, dynamic, transfer
from clray.protocols.alone import alone
from clray.protocols.boards import Board, Contender, boards_of, fill_in
from clray.protocols.choosing import (
    Found,
    choose_once,
    first_stage_plan,
    second_stage,
    static_plan,
)
from clray.protocols.known import known_trials
from clray.protocols.rows import board_of, rows_of, without_clock
from clray.protocols.session import Session
from clray.protocols.testing import final_parts, final_repeats, run_final
from clray.protocols.views import View, check_dynamic, check_stability, inner, views_of
from clray.provenance import record_start
from clray.ray_train import Slots
from clray.selection import Chf, Gtep, TwoStage
from clray.store import Folder, job_folder


@dataclasses.dataclass(frozen=True)
class PlannedBoard:
    """A board, its views and the most trials that there can be, by entry and stage."""

    board: Board
    search: View
    reported: View
    planned: dict[tuple[str, Stage], int]

    @property
    def task_trainings(self) -> int | None:
        """Tasks that are learned in all where each trial of the search learns one; else None."""
        if not inner(self.board.selection).dynamic or isinstance(self.board.selection, TwoStage):
            return None
        each = {"search": 1, "test": len(self.reported.places)}
        return sum(number * each[stage] for (_, stage), number in self.planned.items())


def plan(job: JobSpec) -> JobSpec:
    """``job`` with its spaces written out and every knob filled in, checked.

    Raises:
        BadInput: anything that would fail later, as far as can be told without data.
    """
    filled = fill_in(job)
    planned_boards(filled)
    return filled


def planned_boards(job: JobSpec) -> list[PlannedBoard]:
    """The boards of a job that ``plan`` has filled in, checked.

    Raises:
        BadInput: a protocol, a space or a setting that cannot be served.
    """
    return [_planned(board) for board in boards_of(job)]


def _planned(board: Board) -> PlannedBoard:
    search, reported = views_of(board)
    check_stability(board)
    selection = inner(board.selection)
    if selection.dynamic:
        check_dynamic(board)
    planned: dict[tuple[str, Stage], int] = {}
    contenders = board.contenders
    if isinstance(board.selection, TwoStage):
        stage = first_stage_plan(board, board.selection, search)
        stage.check()
        planned[stage.label, "first stage"] = stage.study().trials
        contenders = tuple(second_stage(one, {}) for one in contenders)
    repeats = final_repeats(board, reported)
    for one in contenders:
        for path in one.space.searched:
            if path.startswith("benchmark.") and isinstance(selection, Gtep):
                raise board.refuse(f"methods.{one.label}: space", path, "no knobs of the benchmark")
        tasks = len(search.places)
        if isinstance(selection, Chf):
            start = chf.stability(board, one)
            rungs = selection.attempts if start else 1
            rates = len(selection.rates)
            first = len(selection.first_rates or selection.rates)
            first += rungs if chf.is_felt_at_once(one, start) else 1
            planned[one.label, "search"] = first + (tasks - 1) * (rates + rungs)
            dynamic.fork_plan(board, one, search, None, 0).check()
        elif selection.dynamic:
            plan = dynamic.fork_plan(board, one, search, None, 0)
            plan.check()
            planned[one.label, "search"] = tasks * plan.study().trials
        else:
            plan = static_plan(board, one, search)
            plan.check()
            planned[one.label, "search"] = plan.study().trials
        front = board.job.final.front if len(board.job.search.objective) > 1 else 1
        parts = final_parts(one, repeats, reported)
        if parts and not selection.dynamic:
            planned[one.label, "parts"] = parts * front
        planned[one.label, "test"] = len(repeats) * front
        if isinstance(selection, Gtep):
            most = planned[one.label, "search"]
            planned[one.label, "transfer"] = min(most, selection.compare or most)
    return PlannedBoard(board, search, reported, planned)


def run_job(
    job: JobSpec, results: str, watch: Watch, command: list[str] | None = None
) -> dict[str, Any]:
    """Run a job, or what is left of it, and store it; the content of its ``final.json``.

    Raises:
        BadInput: before anything starts, where it can be told then.
        Leak: a trial read what its protocol forbids.
        RunFailed: the machinery failed; what has finished is kept.
    """
    job = plan(job)
    boards = planned_boards(job)
    folder = job_folder(results, job.name)
    known = known_trials(job, results)
    with alone(folder, watch) as claim, contextlib.ExitStack() as stack:
        ray_session.remove_abandoned()  # also where nothing is left to run
        job_changes.refuse_changed(folder, job)
        before = _stored_winners(folder)
        start = time.monotonic()
        started: list[Slots] = []

        def get_slots() -> Slots:
            if not started:
                slots = Slots(job.resources, results, job.store, watch)
                started.append(stack.enter_context(slots))
            return started[0]

        session = Session(results, folder, get_slots, watch, claim.check)
        folder.write("job.yaml", _as_yaml(job).encode())
        record_start(folder, command or [])
        watch(JobStarted(job.name, folder.uri, tuple(one.board.name for one in boards)))
        told = []
        try:
            for one in boards:
                told.append(_run_board(one, session, known, before))
        except BaseException:
            # What ended the job is what is told, and not that this too cannot be written.
            with contextlib.suppress(RunFailed):
                _write_logs(session, bool(started))
            raise
        _write_logs(session, studies=True)
        content = {"job": job.name, "results": folder.uri, "boards": told}
        plain = {**content, "boards": [without_clock(board) for board in told]}
        plain.pop("results")
        folder.write_json("leaderboard.json", plain)
        final = {**content, "seconds": {"this_run": time.monotonic() - start}}
        folder.write_json("final.json", final)
    return final


def _write_logs(session: Session, studies: bool) -> None:
    session.write()
    if studies:  # else there are fewer than were stored
        session.write_studies()


def _run_board(
    planned: PlannedBoard,
    session: Session,
    known: dict[str, tuple[Any, ...]],
    before: dict[tuple[str, str], list[Any]],
) -> dict[str, Any]:
    board, search, reported = planned.board, planned.search, planned.reported
    objective = board.job.search.objective[0]
    told = BoardStarted(
        board.name,
        len(reported.places),
        planned.planned,
        objective.metric,
        objective.direction,
    )
    session.watch(told)
    first, values = _first_stage(board, search, session)
    rows: list[dict[str, Any]] = []
    found: list[Found] = []
    for contender in board.contenders:
        one = second_stage(contender, values) if values is not None else contender
        result = _choose(board, one, search, reported, session, known.get(one.label, ()))
        result.before = first
        result.choices = [dataclasses.replace(c, held=values or {}) for c in result.choices]
        _check_winner(board, result, before)
        found.append(result)
    for result in found:
        label = result.contender.label
        tested = run_final(board, label, result.choices, reported, session)
        rows += rows_of(board, result, tested)
    content = board_of(board, rows, reported)
    session.watch(BoardEnded(board.name, content["rows"]))
    return content


def _first_stage(
    board: Board, view: View, session: Session
) -> tuple[list[Candidate], dict[str, Any] | None]:
    """The trials of two-stage's first stage, and what it chose; None without one.

    Raises:
        BadSpec: it chose nothing.
    """
    if not isinstance(board.selection, TwoStage):
        return [], None
    plan = first_stage_plan(board, board.selection, view)
    contender = Contender(plan.label, plan.base, plan.space, plan.trials, False)
    found = choose_once(board, contender, plan, session)
    if not found.choices:
        raise board.refuse(plan.label, found.error, "a method that can learn the first tasks")
    return found.candidates, dict(found.choices[0].candidate.values)


def _choose(
    board: Board,
    contender: Contender,
    search: View,
    reported: View,
    session: Session,
    known: tuple[Any, ...],
) -> Found:
    selection = inner(board.selection)
    if isinstance(selection, Chf):
        return chf.choose_by_decay(board, contender, search, session)
    if selection.dynamic:
        return dynamic.choose_per_task(board, contender, search, session)
    plan: Plan = static_plan(board, contender, search, known=known)
    found = choose_once(board, contender, plan, session)
    if isinstance(selection, Gtep):
        transfer.compare(board, found, plan, reported, session)
    return found


def _stored_winners(folder: Folder) -> dict[tuple[str, str], list[Any]]:
    """What an earlier run of the job chose, by board and entry, where all of its trials ended.

    Raises:
        BadData: the leaderboard is damaged.
    """
    if not folder.has("leaderboard.json"):
        return {}
    winners: dict[tuple[str, str], list[Any]] = {}
    content = folder.read_json("leaderboard.json")
    try:
        for board in content["boards"]:
            for row in board["rows"] if board["deterministic"] else ():
                if row["error"] is None:
                    chosen = (row["trajectory"] or row["values"], row["key"])
                    winners.setdefault((board["name"], row["label"]), []).append(chosen)
    except (KeyError, TypeError):
        where = f"{folder.uri}/leaderboard.json"
        raise BadData(where, "damaged content", "a leaderboard as clray wrote it") from None
    return winners


def _check_winner(board: Board, found: Found, before: dict[tuple[str, str], list[Any]]) -> None:
    """Refuse a winner that is not what the stored trials say: somebody edited one of them.

    Raises:
        BadData: so it is.
    """
    stored = before.get((board.name, found.contender.label))
    if stored is None:
        return
    now = [(c.trajectory or c.values, c.candidate.runs[-1].key) for c in found.choices]
    if stored != now:
        where = f"leaderboard.json: {board.name} {found.contender.label}: chosen hyperparameters"
        accepted = f"{now[0][0] if now else 'none'}, as the stored trials say: winners may not be "
        raise BadData(where.replace("  ", " "), stored[0][0], accepted + "edited by hand")


def _as_yaml(job: JobSpec) -> str:
    return yaml.safe_dump(job.model_dump(mode="json"), sort_keys=False)
