"""Elastic weight consolidation: a quadratic pull towards the weights that old tasks need.

Kirkpatrick et al. 2017 (arXiv 1612.00796), with one quadratic for each old task (``mode:
offline``); Schwarz et al. 2018 (arXiv 1805.06370), with one running quadratic around the latest
weights (``mode: online``, the default).

After each task k, a parameter's importance F_k is the mean over the task's training examples of
the squared gradient of each example's log-likelihood, in evaluation mode: it does not depend on
the batch size. From the next task on, the loss of a stream of T tasks is

    mean cross-entropy + strength / 2 * 1 / T * sum over old tasks k of F_k * (theta - theta_k)^2,

summed over parameters; online, theta_k is the latest for all k. The mean over the stream's tasks
lets one strength serve streams of any length.

Differences: the papers sum over tasks (their strength is ours / T); which labels the gradient is
taken for, and how many examples, are knobs; Schwarz et al. say "normalised" of F, here it is not.

Strengths in other code differ: Avalanche and many others square the gradient of the mean over a
batch of b examples, which is about F / b, sum over tasks and leave out 1 / 2, so that their
strength is about ours * b / (2 T). With SGD, training diverges about where
lr * strength / T * max(sum of F) passes 2.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor

from clray.learner import Setup
from clray.models.label_losses import LabelLosses, Labels
from clray.models.per_example import check_independent, mean_squared_gradients
from clray.models.task_sample import Share
from clray.models.weight_penalty import PenaltyConfig, WeightPenalty
from clray.spec import STABILITY
from clray.task import Task


class Config(PenaltyConfig):
    """Knobs of elastic weight consolidation."""

    strength: Annotated[float, STABILITY] = Field(100.0, ge=0)
    """Weight of the penalty, against a mean cross-entropy of 1."""
    mode: Literal["online", "offline"] = "online"
    """One running quadratic around the latest weights, or one for each old task (kept as their
    sum, which has the same gradient and size)."""
    decay: Annotated[float, STABILITY] = Field(1.0, ge=0, le=1)
    """Share of the old importance that is kept at each new task (online only)."""
    importance: Annotated[Labels, STABILITY] = "empirical"
    """Labels that the gradients are taken for: those of the data, one for each example sampled
    from the model's prediction, or all, weighted by the prediction (the Fisher diagonal)."""
    examples: Annotated[int | None, STABILITY] = Field(None, ge=1)
    """How many of a task's training examples, drawn at random, are used; none: all."""


class Ewc(WeightPenalty):
    """Cross-entropy on the current batch, and a penalty for leaving the old tasks' weights."""

    config: Config

    def __init__(self, config: Config, setup: Setup) -> None:
        super().__init__(config, setup)
        check_independent(setup.model)
        self.mode = config.mode

    def end_task(self, task: Task) -> None:
        """Compute the importance of each weight for this task and add it to the quadratic."""
        importance = self.importance_for(task)
        if self.mode == "online":
            self.quadratic.move(self.model, importance, decay=self.config.decay)
        else:
            self.quadratic.add(self.model, importance)

    def importance_for(self, task: Task) -> dict[str, Tensor]:
        """Mean over the task's training examples of squared per-example gradients, by name."""
        return self.mean_over(task, self.config.examples, mean_squared_gradients, self._losses)

    def _losses(self, share: Share) -> LabelLosses:
        return LabelLosses.of(self.config.importance, self.rivals, share, self.setup.generator)
