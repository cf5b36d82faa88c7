"""Which output units compete, and how a learner is graded: never the method's own business."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from clray.distributed import Distributed
from clray.learner import Learner
from clray.task import Stream, Task

EVAL_BATCH = 512
"""Examples per evaluation batch; it changes no result beyond rounding."""


class Grader:
    """Grades a learner on a stream.

    Args:
        stream: what is learned.
        head: class-incremental only, see ``clray.spec.Protocol``.
        device: where the learner lies.
    """

    def __init__(self, stream: Stream, head: str, device: torch.device) -> None:
        self.stream, self.head, self.device = stream, head, device
        self.distributed = Distributed()

    @torch.no_grad()
    def accuracies(self, learner: Learner, seen: int) -> list[float | None]:
        """Accuracy on every task after ``seen`` of them, over all workers; None where the scenario
        defines none, NaN where the predictions are not numbers."""
        learner.train_mode(False)
        tasks, scenario = self.stream.tasks, self.stream.scenario
        shown = seen if scenario == "class-incremental" else len(tasks)
        rank, world = self.distributed.rank, self.distributed.world
        counts = torch.zeros(shown, 2, dtype=torch.int64, device=self.device)
        for index, task in enumerate(tasks[:shown]):
            forbidden = self._forbidden(task, seen)
            given = task.for_predicting() if scenario == "task-incremental" else None
            for x, y in task.eval.batches(EVAL_BATCH, rank=rank, world=world):
                logits = learner.predict(x, given)
                if forbidden is not None:
                    logits = logits.masked_fill(forbidden, -torch.inf)
                counts[index, 0] += (logits.argmax(1) == y).sum()
                counts[index, 1] += logits.isnan().any(1).sum()
        totals = self.distributed.sum(counts).tolist()
        row: list[float | None] = [
            math.nan if odd else right / len(task.eval)
            for (right, odd), task in zip(totals, tasks[:shown], strict=True)
        ]
        return row + [None] * (len(tasks) - shown)

    def set_rivals(self, learner: Learner, index: int) -> None:
        """Tell the learner which units compete in its loss while it learns that task."""
        tasks, scenario = self.stream.tasks, self.stream.scenario
        if scenario == "task-incremental":
            for task in tasks:
                learner.rivals[list(task.classes)] = self._units([task.classes])
        elif scenario == "class-incremental" and self.head == "growing":
            learner.rivals[:] = self._units([t.classes for t in tasks[: index + 1]])
        learner.all_rivals = bool(learner.rivals.all())

    def _forbidden(self, task: Task, seen: int) -> Tensor | None:
        """bool [num_classes]: the units that an answer on ``task`` may not name."""
        if self.stream.scenario == "task-incremental":
            return ~self._units([task.classes])
        if self.stream.scenario == "class-incremental" and self.head == "growing":
            return ~self._units([t.classes for t in self.stream.tasks[:seen]])
        return None

    def _units(self, classes: list[tuple[int, ...]]) -> Tensor:
        mask = torch.zeros(self.stream.num_classes, dtype=torch.bool, device=self.device)
        mask[[unit for group in classes for unit in group]] = True
        return mask
