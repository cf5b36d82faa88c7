"""Streams whose tasks are random parts of the training set."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from clray.spec import derive_seed
from clray.streams.draws import deal
from clray.streams.layout import Draw, Layout, TaskRows
from clray.streams.scenarios import InMemory

DataIncremental = Annotated[
    Literal["data-incremental"],
    Field(description="What changes from task to task: more examples of the same classes come."),
]


class Chunks(InMemory):
    """The training set dealt out at random into tasks of equal size, stratified by class.

    Every task has all classes and is graded on the same examples: what each task holds out, taken
    together, or the whole test set. The cut is drawn from the trial's seed.
    """

    scenario: DataIncremental = "data-incremental"

    @property
    def graded_together(self) -> bool:
        """See ``BenchmarkConfig.graded_together``."""
        return True

    def _check_tasks(self, num_classes: int | None) -> None:
        self._order(0)

    def layout(self, draw: Draw) -> Layout:
        """See ``InMemory.layout``."""
        classes = range(draw.num_classes)
        rows = draw.training_rows("all tasks", classes)
        seed = derive_seed(draw.seed, "chunks")
        parts = deal(draw.train_y, rows, self.num_tasks, seed, "benchmark.dataset")
        test = draw.test_rows("all tasks", classes)
        order = self._order(draw.seed)
        tasks = []
        for index, position in enumerate(order):
            name = f"chunk-{position}"
            train, validation = draw.hold_out(name, parts[position])
            own = test[index :: len(order)]
            tasks.append(TaskRows(name, tuple(classes), train, validation, own))
        return Layout(tuple(tasks), len(classes), graded_together=True)
