"""K nearest neighbours: a vote of the stored features that are nearest.

Cover & Hart 1967 (doi 10.1109/TIT.1967.1053964); on a frozen encoder's features, with cosines and
votes weighted as exp(cosine / temperature), Wu et al. 2018 (arXiv 1805.01978).

The memory is a reservoir, a uniform sample of the stream: what is kept depends neither on where
tasks begin nor on how the stream falls into batches. Where the protocol's memory holds the whole
stream, all of it is kept, which is exact. Each example is offered once, without augmentation.

``weighted`` gives neighbour i the vote exp(s_i / temperature), over the sum of all k. s is the
cosine or, so that no unit of length matters, minus the squared distance over the mean of the k
squared distances. ``uniform`` gives each the same; of two classes with as many votes, the one with
the nearer neighbour wins. Logits are the logarithms of the votes: -inf without any. In
task-incremental streams, neighbours are sought among the examples of the task's own classes.

The search is exact, float32, and never holds more than ``MOST_SCORES`` scores at once. Examples
that the frame holds out of the memory, to grade on, are no neighbours meanwhile.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from clray.learner import MethodConfig, Setup
from clray.memory import ReservoirMemory
from clray.models.feature_statistics import OnePassLearner, num_features
from clray.task import Task

MOST_SCORES = 1 << 24
"""Scores of queries against stored features that are held at once: 64 MiB."""
MOST_QUERIES = 1 << 10
"""Queries that are answered at once."""


class Config(MethodConfig):
    """Knobs of k nearest neighbours."""

    k: int = Field(10, ge=1)
    """Neighbours that vote; all that are kept, where these are fewer."""
    vote: Literal["uniform", "weighted"] = "uniform"
    """Whether nearer neighbours count for more."""
    metric: Literal["euclidean", "cosine"] = "euclidean"
    """What near means: a small Euclidean distance, or a large cosine."""
    temperature: float = Field(0.07, gt=0)
    """How fast a weighted vote falls with distance: the smaller, the faster."""


class Neighbours(nn.Module):
    """The vote of the nearest stored features, in place of a model's head.

    Args:
        num_features: D.
        num_classes: C.
        config: the knobs.
        memory: what is kept: features float32 [D], and labels.
    """

    stored: Tensor
    labels: Tensor

    def __init__(
        self, num_features: int, num_classes: int, config: Config, memory: ReservoirMemory
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.k, self.temperature = config.k, config.temperature
        self.cosine = config.metric == "cosine"
        self.weighted = config.vote == "weighted"
        self.memory = memory
        self.register_buffer("stored", torch.empty(0, num_features))
        self.register_buffer("labels", torch.empty(0, dtype=torch.int64))

    def add(self, features: Tensor, y: Tensor, task_index: int) -> None:
        """Offer this worker's features float32 [B, D] of classes int64 [B] to the memory."""
        if self.cosine:
            features = F.normalize(features)
        self.memory.add(features, y, task_index)
        # A reservoir fills up from the front; these are views, not copies.
        self.stored = self.memory.images[: len(self.memory)]
        self.labels = self.memory.labels[: len(self.memory)]

    def forward(self, features: Tensor, classes: Sequence[int] | None = None) -> Tensor:
        """Logits [B, C] for features [B, D]; ``classes``: the only ones whose examples vote."""
        stored, labels = self.stored, self.labels
        kept = torch.ones_like(labels, dtype=torch.bool)
        if self.memory.held:
            kept[sorted(self.memory.held)] = False
        if classes is not None:
            kept &= torch.isin(labels, torch.tensor(classes, device=labels.device))
        if self.memory.held or classes is not None:
            stored, labels = stored[kept], labels[kept]
        if len(labels) == 0:
            return features.new_full((len(features), self.num_classes), -torch.inf)
        if self.cosine:
            features = F.normalize(features)
        parts = torch.split(features, MOST_QUERIES)
        return torch.cat([self._votes(part, stored, labels) for part in parts])

    def _votes(self, queries: Tensor, stored: Tensor, labels: Tensor) -> Tensor:
        """Logits [Q, C] for queries [Q, D]."""
        nearness, found = self.nearest(queries, stored)
        k = found.shape[1]
        voted = labels[found]
        votes = queries.new_zeros(len(queries), self.num_classes, dtype=torch.float64)
        if self.weighted:
            weights = (nearness.double() / self.temperature).softmax(1)
            # In float64, so that the order of summation, which may vary on GPUs, leaves no trace.
            return votes.scatter_add_(1, voted, weights).log().float()
        votes.scatter_add_(1, voted, torch.ones_like(voted, dtype=torch.float64))
        # Up to half a vote for the class of the nearest, less for each one after it.
        bonus = torch.arange(k, 0, -1, device=votes.device, dtype=torch.float64) / (2 * k)
        first = torch.zeros_like(votes)
        first.scatter_reduce_(1, voted, bonus.expand(len(queries), k), "amax")
        return ((votes + first) / k).log().float()

    def nearest(self, queries: Tensor, stored: Tensor) -> tuple[Tensor, Tensor]:
        """The nearest of ``stored`` [N, D] to each query, nearest first.

        Args:
            queries: [Q, D].
            stored: [N, D].

        Returns:
            Nearness [Q, min(k, N)], the s of this file's docstring, and rows int64 [Q, min(k, N)].
        """
        best = queries.new_empty(len(queries), 0)
        found = best.long()
        rows = max(1, MOST_SCORES // max(1, len(queries)))
        for start in range(0, len(stored), rows):
            chunk = stored[start : start + rows]
            scores = queries @ chunk.T
            if not self.cosine:  # half of minus the squared distance, plus the query's own square
                scores -= chunk.square().sum(1) / 2
            here, row = scores.topk(min(self.k, len(chunk)), dim=1)
            best = torch.cat([best, here], 1)
            found = torch.cat([found, row + start], 1)
            best, order = best.topk(min(self.k, best.shape[1]), dim=1)
            found = found.gather(1, order)
        if self.cosine:
            return best, found
        distances = (queries.square().sum(1, keepdim=True) - 2 * best).clamp_min(0)
        mean = distances.mean(1, keepdim=True)
        return -distances / mean.clamp_min(torch.finfo(mean.dtype).tiny), found


class Knn(OnePassLearner):
    """Keeps features, and asks the nearest."""

    uses_memory: ClassVar[bool] = True

    def __init__(self, config: Config, setup: Setup) -> None:
        capacity = max(1, min(setup.memory, setup.num_examples))  # no more will ever come
        self.memory = ReservoirMemory(capacity, setup.generator, setup.distributed)
        self.neighbours = Neighbours(num_features(setup), setup.num_classes, config, self.memory)
        super().__init__(config, setup, self.neighbours)

    def count(self, features: Tensor, y: Tensor, task: Task) -> None:
        """Offer features float32 [B, D] of classes int64 [B] to the memory."""
        self.neighbours.add(features, y, task.index)

    def features(self, x: Tensor) -> Tensor:
        """See ``Learner.features``; what the memory gave back are features already."""
        return x if x.ndim == 2 and x.is_floating_point() else super().features(x)

    def predict(self, x: Tensor, task: Task | None) -> Tensor:
        """Logits [B, C] for uint8 [B, C, H, W]; of the task's own classes, where it is given."""
        classes = None if task is None else task.classes
        logits: Tensor = self.neighbours(self.features(x), classes)
        return logits

    def footprint(self) -> dict[str, int]:
        """The encoder's, and the memory's examples and bytes."""
        encoder: nn.Module = self.model.encoder  # type: ignore[assignment]
        tensors = [*encoder.parameters(), *encoder.buffers()]
        return {
            "parameters": sum(p.numel() for p in encoder.parameters()),
            "examples": len(self.memory),
            "bytes": sum(t.numel() * t.element_size() for t in tensors) + self.memory.num_bytes,
        }
