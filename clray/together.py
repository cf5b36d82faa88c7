"""A stream put together from parts that were learned apart (``clray.apart``).

The records are those that a learner would leave that went through the whole stream itself, but for
what was read: a later task is graded when it is learned, and once more when all are, to see that
the method keeps its promise.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from clray import apart, checkpoint
from clray.errors import BrokenPromise
from clray.loop import Learned, Loop
from clray.outcome import Outcome
from clray.spec import TrialSpec
from clray.store import Folder
from clray.task import Task

TOLERANCE = 0.005
"""By so much accuracy may differ between two GPUs, which round differently; CPUs must agree."""


class Together(Loop):
    """A trial that learns nothing itself; see ``Loop``.

    Attributes:
        learn: runs a part in its folder, unless it is stored; to be set before ``go``.
    """

    learn: Callable[[TrialSpec, Folder], Outcome]

    def _find(self) -> bytes | None:
        """Nothing: what there is to go on from are the parts."""
        return None

    def _checkpoint(self) -> None:
        """Only for a longer trial: nothing of this one is lost that would take time."""
        if self.keep:
            super()._checkpoint()

    def _take(self, task: Task) -> Learned | None:
        """The task as its part learned it."""
        part = apart.part(self.spec, len(self.stream.tasks), task.index)
        outcome, content = self._result_of(part)
        record = outcome.records[-1]
        self._note_reads(part, record)
        self.losses, self.steps = record["losses"], record["steps"]
        seconds = outcome.seconds["tasks"][-1] if outcome.state == "completed" else 0.0
        self.seconds["train"] += seconds
        if outcome.state != "completed":
            self.epoch = record["diverged"]["epoch"]
            return None
        if task.index == 0:
            self.learner = checkpoint.load(content, self.device)["learner"]
            with self._timed("eval"):
                row = self._grade(0)
        else:
            self.learner.adopt(task, apart.load(content, self.device))
            row = [*self.records[-1]["accuracy"]]
            row[task.index] = record["accuracy"][1]
        if task.index == self.num_tasks - 1:
            self._check_promise(row)
        return Learned(row, record["examples_seen"], record.get("facts"), part.key)

    def _result_of(self, part: TrialSpec) -> tuple[Outcome, bytes]:
        """How a part ended, and what it left; it is run unless that is stored, or lost."""
        folder = self.folder.beside(part.key)

        def left() -> bytes | None:
            found = None
            if self.leads and part.until == 1:
                found = checkpoint.find(part, folder, self.device)
            elif self.leads:
                found = apart.find(part, folder)
            content: bytes | None = self.distributed.broadcast(found)
            return content

        outcome = self.learn(part, folder)
        content = left()
        if content is None and outcome.state == "completed":
            if self.leads:  # by another version, on another kind of device, or tidied away
                folder.delete("result.json")
            outcome = self.learn(part, folder)
            content = left()
        return outcome, content or b""

    def _note_reads(self, part: TrialSpec, record: dict[str, Any]) -> None:
        """Note what the part read of its task, as this trial's."""
        places = self.spec.tasks or tuple(range(len(self.stream.tasks)))
        for split, positions in record["reads"].items():
            for position in positions:
                assert part.tasks is not None
                self.guard.touch(split, places.index(part.tasks[position]))

    def _check_promise(self, row: list[float | None]) -> None:
        """Grade all tasks once more.

        Raises:
            BrokenPromise: one is not answered as it was when it was learned.
        """
        with self._timed("eval"):
            found = self._grade(self.num_tasks - 1)
        allowed = 0.0 if self.device.type == "cpu" else TOLERANCE
        for index, (before, now) in enumerate(zip(row, found, strict=True)):
            if before is not None and now is not None and abs(now - before) > allowed:
                name = self.stream.tasks[index].name
                raise BrokenPromise(self.spec.method.name, name, before, now)
