"""Streams whose tasks are random parts of the training set."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from clray.spec import derive_seed
from clray.streams.draws import deal
from clray.streams.examples import TensorExamples
from clray.streams.scenarios import Draw, InMemory
from clray.task import Task

DataIncremental = Annotated[
    Literal["data-incremental"],
    Field(description="What changes from task to task: more examples of the same classes come."),
]


class Chunks(InMemory):
    """The training set dealt out at random into tasks of equal size, stratified by class.

    Every task has all classes and is graded on the same examples: all that are held out, or the
    whole test set. The cut is drawn from the trial's seed, after validation was set aside.
    """

    scenario: DataIncremental = "data-incremental"

    def _check_tasks(self, num_classes: int | None) -> None:
        self._order(0)

    def _tasks(self, draw: Draw) -> tuple[list[Task], int]:
        classes = range(draw.dataset.num_classes)
        rows, graded_rows = draw.rows("all tasks", classes)
        seed = derive_seed(draw.seed, "chunks")
        parts = deal(draw.dataset.train_y, rows, self.num_tasks, seed, "benchmark.dataset")
        train, graded = draw.tensors()
        eval_examples = TensorExamples(*graded, graded_rows.to(draw.device))
        tasks = [
            Task(
                index=index,
                name=f"chunk-{position}",
                classes=tuple(classes),
                train=TensorExamples(*train, parts[position].to(draw.device)),
                eval=eval_examples,
            )
            for index, position in enumerate(self._order(draw.seed))
        ]
        return tasks, len(classes)
