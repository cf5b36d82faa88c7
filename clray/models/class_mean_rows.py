"""Rows of a linear head that begin where the features of their classes lie.

Harun & Kanan 2024 (arXiv 2306.01904), after the released code: a new class's row is the mean of its
examples' features, each scaled to length 1; the mean itself is not. That needs features that lie
around zero, as behind a layer normalisation: features that are all positive (behind a ReLU) have
a large product with every such row, and the new classes then drown the old ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clray.learner import Learner
from clray.task import Task

NewBias = Literal["mean", "kept"]


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Evaluation mode, and afterwards each module's own as it was."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@torch.no_grad()
def class_means(learner: Learner, task: Task, classes: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Mean unit feature of each class over all workers' training examples, without augmentation.

    Args:
        learner: its encoder gives the features; its modes stay as they are.
        task: is read once.
        classes: of the task, n of them.

    Returns:
        float64 [n, D], zero for a class without examples; and how many each has, float64 [n].
    """
    setup, group = learner.setup, learner.distributed
    head: nn.Linear = learner.model.head  # type: ignore[assignment]
    size, width = setup.num_classes, head.in_features
    sums = torch.zeros(size, width, dtype=torch.float64, device=setup.device)
    counts = torch.zeros(size, dtype=torch.float64, device=setup.device)
    with evaluating(learner.model):
        for x, y in task.train.batches(setup.batch_size, rank=group.rank, world=group.world):
            if len(y) > 0:
                units = F.normalize(learner.features(x).double(), dim=1)
                sums.index_add_(0, y, units)
                counts.index_add_(0, y, torch.ones_like(units[:, 0]))
    chosen = list(classes)
    sums, counts = group.sum(sums)[chosen], group.sum(counts)[chosen]
    return sums / counts.clamp(min=1)[:, None], counts


@torch.no_grad()
def begin_at_class_means(
    learner: Learner, task: Task, new: Sequence[int], old: Sequence[int], new_bias: NewBias
) -> None:
    """Set the head's rows of new classes to their mean unit features; all others stay.

    Args:
        learner: whose head it is.
        task: holds the new classes' examples; a class without any keeps its row.
        new: classes whose rows are set.
        old: classes whose rows have learned already.
        new_bias: the mean of the old classes' biases, or what it has become as one of those that
            were never right (the released code).
    """
    head: nn.Linear = learner.model.head  # type: ignore[assignment]
    means, counts = class_means(learner, task, new)
    rows = torch.tensor(list(new), device=head.weight.device)[counts > 0]
    head.weight[rows] = means[counts > 0].to(head.weight.dtype)
    if new_bias == "mean" and old and head.bias is not None:
        head.bias[rows] = head.bias[list(old)].mean()
