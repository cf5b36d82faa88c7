"""Rows of a linear head that begin as the linear map that tells their classes best.

Harun & Kanan 2025 (arXiv 2503.06385) set the rows of new classes by least squares instead of class
means, which need features that lie around zero. Their text was not at hand; here it is the ridge
regression of "is it class c" on features, with a bias, over the new task's examples and those that
are remembered. Each new class's answer is then scaled and shifted so that on average it tells its
own examples as surely as the old rows tell theirs: logits of cross-entropy and of a regression have
different sizes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from clray.learner import Learner
from clray.models.class_mean_rows import evaluating
from clray.task import Task

RIDGE = 0.1
"""Of the mean variance of a feature."""
BATCH = 256
"""Remembered examples at once; it changes nothing but memory and time."""


class Sums(NamedTuple):
    """Over examples, in float64.

    Attributes:
        products: [D, D], of features with features.
        features: [C, D], of each class.
        counts: [C].
    """

    products: Tensor
    features: Tensor
    counts: Tensor

    @classmethod
    def zero(cls, width: int, num_classes: int, device: torch.device) -> Sums:
        """Of no examples."""
        empty = torch.zeros(num_classes, width + 1, dtype=torch.float64, device=device)
        square = empty.new_zeros(width, width)
        return cls(square, empty[:, :width], empty[:, width])

    def add(self, features: Tensor, y: Tensor) -> None:
        """Count features float64 [B, D] with labels int64 [B]."""
        self.products.addmm_(features.T, features)
        self.features.index_add_(0, y, features)
        self.counts.index_add_(0, y, torch.ones_like(features[:, 0]))


@torch.no_grad()
def begin_at_least_squares(
    learner: Learner, task: Task, new: Sequence[int], old: Tensor, labels: Tensor
) -> None:
    """Set the head's rows and biases of new classes; all others stay.

    A new class and an old one have equal weight.

    Args:
        learner: whose head it is; its modes stay as they are.
        task: holds the new classes' examples, and is read once, over all workers.
        new: classes whose rows are set; one without examples keeps its row.
        old: remembered examples uint8 [B, C, H, W], the same on all workers.
        labels: of these, int64 [B]; none of them is of a new class.
    """
    setup, group = learner.setup, learner.distributed
    head: nn.Linear = learner.model.head  # type: ignore[assignment]
    size, width = setup.num_classes, head.in_features
    here, kept = (Sums.zero(width, size, setup.device) for _ in range(2))
    with evaluating(learner.model):
        for x, y in task.train.batches(setup.batch_size, rank=group.rank, world=group.world):
            if len(y) > 0:
                here.add(learner.features(x).double(), y)
        remembered = torch.cat([learner.features(part) for part in torch.split(old, BATCH)])
    remembered = remembered.double()
    kept.add(remembered, labels)
    arrived = Sums(*(group.sum(value) for value in here))
    chosen = torch.tensor(list(new), device=setup.device)
    chosen = chosen[arrived.counts[chosen] > 0]
    weights, biases = _regression(arrived, kept, chosen)
    low, high = _sureness(head(remembered.to(head.weight.dtype)), labels)
    head.weight[chosen] = ((high - low) * weights).to(head.weight.dtype)
    if head.bias is not None:
        head.bias[chosen] = ((high - low) * biases + low).to(head.bias.dtype)


def _regression(arrived: Sums, kept: Sums, chosen: Tensor) -> tuple[Tensor, Tensor]:
    """Weights [n, D] and biases [n] of the regressions on being of each chosen class."""
    present = [(sums.counts > 0).sum() for sums in (arrived, kept)]
    new, old = (count / sum(present) for count in present)  # shares of all classes
    new, old = new / arrived.counts.sum(), old / kept.counts.sum()  # of each example
    mean = new * arrived.features.sum(0) + old * kept.features.sum(0)
    covariance = new * arrived.products + old * kept.products - torch.outer(mean, mean)
    frequency = new * arrived.counts[chosen]
    own = new * arrived.features[chosen] - torch.outer(frequency, mean)
    variance = covariance.diagonal()
    variance += RIDGE * variance.mean().clamp(min=torch.finfo(variance.dtype).tiny)
    weights = torch.linalg.solve(covariance, own.T).T
    return weights, frequency - weights @ mean


def _sureness(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Mean logit [B, C] of a wrong and of the right one among the classes of the labels [B]; 0
    where no class is wrong."""
    known = torch.unique(labels)
    right = logits.gather(1, labels[:, None]).double()
    others = logits[:, known].double().sum() - right.sum()
    wrong = others / max(1, len(labels) * (len(known) - 1))
    return wrong, right.mean()
