"""Synaptic intelligence: a quadratic pull, as strong as each weight has helped to lower the loss.

Zenke, Poole & Ganguli 2017 (arXiv 1703.04200).

While task k is learned, each weight's share of the loss decrease is summed along the path:
w_k = - sum over steps of g * (theta after - theta before), where g is the gradient of the task's
cross-entropy on the batch, alone. When the task ends, its importance is

    F_k = w_k / ((theta_k - theta_(k-1))^2 + damping),

and their sum over tasks is kept from falling below zero, as in the authors' code, and below ``cap``
if there is one. From the next task on, the loss of a stream of T tasks is

    mean cross-entropy + strength / 2 * 1 / T * sum over old tasks k of F_k * (theta - theta*)^2,

summed over parameters, where theta* are the latest weights. The mean over the stream's tasks lets
one strength serve streams of any length, and one range serve EWC as well.

Differences: the paper sums over tasks and has no 1 / 2: its c is ours / (2 T), so that c = 0.1 on
ten permutations is a strength of 2, and c = 1 on five splits is 10. All weights that are learned
are held, those of normalisations and of the head too. Which optimizer, and whether it starts afresh
at each task as in the paper, is the protocol's to say. With SGD, training diverges about where
lr * strength / T * max(sum of F) passes 2; the head's importances are the largest by far, and a cap
then lets the others be held more.

Strengths in other code differ: van de Ven's c (10 with damping 0.1 on five splits) is the paper's,
hence 100 here. Avalanche has the 1 / 2, the sum and, fixed, a cap of 0.001, so that its lambda is
ours / T with that cap; it takes the gradient of the whole loss and, as published, does nothing on
CPUs, where its weights before a step are an alias of those after it.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from clray.models.path_integral import PathPenalty
from clray.models.quadratic import learned_weights
from clray.models.weight_penalty import PenaltyConfig
from clray.spec import STABILITY
from clray.task import Task


class Config(PenaltyConfig):
    """Knobs of synaptic intelligence."""

    strength: Annotated[float, STABILITY] = Field(10.0, ge=0)
    """Weight of the penalty, against a mean cross-entropy of 1."""
    damping: Annotated[float, STABILITY] = Field(0.1, gt=0)
    """Added to each weight's squared way through a task (xi in the paper): bounds the importance of
    weights that hardly moved."""
    cap: Annotated[float | None, STABILITY] = Field(None, gt=0)
    """Largest importance of a weight, summed over tasks; none: as large as it comes."""


class Si(PathPenalty):
    """Cross-entropy on the current batch, and a penalty for leaving the weights that lowered it."""

    config: Config

    def end_task(self, task: Task) -> None:
        """Turn the path integrals into importances, and move the quadratic to these weights."""
        importance = {}
        for name, theta in learned_weights(self.model).items():
            way = theta.detach() - self.start[name]
            new = self.path[name] / (way.square() + self.config.damping)
            kept = self.quadratic.importance.get(name)
            total = new if kept is None else kept + new
            importance[name] = total.clamp(min=0, max=self.config.cap)
        self.quadratic.move(self.model, importance, decay=0)
        self.end_path()
