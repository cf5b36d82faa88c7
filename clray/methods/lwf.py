"""Learning without forgetting: the network is taught the new task, and its own old answers to it.

Li & Hoiem 2016 (arXiv 1606.09282).

When a task ends, a frozen copy of the network is kept. From the next task on, the loss is

    mean cross-entropy + strength * temperature^2 * mean KL(old answers || new answers),

both on the current batch, augmented once. Answers are softmax(logits / temperature) over old units:

- task-incremental: over each old task's own units, the divergences summed over old tasks;
- class-incremental: over the units of all old tasks together, whichever way the head grows;
- domain- and data-incremental: over all units that old tasks use, which are the current one's too.

Differences: the paper has no temperature^2 (of Hinton et al. 2015, arXiv 1503.02531: the gradient
then keeps its size at all temperatures) and a cross-entropy, which differs from the divergence by a
constant: its lambda is ours * temperature^2, so that its lambda = 1 at temperature 2 is a strength
of 0.25, as is Avalanche's alpha = 1. Its warm-up of the new head is left out. It computes the old
answers once, before a task; here they are computed at each step, so that they fit the augmentation.
In class-incremental streams, much code lets only the new classes compete in the cross-entropy;
here, as for every method, ``protocol.head`` says which do. Van de Ven's code weighs the two terms
with 1 / n and 1 - 1 / n at the n-th task; here the weights stay.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from clray.learner import Learner, MethodConfig, Setup
from clray.spec import STABILITY
from clray.task import Task


class Config(MethodConfig):
    """Knobs of learning without forgetting."""

    strength: Annotated[float, STABILITY] = Field(1.0, ge=0)
    """Weight of the old answers, against a mean cross-entropy of 1."""
    temperature: Annotated[float, STABILITY] = Field(2.0, gt=0)
    """What logits are divided by: higher makes small probabilities count more."""


class Lwf(Learner):
    """Cross-entropy on the current batch, and a penalty for answering otherwise than before."""

    config: Config

    def __init__(self, config: Config, setup: Setup) -> None:
        super().__init__(config, setup)
        self.old: nn.Module | None = None
        self.groups: list[Tensor] = []

    def observe(self, x: Tensor, y: Tensor, task: Task) -> dict[str, Tensor]:
        """One step on uint8 [B, C, H, W] and int64 [B]; returns the loss and its penalty."""
        inputs = self.setup.prepare(self.setup.augment(x))
        logits = self.model(inputs)
        loss = self.cross_entropy(logits, y)
        if self.old is None or self.config.strength == 0:
            self.step(loss)
            return {"loss": loss.detach()}
        with torch.no_grad():
            old = self.old(inputs)
        penalty = self.config.strength * self.distributed.mean(self.divergence(logits, old))
        loss = loss + penalty
        self.step(loss)
        return {"loss": loss.detach(), "penalty": penalty.detach()}

    def divergence(self, logits: Tensor, old: Tensor) -> Tensor:
        """temperature^2 * KL(old answers || new answers) of each example, [B] for logits [B, D]."""
        heat = self.config.temperature
        total = logits.new_zeros(len(logits))
        for units in self.groups:
            new_log, old_log = (
                (answers.index_select(1, units) / heat).log_softmax(1) for answers in (logits, old)
            )
            total = total + F.kl_div(new_log, old_log, reduction="none", log_target=True).sum(1)
        return heat**2 * total

    def end_task(self, task: Task) -> None:
        """Keep a frozen copy of the network, and which units it has learned."""
        # What is never learned needs no copy: a frozen encoder is shared.
        shared = {id(p): p for p in self.model.parameters() if not p.requires_grad}
        self.old = copy.deepcopy(self.model, shared).requires_grad_(False).eval()
        if self.setup.scenario == "task-incremental":
            self.groups.append(self._units(task.classes))
        else:
            known = {unit for group in self.groups for unit in group.tolist()}
            self.groups = [self._units(known | {*task.classes})]

    def _units(self, classes: Iterable[int]) -> Tensor:
        return torch.tensor(sorted(classes), device=self.setup.device)

    def train_mode(self, training: bool) -> None:
        """Put the network in that mode; the old one always answers in evaluation mode."""
        super().train_mode(training)
        if self.old is not None:
            self.old.eval()

    def footprint(self) -> dict[str, int]:
        """The model's, and the bytes of the old network, without what both share."""
        kept = super().footprint()
        if self.old is None:
            return kept
        learned = {id(p) for p in self.model.parameters()}
        own = [p for p in self.old.parameters() if id(p) not in learned] + [*self.old.buffers()]
        return {**kept, "bytes": kept["bytes"] + sum(t.numel() * t.element_size() for t in own)}
