"""Continual evaluation: a learner is graded between its updates, and learns as if it were not.

See ``clray.traces`` for what a trace is and says. De Lange et al. 2023, "Continual evaluation for
lifelong learning: identifying the stability gap" (arXiv 2205.13452).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clray.distributed import Distributed
from clray.grading import EVAL_BATCH, Grader
from clray.learner import Learner
from clray.spec import Evaluation, derive_seed
from clray.task import Task, cut

BATCH = 1024
"""Examples that are answered at once: subsets of several tasks together."""


@dataclass
class Points:
    """What was measured of a task so far; counts stay on the device until the task ends.

    Attributes:
        shown: the tasks that are graded, by position.
        examples: of each task so far, how many.
        before: int64 [tasks, 2], right answers of the network that the task found, and answers that
            are no numbers; None where it is the first.
        updates: of each point.
        counts: as ``before``, of each point.
    """

    shown: list[int]
    examples: list[int]
    before: Tensor | None
    updates: list[int] = field(default_factory=list)
    counts: list[Tensor] = field(default_factory=list)


class Tracer:
    """Grades a learner while it learns, on the same few examples again and again.

    Args:
        evaluation: when, and on how many.
        grader: says what may be answered.
    """

    def __init__(self, evaluation: Evaluation, grader: Grader) -> None:
        self.evaluation, self.grader = evaluation, grader
        self.distributed = Distributed()
        self.subsets: dict[int, tuple[Tensor, Tensor]] = {}

    def due(self, update: int) -> bool:
        """Whether there is a point after so many updates of a task."""
        return update <= self.evaluation.first or update % self.evaluation.every == 0

    def begin(self, learner: Learner, index: int) -> Points:
        """Grade the network that task ``index`` finds, on the tasks before it."""
        shown = list(self.grader.shown(index + 1)[: index + 1])
        examples = [len(self._subset(i)[1]) if i in shown else 0 for i in range(index + 1)]
        old = [i for i in shown if i < index]
        before = self._counts(learner, old, index, index) if index else None
        return Points(shown, examples, before)

    def point(self, learner: Learner, points: Points, index: int, update: int) -> None:
        """Grade it after so many updates of task ``index``; again, where that was done before."""
        counts = self._counts(learner, points.shown, index + 1, index + 1)
        if points.updates and points.updates[-1] == update:
            points.updates.pop()
            points.counts.pop()
        points.updates.append(update)
        points.counts.append(counts)

    def plain(self, points: Points) -> dict[str, Any]:
        """A task's trace as it stands in its record."""
        index = len(points.examples) - 1
        before = points.counts[0][:0] if points.before is None else points.before
        rows = [before, *points.counts]
        totals = torch.split(self.distributed.sum(torch.cat(rows)), [len(row) for row in rows])
        found, *right = [
            [
                int(count) if i in points.shown and not odd else None
                for i, (count, odd) in enumerate(total.tolist())
            ]
            for total in totals
        ]
        return {
            "examples": points.examples,
            "before": found[:index],
            "updates": points.updates,
            "right": right,
        }

    @torch.no_grad()
    def _counts(self, learner: Learner, shown: list[int], tasks: int, seen: int) -> Tensor:
        """int64 [tasks, 2] of this worker: right answers on the subset of each task shown, and
        answers that are no numbers, while ``seen`` tasks are known."""
        counts = torch.zeros(tasks, 2, dtype=torch.int64, device=self.grader.device)
        together = self.grader.stream.graded_together  # on the same examples, so once
        graded = shown[:1] if together else shown
        with _undisturbed(learner):
            learner.train_mode(False)
            if self.grader.stream.scenario == "task-incremental":
                for index in graded:
                    self._count(learner, [index], seen, counts)
            elif graded:
                self._count(learner, graded, seen, counts)
        if together and graded:
            counts[shown] = counts[graded[0]].clone()
        return counts

    def _count(self, learner: Learner, graded: list[int], seen: int, counts: Tensor) -> None:
        """Add the answers on tasks of which all may be answered alike."""
        stream = self.grader.stream
        task = stream.tasks[graded[0]]
        given = task.for_predicting() if stream.scenario == "task-incremental" else None
        forbidden = self.grader.forbidden(task, seen)
        parts = [self._subset(index) for index in graded]
        x, y = (torch.cat(both) for both in zip(*parts, strict=True))
        sizes = torch.tensor([len(labels) for _, labels in parts], device=y.device)
        own = torch.repeat_interleave(torch.tensor(graded, device=y.device), sizes)
        for whole in cut(len(y), BATCH):
            part = self.distributed.slice(whole.stop - whole.start)
            share = slice(whole.start + part.start, whole.start + part.stop)
            logits = learner.predict(x[share], given)
            if forbidden is not None:
                logits = logits.masked_fill(forbidden, -torch.inf)
            right = (logits.argmax(1) == y[share]).long()
            odd = logits.isnan().any(1).long()
            counts.index_add_(0, own[share], torch.stack([right, odd], 1))

    def _subset(self, index: int) -> tuple[Tensor, Tensor]:
        """The examples of a task that are graded: uint8 [n, C, H, W] and int64 [n]."""
        if index not in self.subsets:
            self.subsets[index] = self._read(self.grader.stream.tasks[index])
        return self.subsets[index]

    def _read(self, task: Task) -> tuple[Tensor, Tensor]:
        """The first examples of each class in an order that depends on the task's name alone."""
        num_classes, most = self.grader.stream.num_classes, self.evaluation.subset
        rank, world = self.distributed.rank, self.distributed.world
        seed = derive_seed(0, "subset", task.name)
        taken = torch.zeros(num_classes, dtype=torch.int64, device=self.grader.device)
        xs, ys = [], []
        for x, y in task.eval.batches(EVAL_BATCH, seed, rank=rank, world=world):
            x, y = self.distributed.gather(x), self.distributed.gather(y)
            hot = F.one_hot(y, num_classes)
            number = (taken + hot.cumsum(0)).gather(1, y.unsqueeze(1)).squeeze(1)
            xs.append(x[number <= most])
            ys.append(y[number <= most])
            taken += hot.sum(0)
            if bool((taken[list(task.classes)] >= most).all()):
                break
        return torch.cat(xs), torch.cat(ys)


@contextmanager
def _undisturbed(learner: Learner) -> Iterator[None]:
    """Leaves the modes of all networks, and all randomness, as they were."""
    networks = [value for value in vars(learner).values() if isinstance(value, nn.Module)]
    modes = [(module, module.training) for one in networks for module in one.modules()]
    device, generator = learner.setup.device, learner.setup.generator
    own, cuda = generator.get_state(), [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        yield
    generator.set_state(own)
    for module, training in modes:
        module.training = training
