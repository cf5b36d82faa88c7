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

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from clray.learner import Learner, MethodConfig, Setup
from clray.models.per_example import check_independent, squared_gradients
from clray.models.quadratic import Quadratic
from clray.spec import STABILITY
from clray.task import Task, cut

BATCH = 256
"""Examples at once while the importance is computed; it changes nothing but memory and time."""


class Config(MethodConfig):
    """Knobs of elastic weight consolidation."""

    strength: Annotated[float, STABILITY] = Field(100.0, ge=0)
    """Weight of the penalty, against a mean cross-entropy of 1."""
    mode: Literal["online", "offline"] = "online"
    """One running quadratic around the latest weights, or one for each old task (kept as their
    sum, which has the same gradient and size)."""
    decay: Annotated[float, STABILITY] = Field(1.0, ge=0, le=1)
    """Share of the old importance that is kept at each new task (online only)."""
    importance: Annotated[Literal["empirical", "sampled", "exact"], STABILITY] = "empirical"
    """Labels that the gradients are taken for: those of the data, one for each example sampled
    from the model's prediction, or all, weighted by the prediction (the Fisher diagonal)."""
    examples: Annotated[int | None, STABILITY] = Field(None, ge=1)
    """How many of a task's training examples, drawn at random, are used; none: all."""


class Ewc(Learner):
    """Cross-entropy on the current batch, and a penalty for leaving the old tasks' weights."""

    config: Config

    def __init__(self, config: Config, setup: Setup) -> None:
        super().__init__(config, setup)
        check_independent(setup.model)
        self.mode = config.mode
        self.quadratic = Quadratic()

    def observe(self, x: Tensor, y: Tensor, task: Task) -> dict[str, Tensor]:
        """One step on uint8 [B, C, H, W] and int64 [B]; returns the loss and its penalty."""
        loss = self.cross_entropy(self.forward_augmented(x), y)
        if self.quadratic.empty:
            self.step(loss)
            return {"loss": loss.detach()}
        weight = self.config.strength / (2 * self.setup.num_tasks)
        penalty = weight * self.quadratic(self.model)
        loss = loss + penalty
        self.step(loss)
        return {"loss": loss.detach(), "penalty": penalty.detach()}

    def end_task(self, task: Task) -> None:
        """Compute the importance of each weight for this task and add it to the quadratic."""
        importance = self.importance_for(task)
        if self.mode == "online":
            self.quadratic.move(self.model, importance, decay=self.config.decay)
        else:
            self.quadratic.add(self.model, importance)

    def importance_for(self, task: Task) -> dict[str, Tensor]:
        """Mean over the task's training examples of squared per-example gradients, by name."""
        self.train_mode(False)
        total = len(task.train)
        count = min(total, self.config.examples or total)
        seed = None
        if count < total:
            seed = int(torch.randint(2**62, (), generator=self.setup.generator))
        rank, world = self.distributed.rank, self.distributed.world
        sums = {
            name: torch.zeros_like(p)
            for name, p in self.model.named_parameters()
            if p.requires_grad
        }
        batches = task.train.batches(BATCH, seed=seed, rank=rank, world=world)
        for whole, (x, y) in zip(cut(total, BATCH), batches, strict=True):
            if whole.start >= count:
                break
            size = whole.stop - whole.start  # of the global batch
            mine = self.distributed.slice(size)
            draws = torch.rand(size, generator=self.setup.generator)[mine].to(y.device)
            keep = max(0, min(count - whole.start, mine.stop) - mine.start)
            losses = LabelLosses(self.config.importance, self.rivals[y[:keep]], y[:keep], draws)
            found = squared_gradients(self.model, self.setup.prepare(x[:keep]), losses)
            for name, value in found.items():
                sums[name] += value
        self.train_mode(True)
        return {name: self.distributed.sum(value) / count for name, value in sums.items()}

    def footprint(self) -> dict[str, int]:
        """The model's, and the bytes of the importances and the old weights."""
        kept = super().footprint()
        return {**kept, "bytes": kept["bytes"] + self.quadratic.num_bytes}


class LabelLosses:
    """Each example's negative log-likelihood among the units that compete with its label.

    Args:
        labels: as ``Config.importance``.
        rivals: bool [B, D], the units that compete.
        y: int64 [B], the labels of the data.
        draws: uniform in [0, 1), [B] or more, by which labels are sampled.
    """

    def __init__(self, labels: str, rivals: Tensor, y: Tensor, draws: Tensor) -> None:
        self.labels, self.rivals, self.y = labels, rivals, y
        self.draws = draws[: len(y)]

    def __call__(self, logits: Tensor) -> Tensor:
        """Losses [B] for logits [B, D], or [D, B] weighted by the labels' probability."""
        log_p = logits.masked_fill(~self.rivals, -torch.inf).log_softmax(1)
        if self.labels == "empirical":
            return F.nll_loss(log_p, self.y, reduction="none")
        p = log_p.detach().exp()
        if self.labels == "sampled":
            below = p.cumsum(1)
            drawn = (below <= self.draws.unsqueeze(1) * below[:, -1:]).sum(1)
            return F.nll_loss(log_p, drawn, reduction="none")
        # Scaled by the root, so that the squared gradient is scaled by the probability.
        return -(p.sqrt() * log_p.masked_fill(~self.rivals, 0)).T
