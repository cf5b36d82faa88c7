"""Which rows of a dataset make each task: decided on the labels alone, before an image is read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from clray.errors import BadData
from clray.spec import derive_seed
from clray.streams.draws import hold_out, keep, rows_of
from clray.streams.examples import Transform

ImageShape = tuple[int, int, int]
"""(C, H, W)."""


@dataclass(frozen=True)
class TaskRows:
    """A task as rows of a dataset.

    Attributes:
        name: identity that survives reordering.
        classes: the output units that its labels use.
        train: rows of the training half to learn from, int64 [n], sorted; so are the others.
        validation: rows of the training half that are held out.
        test: rows of the test half.
        domain: the guise that the rows are seen in.
    """

    name: str
    classes: tuple[int, ...]
    train: Tensor
    validation: Tensor
    test: Tensor
    domain: int = 0


@dataclass(frozen=True)
class Layout:
    """The tasks of a stream as rows of a dataset, and what becomes of its labels and images.

    Attributes:
        tasks: in the order of learning.
        num_classes: output units over the whole stream.
        units: int64 [classes of the dataset], the output unit of each; None: its number.
        label_stride: added to a label times the task's domain.
        transform: makes, for an image shape and a device, what shows images in a domain; None: they
            stay as they are.
        graded_together: whether every task is graded on the held-out rows of all tasks.
    """

    tasks: tuple[TaskRows, ...]
    num_classes: int
    units: Tensor | None = None
    label_stride: int = 0
    transform: Callable[[ImageShape, torch.device], Transform] | None = None
    graded_together: bool = False


@dataclass(frozen=True)
class Draw:
    """The labels of a dataset, and how its rows are drawn for one stream.

    A draw depends on the seed, the task's name and the labels of its rows alone: the same task has
    the same rows wherever it stands.

    Attributes:
        train_y, test_y: int64, the labels of both halves; -1 for rows that cannot be used.
        num_classes: of the dataset.
        train_fraction: share of the training rows that is used, stratified by class.
        validation_fraction: share of these that is held out; None: nothing is held out.
        seed: of the draws.
    """

    train_y: Tensor
    test_y: Tensor
    num_classes: int
    train_fraction: float
    validation_fraction: float | None
    seed: int

    def training_rows(self, name: str, classes: Sequence[int]) -> Tensor:
        """The rows of these classes of the dataset that are used at all, sorted.

        Raises:
            BadData: a class has no training examples.
        """
        rows = rows_of(self.train_y, classes)
        counts = self.train_y[rows].bincount(minlength=self.num_classes).tolist()
        missing = [cls for cls in sorted(classes) if counts[cls] == 0]
        if missing:
            where = f"benchmark.dataset: training examples of class {missing[0]}"
            raise BadData(where, 0, "1 or more")
        seed = derive_seed(self.seed, "train", name)
        return keep(self.train_y, rows, self.train_fraction, seed)

    def hold_out(self, name: str, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Training rows of a task as those to learn from and those that are held out.

        Raises:
            BadData: a class has fewer than 2 rows where one must be held out.
        """
        if self.validation_fraction is None:
            return rows, rows[:0]
        seed = derive_seed(self.seed, "validation", name)
        where = f"benchmark.dataset, task {name!r}"
        return hold_out(self.train_y, rows, self.validation_fraction, seed, where)

    def test_rows(self, name: str, classes: Sequence[int]) -> Tensor:
        """The rows of the test half of these classes, sorted.

        Raises:
            BadData: there are none.
        """
        rows = rows_of(self.test_y, classes)
        if len(rows) == 0:
            raise BadData(f"benchmark.dataset: test examples of task {name!r}", 0, "1 or more")
        return rows

    def task(
        self,
        name: str,
        classes: Sequence[int],
        units: Sequence[int],
        drawn_as: str | None = None,
        domain: int = 0,
    ) -> TaskRows:
        """The rows of some classes as a task.

        Args:
            name: of the task.
            classes: of the dataset.
            units: the output units that they become.
            drawn_as: the name that rows are drawn by; None: the task's.
            domain: the guise that they are seen in.

        Raises:
            BadData: a class without training rows, or too few to hold one out; no test rows.
        """
        drawn_as = drawn_as or name
        rows = self.training_rows(drawn_as, classes)
        train, validation = self.hold_out(drawn_as, rows)
        test = self.test_rows(drawn_as, classes)
        return TaskRows(name, tuple(units), train, validation, test, domain)
