"""Memory aware synapses: a quadratic pull, as strong as each weight moves the network's answers.

Aljundi, Babiloni, Elhoseiny, Rohrbach & Tuytelaars 2018 (arXiv 1711.09601).

After each task k, a weight's importance is how much the squared length of the answer reacts to it,

    F_k = mean over the task's training examples of | d ||f(x)||^2 / d theta |,

where f(x) are the logits, in evaluation mode. Labels are not needed. From the next task on, the
loss of a stream of T tasks is

    mean cross-entropy + strength / 2 * 1 / T * sum over old tasks k of F_k * (theta - theta*)^2,

summed over parameters, where theta* are the latest weights.

The logits are those that compete in the cross-entropy: a task's own in task-incremental streams;
in class-incremental ones those of all classes so far, or, with ``protocol.head: fixed``, all; else
all. The logits of others answer nothing on the task's examples, and what moves them is free.

Differences:

- The absolute value is of each example's own gradient, as in the paper, so that the importance does
  not depend on the batch size. The authors' code takes that of a batch's summed gradient, divided
  by its size, in which examples cancel one another; only at a batch size of 1 are both the same.
- The paper and its code sum over tasks and have no 1 / 2: their lambda is ours / (2 T), so that
  lambda = 1 on five tasks is a strength of 10.
- FACIL and Avalanche keep alpha (0.5) of the old importance and take 1 - alpha of the new, and have
  the 1 / 2: with ``decay`` alpha, our strength is their lambda * T * (1 - alpha). But they derive
  the mean length, not its square, of a batch, in training mode, FACIL's of all heads together. The
  code of A-GEM (Chaudhry et al. 2019, arXiv 1812.00420) forgets the old importance: ``decay`` 0.
- All weights that are learned are held, the head's too, which FACIL leaves out. The variant by
  layers (l-MAS) and importances from data other than the task's are left out.

With SGD, training diverges about where lr * strength / T * max(sum of F) passes 2.
"""

from __future__ import annotations

from functools import partial
from typing import Annotated

from pydantic import Field
from torch import Tensor

from clray.learner import Setup
from clray.models.per_example import Losses, check_independent, mean_absolute_gradients
from clray.models.task_sample import Share
from clray.models.weight_penalty import PenaltyConfig, WeightPenalty
from clray.spec import STABILITY
from clray.task import Task


class Config(PenaltyConfig):
    """Knobs of memory aware synapses."""

    strength: Annotated[float, STABILITY] = Field(1.0, ge=0)
    """Weight of the penalty, against a mean cross-entropy of 1."""
    decay: Annotated[float, STABILITY] = Field(1.0, ge=0, le=1)
    """Share of the old importance that is kept at each new task."""
    examples: Annotated[int | None, STABILITY] = Field(None, ge=1)
    """How many of a task's training examples, drawn at random, are used; none: all."""


class Mas(WeightPenalty):
    """Cross-entropy on the current batch, and a penalty for moving what the answers depend on."""

    config: Config

    def __init__(self, config: Config, setup: Setup) -> None:
        super().__init__(config, setup)
        check_independent(setup.model)

    def end_task(self, task: Task) -> None:
        """Compute the importance of each weight for this task, add it to the quadratic, and move
        that to these weights."""
        importance = self.importance_for(task)
        self.quadratic.move(self.model, importance, decay=self.config.decay)

    def importance_for(self, task: Task) -> dict[str, Tensor]:
        """Mean over the task's training examples of absolute per-example gradients, by name."""
        units = self.rivals[list(task.classes)].any(0)

        def losses(share: Share) -> Losses:
            return partial(squared_length, units=units)

        return self.mean_over(task, self.config.examples, mean_absolute_gradients, losses)


def squared_length(logits: Tensor, units: Tensor) -> Tensor:
    """Of each row [B] of logits [B, D], among the units bool [D]."""
    return logits.masked_fill(~units, 0).square().sum(1)
