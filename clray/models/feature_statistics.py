"""What methods share that learn from statistics of a frozen encoder's features, without a gradient.

Each example counts once, in the first pass over its task, as it is: without the benchmark's
augmentation. Workers exchange features, so that all hold the same statistics, in the same order of
summation as one worker alone. Sums are kept in float64, and made by matrix products: unlike
``index_add_``, these give the same bits every time on GPUs too.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clray.learner import Learner, MethodConfig, Setup
from clray.task import Task

Rule = tuple[Tensor, Tensor]
"""A linear classifier: weights float64 [M, C] and biases [C]."""


class OnePassLearner(Learner):
    """Hands each example's features, once, to what takes the place of the model's head."""

    frozen_encoder: ClassVar[bool] = True
    hands_over: ClassVar[bool] = False

    def __init__(self, config: MethodConfig, setup: Setup, head: nn.Module) -> None:
        super().__init__(config, setup)
        self.model.head = head.to(setup.device)
        # No gradient is ever taken; the optimizer made above would keep the old head.
        self.optimizer = setup.optimizer([nn.Parameter(torch.empty(0))])
        self.counting = False

    @abstractmethod
    def count(self, features: Tensor, y: Tensor, task: Task) -> None:
        """Take in this worker's features float32 [B, D] and labels int64 [B] of a task."""

    def begin_epoch(self, task: Task, epoch: int, num_epochs: int) -> None:
        """Count examples in the first epoch only."""
        self.counting = epoch == 0

    def observe(self, x: Tensor, y: Tensor, task: Task) -> dict[str, Tensor]:
        """Count uint8 [B, C, H, W] and int64 [B]; there is no loss."""
        if self.counting:
            self.count(self.features(x), y, task)
        return {}

    def footprint(self) -> dict[str, int]:
        """The encoder's, and the statistics' numbers and bytes."""
        kept = super().footprint()
        head: nn.Module = self.model.head  # type: ignore[assignment]
        numbers = sum(buffer.numel() for buffer in head.buffers())
        return {**kept, "parameters": kept["parameters"] + numbers}


class ClassMeans(nn.Module):
    """Number and sum of each class's features.

    Args:
        num_features: D.
        num_classes: C.
    """

    counts: Tensor
    sums: Tensor

    def __init__(self, num_features: int, num_classes: int) -> None:
        super().__init__()
        self.register_buffer("counts", torch.zeros(num_classes, dtype=torch.int64))
        sums = torch.zeros(num_classes, num_features, dtype=torch.float64)
        self.register_buffer("sums", sums)

    def add(self, features: Tensor, y: Tensor) -> None:
        """Count features [B, D] with labels int64 [B]."""
        member = F.one_hot(y, len(self.counts))
        self.counts += member.sum(0)
        self.sums.addmm_(member.T.double(), features.double())

    @property
    def means(self) -> Tensor:
        """float64 [C, D]; zero for classes that were not seen."""
        return self.sums / self.counts.clamp_min(1).unsqueeze(1)

    @property
    def seen(self) -> Tensor:
        """bool [C]: the classes of which there was an example."""
        return self.counts > 0


class Solved(nn.Module, ABC):
    """A linear classifier that is solved from statistics when it is first asked for after they
    changed; it is no part of the state."""

    def __init__(self) -> None:
        super().__init__()
        self._rule: Rule | None = None
        self.register_load_state_dict_post_hook(_forget)  # type: ignore[no-untyped-call]

    @abstractmethod
    def solve(self) -> Rule:
        """The classifier of the statistics as they are."""

    def scores(self, inputs: Tensor) -> Tensor:
        """float64 [B, C] for float64 [B, M], solving if need be."""
        if self._rule is None:
            self._rule = self.solve()
        weights, biases = self._rule
        return inputs @ weights + biases

    def forget(self) -> None:
        """To be called whenever the statistics change."""
        self._rule = None


def _forget(module: Solved, keys: object) -> None:
    module.forget()


def num_features(setup: Setup) -> int:
    """Width D of the features that the model's head, a linear layer, takes."""
    head: nn.Linear = setup.model.head  # type: ignore[assignment]
    return head.in_features


def as_logits(scores: Tensor, seen: Tensor) -> Tensor:
    """Scores float64 [B, C] as float32 logits: less each row's best, which keeps in float32 what
    tells the best from the next; -inf for classes that were not ``seen``, bool [C]."""
    scores = scores.masked_fill(~seen, -torch.inf)
    best = scores.amax(1, keepdim=True).nan_to_num(neginf=0.0)
    return (scores - best).float()
