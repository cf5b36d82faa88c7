"""Averaged GEM: no step raises the mean loss on examples kept from old tasks, to first order.

Chaudhry, Ranzato, Rohrbach & Elhoseiny 2019, "Efficient Lifelong Learning with A-GEM"
(arXiv 1812.00420).

At each step, g is the gradient of the mean cross-entropy on the batch, and r that on examples drawn
from the memory. Where g . r < 0, the step would raise the loss on the old ones, and g becomes the
nearest gradient that does not:

    g - (g . r) / (r . r) * r.

Otherwise g is left as it is: learning is then fine-tuning, to the bit. g and r are taken over all
weights that learn, together. In task-incremental streams each old example is graded by its own
task's units.

What the memory holds decides much of the result, and differs between code bases:

- ``storage: per-task``, the default, sets the same room apart for each task of the stream and fills
  it with a random sample of the task's examples when the task ends, as Avalanche does (which
  counts the room of one task, so that its 100 are a memory of 500 on five tasks). The released code
  keeps equally many of each class in it. Early in the stream most of it is empty.
- ``reservoir`` and ``class-balanced`` use all of it from the first task on; offered examples as
  they come (``fill: online``), the first is Mammoth's A-GEM-R.

Differences:

- The paper draws from the memory of all old tasks, uniformly, as here; Avalanche draws equally many
  of each, with replacement, which is the same in the mean. Early versions of it kept the first
  examples rather than a random sample, and projected each parameter's gradient by itself.
- Mammoth offers just one batch of each task to its memory, when the task ends.
- The paper learns each example once. Here, with several epochs, ``online`` offers examples in the
  first only, so that nothing is kept twice.
- Each pass of old examples counts in the running statistics of batch normalisations.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from clray.errors import BadSpec
from clray.learner import Learner, MethodConfig, Setup
from clray.memory import ClassBalancedMemory, Memory, ReservoirMemory
from clray.models.gradient_projection import remove_conflict
from clray.models.per_task_memory import PerTaskMemory
from clray.spec import STABILITY
from clray.task import Task


class Config(MethodConfig):
    """Knobs of averaged GEM."""

    memory_batch: Annotated[int, STABILITY] = Field(256, ge=1)
    """Examples drawn from the memory for each step; all of them, where fewer are kept."""
    storage: Literal["per-task", "reservoir", "class-balanced"] = "per-task"
    """What is kept: equally many random examples of each task of the stream, a uniform sample of
    what came so far, or equally many examples of each class so far."""
    fill: Literal["after-task", "online"] = "after-task"
    """When examples are offered to the memory: when their task ends, or as they first come."""


class Agem(Learner):
    """Cross-entropy on the current batch, by steps that the memory does not speak against."""

    config: Config
    uses_memory: ClassVar[bool] = True

    def __init__(self, config: Config, setup: Setup) -> None:
        super().__init__(config, setup)
        self.memory = _memory(config, setup)
        self.fill = config.fill
        self.filling = False
        self.steps = 0
        self.conflicts = torch.zeros((), device=setup.device)

    def begin_task(self, task: Task) -> None:
        """Count its steps from zero."""
        self.steps = 0
        self.conflicts = torch.zeros_like(self.conflicts)

    def begin_epoch(self, task: Task, epoch: int, num_epochs: int) -> None:
        """Offer examples to the memory in the first epoch only."""
        self.filling = self.fill == "online" and epoch == 0

    def observe(self, x: Tensor, y: Tensor, task: Task) -> dict[str, Tensor]:
        """One step on uint8 [B, C, H, W] and int64 [B]; returns the loss."""
        references = self._references() if len(self.memory) else {}

        def adjust() -> None:
            pairs = [(p.grad, r) for p, r in references.items() if p.grad is not None]
            if pairs:
                gradients, reference = map(list, zip(*pairs, strict=True))
                self.conflicts += remove_conflict(gradients, reference)

        loss = self.cross_entropy(self.forward_augmented(x), y)
        self.step(loss, adjust)
        self.steps += 1
        if self.filling:
            self.memory.add(x, y, task.index)
        return {"loss": loss.detach()}

    def end_task(self, task: Task) -> dict[str, Any]:
        """Offer the task's examples to the memory, if that was not done as they came; returns the
        share of its steps that were changed."""
        if self.fill == "after-task":
            rank, world = self.distributed.rank, self.distributed.world
            for x, y in task.train.batches(self.setup.batch_size, rank=rank, world=world):
                self.memory.add(x, y, task.index)
        return {"projected": round(float(self.conflicts) / max(1, self.steps), 4)}

    def footprint(self) -> dict[str, int]:
        """The model's, and the memory's examples and bytes."""
        kept = super().footprint()
        num_bytes = kept["bytes"] + self.memory.num_bytes
        return {**kept, "examples": len(self.memory), "bytes": num_bytes}

    def _references(self) -> dict[nn.Parameter, Tensor]:
        """Each parameter's gradient on a draw from the memory, over all workers' examples."""
        x, y, _ = self.memory.draw(self.config.memory_batch)
        loss = self.cross_entropy(self.forward_augmented(x), y)
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        parameters = self._optimized()
        self.distributed.average_gradients(parameters)
        # A step begins by letting go of them, so that they are not overwritten.
        return {p: p.grad for p in parameters if p.grad is not None}


def _memory(config: Config, setup: Setup) -> Memory:
    if config.storage == "reservoir":
        return ReservoirMemory(setup.memory, setup.generator, setup.distributed)
    if config.storage == "class-balanced":
        return ClassBalancedMemory(setup.memory, setup.generator, setup.distributed)
    if setup.memory < setup.num_tasks:
        accepted = f"at least {setup.num_tasks}, one for each task, or method.storage: reservoir"
        raise BadSpec("protocol.memory", setup.memory, accepted)
    return PerTaskMemory(setup.memory, setup.num_tasks, setup.generator, setup.distributed)
