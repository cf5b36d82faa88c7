"""Rehearsal: each batch is learned together with examples drawn from a memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from clray.learner import Learner, MethodConfig, Setup
from clray.memory import Batch, ClassBalancedMemory, Memory, ReservoirMemory
from clray.models.gap_mitigation import Mitigation
from clray.models.gap_mitigation_config import MitigationConfig
from clray.spec import STABILITY
from clray.task import Task

KINDS: dict[str, type[ReservoirMemory | ClassBalancedMemory]] = {
    "reservoir": ReservoirMemory,
    "class-balanced": ClassBalancedMemory,
}


class KeepConfig(MethodConfig):
    """What is remembered, and how much of it is replayed."""

    memory_batch: Annotated[int | None, STABILITY] = Field(None, ge=1)
    """Examples drawn from the memory for each step; none: as many as the batch size."""
    storage: Literal["reservoir", "class-balanced"] = "reservoir"
    """What is kept: a uniform sample of the stream, or equally many examples of each class."""


class ReplayConfig(KeepConfig):
    """What is remembered, and when, and how much of it is replayed."""

    fill: Literal["after-task", "online"] = "after-task"
    """When examples are offered to the memory: when their task ends, or as they first come."""


class RehearsalConfig(MitigationConfig, ReplayConfig):
    """Knobs of rehearsal, and what is done against its stability gap."""


class Rehearsal(Learner):
    """Mean loss over the current batch and draws from the memory, taken together."""

    config: RehearsalConfig
    uses_memory: ClassVar[bool] = True

    def __init__(self, config: RehearsalConfig, setup: Setup) -> None:
        super().__init__(config, setup)
        self.memory = self.make_memory()
        self.fill = config.fill
        self.filling = False
        self.mitigation = Mitigation(config, setup, self.memory)

    def make_memory(self) -> Memory:
        """The memory, empty."""
        setup = self.setup
        return KINDS[self.config.storage](setup.memory, setup.generator, setup.distributed)

    def draws(self) -> Iterator[Batch]:
        """What is replayed in a step, from a memory that holds something."""
        yield self.memory.draw(self.config.memory_batch or self.setup.batch_size)

    def begin_task(self, task: Task) -> None:
        """Make the network ready for it."""
        self.mitigation.begin_task(self, task)

    def begin_epoch(self, task: Task, epoch: int, num_epochs: int) -> None:
        """Offer examples to the memory in the first epoch only."""
        self.filling = self.fill == "online" and epoch == 0
        self.mitigation.begin_epoch()

    def observe(self, x: Tensor, y: Tensor, task: Task) -> dict[str, Tensor]:
        """One step on uint8 [B, C, H, W] and int64 [B]; returns the loss."""
        inputs, labels = [x], [y]
        if len(self.memory):
            for old_x, old_y, _ in self.draws():
                inputs.append(old_x)
                labels.append(old_y)
        logits = self.forward_augmented(torch.cat(inputs))
        loss = self.mitigation.loss(self, logits, torch.cat(labels))
        self.step(loss)
        self.mitigation.after_step()
        if self.filling:
            self.memory.add(x, y, task.index)
        return {"loss": loss.detach()}

    def end_task(self, task: Task) -> dict[str, Any] | None:
        """Put the plain network back, and offer the task's examples to the memory, if that was not
        done as they came."""
        facts = self.mitigation.end_task(self, task)
        if self.fill == "after-task":
            rank, world = self.distributed.rank, self.distributed.world
            for x, y in task.train.batches(self.setup.batch_size, rank=rank, world=world):
                self.memory.add(x, y, task.index)
        return facts

    def footprint(self) -> dict[str, int]:
        """The model's, and the memory's examples and bytes."""
        kept = super().footprint()
        num_bytes = kept["bytes"] + self.memory.num_bytes
        return {**kept, "examples": len(self.memory), "bytes": num_bytes}
