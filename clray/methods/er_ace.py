"""ER-ACE: replay in which new examples' classes compete among themselves, old examples' with all.

Caccia, Aljundi, Asadi, Tuytelaars, Pineau & Belilovsky 2022, "New Insights on Reducing Abrupt
Representation Change in Online Continual Learning" (arXiv 2104.05025).

From the second task on, the loss is the sum of two means (asymmetric cross-entropy):

    cross-entropy on the batch, among the classes that are in the batch
    + cross-entropy on a draw from the memory, among all that compete (``protocol.head``),

so that what is new pushes no old class's output row, and is told from old classes by replay alone.
For that it must be in the memory while it is learned: each example is offered in the first pass
over its task, once it was learned.

Where all tasks have the same classes (domain- and data-incremental), and where each has units of
its own (task-incremental), a batch that holds all of its task's classes makes this plain replay,
with a mean for old and new examples each; a smaller one only spares the classes that it lacks.

Differences:

- The paper's loss is followed. The released code, and Mammoth's, also let classes compete with the
  batch's that were never seen, from the highest label seen so far on, which spares that class not.
- The first task is learned plainly, and without replay, as in Mammoth; in the paper the loss is the
  same from the second step on, so that what replay alone would teach there is learned at once here.
- Avalanche takes the mean of both terms: half of this loss.
- The batch and what was drawn go through the network together; there, one after the other, which
  differs behind batch normalisation.
- With several epochs (the paper has one) examples are offered in the first alone.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from clray.learner import Learner, Setup
from clray.models.rehearsal import KINDS, KeepConfig
from clray.task import Task


class Config(KeepConfig):
    """Knobs of ER-ACE."""


class ErAce(Learner):
    """Mean cross-entropy on the current batch among its own classes, and on a draw among all."""

    config: Config
    uses_memory: ClassVar[bool] = True

    def __init__(self, config: Config, setup: Setup) -> None:
        super().__init__(config, setup)
        kind = KINDS[config.storage]
        self.memory = kind(setup.memory, setup.generator, setup.distributed)
        self.filling = False

    def begin_epoch(self, task: Task, epoch: int, num_epochs: int) -> None:
        """Offer examples to the memory in the first epoch only."""
        self.filling = epoch == 0

    def observe(self, x: Tensor, y: Tensor, task: Task) -> dict[str, Tensor]:
        """One step on uint8 [B, C, H, W] and int64 [B]; returns the loss."""
        if task.index > 0 and len(self.memory):
            old_x, old_y, _ = self.memory.draw(self.config.memory_batch or self.setup.batch_size)
            logits = self.forward_augmented(torch.cat([x, old_x]))
            loss = self.among_present(logits[: len(x)], y)
            loss = loss + self.cross_entropy(logits[len(x) :], old_y)
        else:
            loss = self.cross_entropy(self.forward_augmented(x), y)
        self.step(loss)
        if self.filling:
            self.memory.add(x, y, task.index)
        return {"loss": loss.detach()}

    def among_present(self, logits: Tensor, y: Tensor) -> Tensor:
        """Mean cross-entropy of a batch among the classes that are in it, on any worker."""
        found = torch.zeros(self.setup.num_classes, device=y.device).index_fill_(0, y, 1)
        present = self.distributed.sum(found) > 0
        return self.cross_entropy(logits.masked_fill(~present, -torch.inf), y)

    def footprint(self) -> dict[str, int]:
        """The model's, and the memory's examples and bytes."""
        kept = super().footprint()
        num_bytes = kept["bytes"] + self.memory.num_bytes
        return {**kept, "examples": len(self.memory), "bytes": num_bytes}
