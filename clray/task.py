"""What a learner sees of the data: a stream of tasks, each with examples to learn from."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, Protocol

from torch import Tensor


def cut(total: int, size: int) -> list[slice]:
    """How a pass over ``total`` examples falls into batches: as few as ``size`` allows, of equal
    size up to one example.

    A small last batch would make as large a step as the others on next to no evidence: 5 examples
    of 1,605 cost fine-tuning up to half of its last task's accuracy on Split-MNIST.

    Raises:
        ValueError: ``size`` is below 1.
    """
    if size < 1:
        raise ValueError(f"batch size must be 1 or more, got {size}")
    count = -(-total // size)
    return [slice(i * total // count, (i + 1) * total // count) for i in range(count)]


class Examples(Protocol):
    """Labelled images, or features, of one split of one task, cut into batches on demand."""

    def __len__(self) -> int:
        """How many examples there are, over all workers."""
        ...

    def batches(
        self, size: int, seed: int | None = None, epoch: int = 0, *, rank: int = 0, world: int = 1
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield ``(x, y)``: uint8 [b, C, H, W] (float, of features) and int64 [b], on the stream's
        device.

        Args:
            size: most examples per global batch; see ``cut``.
            seed: shuffles; the order is a pure function of (seed, epoch). None keeps file order.
            epoch: which pass over the data this is.
            rank: of ``world`` workers, which share to yield: the contiguous part
                ``[rank * n // world, (rank + 1) * n // world)`` of every global batch of n
                (possibly empty, so that workers stay in step).
        """
        ...


class Sealed:
    """Stands where examples are withheld; touching it is an error."""

    def __init__(self, what: str) -> None:
        self.what = what

    def __len__(self) -> NoReturn:
        raise PermissionError(f"{self.what} may not be read here")

    def batches(
        self, size: int, seed: int | None = None, epoch: int = 0, *, rank: int = 0, world: int = 1
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Always raises PermissionError."""
        raise PermissionError(f"{self.what} may not be read here")


@dataclass(frozen=True)
class Task:
    """One element of a stream.

    Attributes:
        index: position in the stream, from 0.
        name: identity that survives reordering.
        classes: the output units that this task's labels use. In class- and task-incremental
            streams they are disjoint between tasks; otherwise all tasks share them.
        train: examples to learn from.
        eval: examples to be graded on: validation while selecting, test in the final runs.
    """

    index: int
    name: str
    classes: tuple[int, ...]
    train: Examples
    eval: Examples

    def for_learning(self) -> Task:
        """This task as a method may see it while training: without its evaluation examples."""
        return dataclasses.replace(self, eval=Sealed(f"evaluation examples of task {self.name!r}"))

    def for_predicting(self) -> Task:
        """This task's identity alone, as a method may see it while predicting."""
        return dataclasses.replace(
            self.for_learning(), train=Sealed(f"training examples of task {self.name!r}")
        )


@dataclass(frozen=True)
class Stream:
    """The sequence of tasks that is learned.

    Attributes:
        tasks: in the order of learning.
        scenario: one of ``clray.spec.SCENARIOS``.
        num_classes: output units over the whole stream; labels are 0 .. num_classes - 1.
        image_shape: (C, H, W) of every example.
        mean, std: per-channel normalisation in [0, 1] units, applied after ``/ 255``; empty: none.
        augment: the training augmentation (``clray.streams.augment``).
        encoder: where the examples are features (D, 1, 1), or made of them, key of the encoder that
            computed these.
        coded_from: where they are codes int16 (C, 1, 1) that the method itself made of features,
            the shape (D, 1, 1) of these.
        graded_together: whether each task is graded on examples that were held out of all tasks.
        square: where the examples are points (2, 1, 1) of a square, its ends in both directions;
            then the regions that a learner gives to each class are recorded.
    """

    tasks: tuple[Task, ...]
    scenario: str
    num_classes: int
    image_shape: tuple[int, int, int]
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    augment: str | tuple[Any, ...] = "none"
    encoder: str | None = None
    coded_from: tuple[int, int, int] | None = None
    graded_together: bool = False
    square: tuple[float, float] | None = None

    def only(self, places: Sequence[int]) -> Stream:
        """The stream of some of its tasks, in the order given; output units stay."""
        tasks = [dataclasses.replace(self.tasks[p], index=i) for i, p in enumerate(places)]
        return dataclasses.replace(self, tasks=tuple(tasks))
