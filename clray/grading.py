"""Which output units compete, and how a learner is graded: never the method's own business."""

from __future__ import annotations

import math
import string
from typing import Any

import torch
from torch import Tensor

from clray.distributed import Distributed
from clray.learner import Learner
from clray.memory import Batch
from clray.spec import Graded
from clray.task import Stream, Task

EVAL_BATCH = 256
"""Examples per evaluation batch; it changes no result beyond rounding."""
SIDE = 100
"""Points of the grid on which regions are found, in each direction."""
SYMBOLS = string.digits + string.ascii_lowercase
"""How an answer is written in a row of the grid: a base-36 digit."""
SHOWN = 200
"""Training points of a task that are recorded at most, evenly spread."""


class Grader:
    """Grades a learner on a stream.

    Args:
        stream: what is learned.
        head: class-incremental only, see ``clray.spec.Protocol``.
        device: where the learner lies.
        graded: which tasks are graded when, see ``clray.spec.TrialSpec``.
    """

    def __init__(
        self, stream: Stream, head: str, device: torch.device, graded: Graded = "stream"
    ) -> None:
        self.stream, self.head, self.device, self.graded = stream, head, device, graded
        self.distributed = Distributed()

    @torch.no_grad()
    def accuracies(self, learner: Learner, seen: int) -> list[float | None]:
        """Accuracy on the tasks that are graded after ``seen`` of them, over all workers; None for
        the others and where the scenario defines none, NaN where predictions are not numbers."""
        learner.train_mode(False)
        tasks = self.stream.tasks
        shown = self.shown(seen)
        rank, world = self.distributed.rank, self.distributed.world
        counts = torch.zeros(len(tasks), 2, dtype=torch.int64, device=self.device)
        together = self.stream.graded_together  # on the same examples, so once
        for index in shown[:1] if together else shown:
            forbidden = self.forbidden(tasks[index], seen)
            for x, y in tasks[index].eval.batches(EVAL_BATCH, rank=rank, world=world):
                self._count(learner, x, y, index, forbidden, counts)
        totals = self.distributed.sum(counts).tolist()
        row: list[float | None] = [None] * len(tasks)
        for index in shown:
            right, odd = totals[shown[0] if together else index]
            row[index] = math.nan if odd else right / len(tasks[index].eval)
        return row

    @torch.no_grad()
    def accuracy_on(self, learner: Learner, held: Batch, index: int, now: int) -> float:
        """Accuracy on the examples of task ``index`` among those held out of a memory, which is the
        same on all workers, while task ``now`` is the latest."""
        learner.train_mode(False)
        images, labels, origins = held
        own = origins == index
        forbidden = self.forbidden(self.stream.tasks[index], now + 1)
        counts = torch.zeros(len(self.stream.tasks), 2, dtype=torch.int64, device=self.device)
        pairs = zip(
            torch.split(images[own], EVAL_BATCH), torch.split(labels[own], EVAL_BATCH), strict=True
        )
        for x, y in pairs:
            self._count(learner, x, y, index, forbidden, counts)
        right, odd = counts[index].tolist()
        return math.nan if odd else right / int(own.sum())

    @torch.no_grad()
    def regions(self, learner: Learner, seen: int) -> dict[str, Any] | None:
        """Which class the learner answers where, after ``seen`` tasks, with points of the task that
        was learned last; None where the examples are no points of a square, or an answer depends on
        the task that is told.

        Returns:
            As plain JSON: ``square``, its ends; ``grid``, a row of digits for each row of cells,
            the topmost first, each digit the answer at the middle of its cell; ``points``,
            [x, y, label] of training points.

        Raises:
            ValueError: more than 36 classes.
        """
        square, scenario = self.stream.square, self.stream.scenario
        if square is None or scenario == "task-incremental":
            return None
        if self.stream.num_classes > len(SYMBOLS):
            raise ValueError(f"the regions of {self.stream.num_classes} classes cannot be written")
        learner.train_mode(False)
        task = self.stream.tasks[seen - 1]
        low, high = square
        middles = low + (high - low) * (torch.arange(SIDE, device=self.device) + 0.5) / SIDE
        grid = torch.cartesian_prod(middles.flip(0), middles).flip(1)[:, :, None, None]
        forbidden = self.forbidden(task, seen)
        answers = []
        for x in torch.split(grid, EVAL_BATCH):
            logits = learner.predict(x, None)
            if forbidden is not None:
                logits = logits.masked_fill(forbidden, -torch.inf)
            answers.append(logits.argmax(1))
        rows = torch.cat(answers).view(SIDE, SIDE).tolist()
        xs, ys = zip(*task.train.batches(EVAL_BATCH), strict=True)
        step = -(-len(task.train) // SHOWN)
        places, labels = torch.cat(xs)[::step].flatten(1).tolist(), torch.cat(ys)[::step].tolist()
        pairs = zip(places, labels, strict=True)
        return {
            "square": [low, high],
            "grid": ["".join(SYMBOLS[answer] for answer in row) for row in rows],
            "points": [[round(x, 3), round(y, 3), label] for (x, y), label in pairs],
        }

    def shown(self, seen: int) -> range:
        """The tasks that are graded after ``seen`` of them."""
        if self.graded == "stream":
            every = self.stream.scenario != "class-incremental"
            return range(len(self.stream.tasks) if every else seen)
        return range(0 if self.graded == "seen" else max(0, seen - 1), seen)

    def _count(
        self,
        learner: Learner,
        x: Tensor,
        y: Tensor,
        index: int,
        forbidden: Tensor | None,
        counts: Tensor,
    ) -> None:
        """Add the right answers on a batch of task ``index``, and those that are no numbers."""
        task = self.stream.tasks[index]
        given = task.for_predicting() if self.stream.scenario == "task-incremental" else None
        logits = learner.predict(x, given)
        if forbidden is not None:
            logits = logits.masked_fill(forbidden, -torch.inf)
        counts[index, 0] += (logits.argmax(1) == y).sum()
        counts[index, 1] += logits.isnan().any(1).sum()

    def set_rivals(self, learner: Learner, index: int) -> None:
        """Tell the learner which units compete in its loss while it learns that task."""
        tasks, scenario = self.stream.tasks, self.stream.scenario
        if scenario == "task-incremental":
            for task in tasks:
                learner.rivals[list(task.classes)] = self._units([task.classes])
        elif scenario == "class-incremental":
            learner.rivals[:] = self._units([t.classes for t in self._competing(index + 1)])
        learner.all_rivals = bool(learner.rivals.all())

    def forbidden(self, task: Task, seen: int) -> Tensor | None:
        """bool [num_classes]: the units that an answer on ``task`` may not name."""
        if self.stream.scenario == "task-incremental":
            return ~self._units([task.classes])
        if self.stream.scenario == "class-incremental":
            return ~self._units([t.classes for t in self._competing(seen)])
        return None

    def _competing(self, seen: int) -> tuple[Task, ...]:
        """The tasks whose classes may be answered after ``seen`` of them, class-incremental."""
        return self.stream.tasks[:seen] if self.head == "growing" else self.stream.tasks

    def _units(self, classes: list[tuple[int, ...]]) -> Tensor:
        mask = torch.zeros(self.stream.num_classes, dtype=torch.bool, device=self.device)
        mask[[unit for group in classes for unit in group]] = True
        return mask
