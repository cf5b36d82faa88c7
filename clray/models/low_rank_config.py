"""The knobs of ``halrp``, whose file says what they do."""

from __future__ import annotations

import math
from typing import Literal, Self

from pydantic import Field, model_validator

from clray.learner import MethodConfig
from clray.models.low_rank_fit import Convolutions
from clray.models.low_rank_learner import Choice, Importance, Ranks
from clray.parsing import refused


class LowRankConfig(MethodConfig):
    """Knobs of Hessian-aware low-rank perturbation."""

    warm_up: float = Field(0.05, gt=0, lt=1)
    """Share of a later task's steps, one at least, in which a free copy of the first task's network
    learns."""
    retained: float = Field(0.9, gt=0, le=1)
    """Share of all directions' scores that the ranks keep, before the cap."""
    rank_cap: int | None = Field(100, ge=1)
    """Largest rank of a layer; none: as many as it has directions."""
    ranks: Ranks = "importance"
    """How ranks are chosen: as few directions as retain the share; the cap for every layer; or what
    retains most within rank_parameters."""
    rank_parameters: int | None = Field(None, ge=1)
    """Most entries of a task's factors, with ranks: parameters."""
    importance: Importance = "mean"
    """Of a layer's squared gradients, what makes its importance: the mean, as released, or the sum,
    as the bound on the loss has it."""
    importance_from: Literal["train", "aside"] = "train"
    """Whose gradients: the training examples', or those of a share that is set aside."""
    held_out: float = Field(0.2, gt=0, lt=1)
    """Share of a later task's training examples that importance_from: aside sets aside."""
    importance_batches: int = Field(16, ge=1)
    """Most batches that the importance is measured on."""
    scale_fit: Literal["least-squares", "released"] = "least-squares"
    """How columns are scaled: by least squares, or by the released code's formula."""
    scale_rounds: int = Field(1, ge=1)
    """How often rows and columns are fitted in turn, by least squares."""
    convolutions: Convolutions = "window-mean"
    """What the factors of a convolution are: the same over its window, as released, or a
    convolution and a 1x1 one after it, which can express any kernel."""
    l1: float = Field(1e-4, ge=0)
    """Weight of the sum of the factors' magnitudes."""
    decay: float = Field(1e-4, ge=0)
    """Weight of half the squares: of the first task's weights, and of later tasks' scales and
    factors."""
    decay_toward: Literal["zero", "one"] = "zero"
    """What the scales decay to."""
    growth: float | None = Field(None, gt=0)
    """Numbers that all later tasks may learn and keep, over those of the first; none: nothing is
    pruned."""
    prune: Literal["new", "all"] = "new"
    """Which factors are pruned: those of the task that was learned, each to its share of the
    growth; or all tasks' by the released rule, which forgets, and exceeds the growth."""
    prune_after: float = Field(1.0, gt=0, le=1)
    """Share of the steps with factors after which the new task is pruned; in the rest, what was
    pruned stays zero."""
    lr_decay: float = Field(0.95, gt=0, le=1)
    """What the learning rate is multiplied by over decay_examples, step by step."""
    decay_examples: int | None = Field(None, ge=1)
    """See lr_decay; none: as many as the task has."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.ranks == "parameters") != (self.rank_parameters is not None):
            accepted = "a number with ranks: parameters, and none without"
            raise refused("rank_parameters", self.rank_parameters, accepted)
        if self.scale_fit == "released" and self.scale_rounds > 1:
            raise refused("scale_rounds", self.scale_rounds, "1 with scale_fit: released")
        if self.prune_after < 1 and self.prune == "all":
            raise refused("prune_after", self.prune_after, "1 with prune: all")
        return self

    @property
    def choice(self) -> Choice:
        """Of scales and ranks."""
        released = self.scale_fit == "released"
        ranks = self.ranks, self.retained, self.rank_cap, self.rank_parameters
        return Choice(*ranks, self.scale_rounds, released)

    def num_warm_up(self, steps: int) -> int:
        """How many of a later task's steps warm up: one at least, and not all of several."""
        return max(1, min(steps - 1, math.floor(self.warm_up * steps + 0.5)))

    def num_unpruned(self, steps: int) -> int:
        """How many of the steps with factors come before pruning; one at least."""
        return max(1, math.floor(self.prune_after * steps + 0.5))

    def rate_factor(self, batch_size: int, examples: int) -> float:
        """What a step multiplies the learning rate by, on a task of so many examples."""
        return float(self.lr_decay ** (batch_size / (self.decay_examples or examples)))
