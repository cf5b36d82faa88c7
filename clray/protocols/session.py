"""A job under way: where its results lie, its slots, and the log of its trials."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from clray import sweep, trial
from clray.errors import BadData, ClrayError
from clray.events import TaskEnded, TrialStarted, Watch
from clray.objective import feasible
from clray.outcome import Outcome
from clray.plan import Candidate, Plan, ended
from clray.protocols.boards import Board
from clray.ray_train import Slots
from clray.seen import Seen
from clray.spec import TrialSpec
from clray.store import Folder, trial_folder
from clray.study import Study
from clray.study_log import Logged, study_log
from clray.work import Work, in_turn

Place = tuple[str, str, str, str]
"""A search: board, label, stage, task."""
SECONDS_BETWEEN_WRITES = 2.0
"""The log of trials is written at most so often: each write is the whole file."""


@dataclass
class Session:
    """A job under way.

    Attributes:
        results: where trials are stored.
        folder: the job's own.
        get_slots: starts the slots; called only when there is something to run.
        watch: is told what happens.
        check: raises when the job is not this process's any more.
        lines: of the log, by search; those of an earlier start until they are known again.
        searches: Optuna's view of the searches, by name.
        proposed: what an earlier start of the job proposed, by search and number.
    """

    results: str
    folder: Folder
    get_slots: Callable[[], Slots]
    watch: Watch
    check: Callable[[], None] = lambda: None
    lines: dict[Place, dict[int, dict[str, Any]]] = field(default_factory=dict)
    searches: dict[str, Logged] = field(default_factory=dict)
    proposed: dict[Place, dict[int, dict[str, Any]]] = field(default_factory=dict)
    written: float = 0.0

    def __post_init__(self) -> None:
        try:
            for line in self.folder.find_lines("trials.jsonl"):
                place = (line["board"], line["label"], line["stage"], str(line["task"]))
                self.proposed.setdefault(place, {})[line["number"]] = line["values"]
                self.lines.setdefault(place, {})[line["number"]] = line
        except (KeyError, TypeError):
            where = f"{self.folder.uri}/trials.jsonl"
            raise BadData(where, "damaged content", "lines as clray wrote them") from None

    def search(
        self, board: Board, plan: Plan, task: int | None = None
    ) -> tuple[list[Candidate], Study]:
        """Run a search, or what is left of it, and log it; its trials, and Optuna's view of them.

        Args:
            board: under way.
            plan: what to search.
            task: position of the task that it is for, where each has a search of its own.

        Raises:
            BadInput, RunFailed: see ``clray.sweep.search``.
        """
        before = self.proposed.get((board.name, plan.label, plan.stage, str(task)), {})
        plan = dataclasses.replace(plan, before=before)
        keep = self.keep(board, plan, task)
        try:
            found, study = sweep.search(plan, self.results, self.get_slots, self.watch, keep)
        except Exception as error:
            raise _cause(error) from None
        self.log(board, plan, task, found, study)
        return found, study

    def log(
        self, board: Board, plan: Plan, task: int | None, found: list[Candidate], study: Study
    ) -> None:
        """Take a search into the log that Optuna's own tools read."""
        parts = [board.job.name, board.name, plan.label]
        if plan.stage != "search":
            parts.append(plan.stage.replace(" ", "-"))
        if task is not None:
            parts.append(f"task-{task + 1}")
        name = "/".join(part for part in parts if part)
        keys = {one.number: [run.key for run in one.runs] for one in found}
        attributes = {"label": plan.label, "board": board.name or None}
        self.searches[name] = Logged(name, study, attributes, keys)

    def keep(self, board: Board, plan: Plan, task: int | None) -> Callable[[Candidate], None]:
        """Takes a search's trials into the log, as they end."""
        place = (board.name, plan.label, plan.stage, str(task))

        def keep(one: Candidate) -> None:
            self.lines.setdefault(place, {})[one.number] = _line(board, plan, task, one)
            if time.monotonic() - self.written > SECONDS_BETWEEN_WRITES:
                self.write()

        return keep

    def choose(self, board: Board, plan: Plan, task: int | None, numbers: list[int]) -> None:
        """Mark a search's chosen trials in the log."""
        place = (board.name, plan.label, plan.stage, str(task))
        for line in self.lines.get(place, {}).values():
            line["chosen"] = line["number"] in numbers

    def write(self) -> None:
        """Store the log of trials."""
        lines = [own[number] for own in self.lines.values() for number in sorted(own)]
        self.check()
        self.folder.write_lines("trials.jsonl", lines)
        self.written = time.monotonic()

    def write_studies(self) -> None:
        """Store the studies as Optuna's own tools read them."""
        self.folder.write("optuna.log", study_log(list(self.searches.values())))

    def run(self, plan: Plan, proposals: list[tuple[dict[str, Any], TrialSpec]]) -> list[Candidate]:
        """Run listed trials, as many at once as there are slots; what is stored is not run again.

        Args:
            plan: whose trials they are.
            proposals: values and complete specs.

        Raises:
            BadInput: data that are missing or damaged.
            Leak: a trial read what its protocol forbids.
        """
        works = [plan.work(spec) for _, spec in proposals]
        found: dict[int, Candidate] = {}
        for number, ((values, _), work) in enumerate(zip(proposals, works, strict=True)):
            known = plan.assess(number, values, work, self.results)
            if known is not None:
                found[number] = known
                self.watch(ended(plan, known, stored=True))
        missing = [number for number in range(len(works)) if number not in found]
        for number, outcome in self._run(plan, proposals, works, missing):
            if "fatal" in outcome:
                raise outcome["fatal"]
            error = (outcome.get("error") or "lost") if outcome["state"] == "failed" else None
            values = proposals[number][0]
            one = plan.assess(number, values, works[number], self.results, error=error)
            assert one is not None
            found[number] = one
            self.watch(ended(plan, one))
        return [found[number] for number in sorted(found)]

    def _run(
        self,
        plan: Plan,
        proposals: list[tuple[dict[str, Any], TrialSpec]],
        works: list[Work],
        missing: list[int],
    ) -> Any:
        if not missing:
            return
        seen = Seen(self.watch)
        for place, number in enumerate(missing):
            told = (plan.label, plan.stage, plan.offset + number)
            runs = len(works[number].runs)
            seen.know(place, TrialStarted(*told, proposals[number][0], runs, plan.num_tasks))

        def on_record(place: int, record: dict[str, Any]) -> None:
            seen.start(place)
            told = (plan.label, plan.stage, plan.offset + missing[place])
            accuracy = record.get("metrics", {}).get("average_accuracy")
            if accuracy is not None:
                self.watch(TaskEnded(*told, record["task"], accuracy, record["run"]))

        take = in_turn(works[number] for number in missing)
        for place, outcome in self.get_slots().run(take, on_record, seen.hear):
            seen.end(place)
            yield missing[place], outcome

    def forget(self, specs: list[TrialSpec]) -> None:
        """Delete the checkpoints that trials left for longer ones."""
        for spec in specs:
            trial_folder(self.results, spec.key).delete("checkpoint")

    def outcome(self, spec: TrialSpec) -> Outcome | None:
        """What a stored run came to."""
        return trial.ended(trial_folder(self.results, spec.key))


def _cause(error: BaseException) -> BaseException:
    """What ended a search, as we raised it: Ray Tune wraps what its callbacks raise."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, ClrayError):
            return seen
        seen = seen.__cause__ or (None if seen.__suppress_context__ else seen.__context__)
    return error


def _line(board: Board, plan: Plan, task: int | None, one: Candidate) -> dict[str, Any]:
    search, result = plan.search, one.result
    completed = result.state == "completed"
    return {
        "board": board.name,
        "label": plan.label,
        "stage": plan.stage,
        "task": task,
        "number": one.number,
        "keys": [run.key for run in one.runs],
        "values": one.values,
        "state": result.state,
        "value": result.measures.get(search.objective[0].metric) if completed else None,
        "measures": dict(result.measures),
        "trace": [] if completed else list(result.trace),
        "feasible": not completed or feasible(result.measures, search.constraints),
        "chosen": False,
        "error": one.error,
    }
