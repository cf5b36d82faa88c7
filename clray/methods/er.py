"""Experience replay: each batch is learned together with examples drawn from a memory.

Chaudhry et al. 2019, "On Tiny Episodic Memories in Continual Learning" (arXiv 1902.10486).

The loss is the mean cross-entropy over the current batch and what was drawn, taken together.

Differences:

- ``fill: after-task``, the default, offers a task's examples to the memory when the task ends, as
  Avalanche's Replay does, so that all that is replayed is old; it reads the task once more.
  ``online`` is the paper's: each batch is offered once it was learned, after the draw, so that no
  example stands twice in a step. With several epochs (the paper has one), that is done in the
  first only, so that nothing is kept twice. On five tasks of two digits each (8,000 examples, 5
  epochs, 500 kept), ``after-task`` is 1 to 3 points more accurate.
- The paper draws as many examples as the batch holds; here their number is a knob.
- An image is kept as it came, and augmented afresh whenever it is drawn.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from clray.learner import Learner, MethodConfig, Setup
from clray.memory import ClassBalancedMemory, Memory, ReservoirMemory
from clray.spec import STABILITY
from clray.task import Task


class Config(MethodConfig):
    """Knobs of experience replay."""

    memory_batch: Annotated[int | None, STABILITY] = Field(None, ge=1)
    """Examples drawn from the memory for each step; none: as many as the batch size."""
    storage: Literal["reservoir", "class-balanced"] = "reservoir"
    """What is kept: a uniform sample of the stream, or equally many examples of each class."""
    fill: Literal["after-task", "online"] = "after-task"
    """When examples are offered to the memory: when their task ends, or as they first come."""


class Er(Learner):
    """Mean cross-entropy over the current batch and a draw from the memory."""

    config: Config
    uses_memory: ClassVar[bool] = True

    def __init__(self, config: Config, setup: Setup) -> None:
        super().__init__(config, setup)
        kind = ReservoirMemory if config.storage == "reservoir" else ClassBalancedMemory
        self.memory: Memory = kind(setup.memory, setup.generator, setup.distributed)
        self.fill = config.fill
        self.filling = False

    def begin_epoch(self, task: Task, epoch: int, num_epochs: int) -> None:
        """Offer examples to the memory in the first epoch only."""
        self.filling = self.fill == "online" and epoch == 0

    def observe(self, x: Tensor, y: Tensor, task: Task) -> dict[str, Tensor]:
        """One step on uint8 [B, C, H, W] and int64 [B]; returns the loss."""
        inputs, labels = x, y
        if len(self.memory):
            old_x, old_y, _ = self.memory.draw(self.config.memory_batch or self.setup.batch_size)
            inputs, labels = torch.cat([x, old_x]), torch.cat([y, old_y])
        loss = self.cross_entropy(self.forward_augmented(inputs), labels)
        self.step(loss)
        if self.filling:
            self.memory.add(x, y, task.index)
        return {"loss": loss.detach()}

    def end_task(self, task: Task) -> None:
        """Offer the task's examples to the memory, if that was not done as they came."""
        if self.fill == "after-task":
            rank, world = self.distributed.rank, self.distributed.world
            for x, y in task.train.batches(self.setup.batch_size, rank=rank, world=world):
                self.memory.add(x, y, task.index)

    def footprint(self) -> dict[str, int]:
        """The model's, and the memory's examples and bytes."""
        kept = super().footprint()
        num_bytes = kept["bytes"] + self.memory.num_bytes
        return {**kept, "examples": len(self.memory), "bytes": num_bytes}
