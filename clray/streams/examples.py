"""Examples that lie in memory: one tensor for the whole dataset, and an index for each task."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from clray.spec import derive_seed
from clray.task import Stream, cut


class Transform(Protocol):
    """Turns the images of a dataset into those of a domain, batch by batch, deterministically."""

    def __call__(self, x: Tensor, domain: int | Tensor) -> Tensor:
        """Images of one domain, or of one domain per row.

        Args:
            x: uint8 [B, C, H, W].
            domain: a number for the whole batch, or int64 [B].

        Returns:
            uint8 [B, C, H, W]; may be ``x`` itself, which is never written to.
        """
        ...


class TensorExamples:
    """Labelled images of one split of one task (``clray.task.Examples``).

    Attributes:
        images: uint8 [N, C, H, W], the whole dataset, shared by all tasks.
        labels: int64 [N], shared as well.
        index: int64 [n], the rows that belong here, in file order.
        domain: which domain the rows are seen in: one for all, or int64 [n].
        transform: images of the dataset to images of a domain; None leaves them as they are.
        label_stride: the label of a row is ``labels[row] + label_stride * domain``.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        index: Tensor,
        *,
        domain: int | Tensor = 0,
        transform: Transform | None = None,
        label_stride: int = 0,
    ) -> None:
        self.images = images
        self.labels = labels
        self.index = index
        self.domain = domain
        self.transform = transform
        self.label_stride = label_stride

    def __len__(self) -> int:
        return len(self.index)

    def batches(
        self, size: int, seed: int | None = None, epoch: int = 0, *, rank: int = 0, world: int = 1
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """See ``clray.task.Examples.batches``. The tensors yielded are the caller's to keep."""
        index, domain = self.index, self.domain
        if seed is not None:
            # Drawn on the CPU, so that the order is the same wherever the examples lie.
            generator = torch.Generator().manual_seed(derive_seed(seed, "epoch", epoch))
            order = torch.randperm(len(index), generator=generator).to(index.device)
            index = index.index_select(0, order)
            if isinstance(domain, Tensor):
                domain = domain.index_select(0, order)
        labels = self.labels.index_select(0, index)
        if self.label_stride:
            labels += self.label_stride * domain
        for batch in cut(len(index), size):
            start, length = batch.start, batch.stop - batch.start
            share = slice(start + rank * length // world, start + (rank + 1) * length // world)
            x = self.images.index_select(0, index[share])
            if self.transform is not None:
                x = self.transform(x, domain[share] if isinstance(domain, Tensor) else domain)
            yield x, labels[share]

    def join(self, others: Sequence[TensorExamples]) -> TensorExamples:
        """These examples followed by those of ``others``, each row in its own domain.

        Raises:
            ValueError: they do not share images, labels and transform.
        """
        parts = [self, *others]
        for part in others:
            same = (
                part.images is self.images
                and part.labels is self.labels
                and part.transform is self.transform
                and part.label_stride == self.label_stride
            )
            if not same:
                raise ValueError("only examples of one stream can be joined")
        index = torch.cat([part.index for part in parts])
        domain: int | Tensor = 0
        if self.transform is not None or self.label_stride:
            domain = torch.cat([part._domains() for part in parts])
        return TensorExamples(
            self.images,
            self.labels,
            index,
            domain=domain,
            transform=self.transform,
            label_stride=self.label_stride,
        )

    def _domains(self) -> Tensor:
        if isinstance(self.domain, Tensor):
            return self.domain
        return torch.full_like(self.index, self.domain)


def cumulate(stream: Stream) -> Stream:
    """``stream`` with each task's training examples joined by those of all tasks before it.

    Every row keeps the transform and the label of the task it comes from; ``eval`` is unchanged.
    What "joint" training and other upper bounds learn from.

    Raises:
        TypeError: the training examples cannot be joined.
    """
    tasks, seen = [], list[Any]()
    for task in stream.tasks:
        if not hasattr(task.train, "join"):
            kind = type(task.train).__name__
            raise TypeError(f"task {task.name!r}: {kind} cannot be joined")
        seen.append(task.train)
        tasks.append(dataclasses.replace(task, train=seen[0].join(seen[1:])))
    return dataclasses.replace(stream, tasks=tuple(tasks))
