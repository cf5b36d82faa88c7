"""Dark experience replay: old examples are replayed with the logits that they were given once.

What ``der`` and ``derpp`` share. The squared error of an example, over D, is that of

- class-, domain- and data-incremental: all output units, those of classes to come among them;
- task-incremental: its own task's units, for its answer depends on no others. It is over all D as
  well: over these alone, two of ten, alpha = 1 diverged at a learning rate of 0.2.

The first task is replayed as well, from its second step on, so that these knobs act there too.
Without that, DER (alpha 1, SGD at 0.2) falls from 0.80 to 0.70 on 20 permutations of MNIST.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from clray.learner import Learner, MethodConfig, Setup
from clray.memory import LogitsMemory
from clray.models.class_mean_rows import evaluating
from clray.spec import PLASTICITY, STABILITY
from clray.task import Task


class DarkReplayConfig(MethodConfig):
    """What both have."""

    memory_batch: Annotated[int | None, STABILITY, PLASTICITY] = Field(None, ge=1)
    """Examples in each draw from the memory; none: as many as the batch size."""
    alpha: Annotated[float, STABILITY, PLASTICITY] = Field(0.5, ge=0)
    """Weight of the mean squared error between old logits and new ones, against a mean
    cross-entropy of 1; 0: none are drawn for it."""
    fill: Literal["every-pass", "online", "after-task"] = "every-pass"
    """When examples and their logits are offered to the memory: in every pass over their task; in
    the first one only; or when the task ends, with the logits of the network as it is then."""


class DarkReplay(Learner):
    """Cross-entropy on the current batch, and old logits held on a draw from the memory."""

    config: DarkReplayConfig
    uses_memory: ClassVar[bool] = True

    def __init__(self, config: DarkReplayConfig, setup: Setup) -> None:
        super().__init__(config, setup)
        self.memory = LogitsMemory(setup.memory, setup.generator, setup.distributed)
        self.fill = config.fill
        self.filling = False
        self.own_units = setup.scenario == "task-incremental"

    @property
    def beta(self) -> float:
        """Weight of the labels of a second draw; 0: there is none."""
        return 0.0

    def begin_epoch(self, task: Task, epoch: int, num_epochs: int) -> None:
        """Say whether examples are offered to the memory in this pass."""
        self.filling = self.fill == "every-pass" or (self.fill == "online" and epoch == 0)

    def observe(self, x: Tensor, y: Tensor, task: Task) -> dict[str, Tensor]:
        """One step on uint8 [B, C, H, W] and int64 [B]; returns the loss, and what logits and
        labels that were drawn add to it."""
        alpha, beta = self.config.alpha, self.beta
        inputs = [x]
        if replaying := len(self.memory) > 0:
            count = self.config.memory_batch or self.setup.batch_size
            if alpha:
                first_x, first_y, old = self.memory.draw_with_logits(count)
                inputs.append(first_x)
            if beta:
                second_x, second_y, _ = self.memory.draw(count)
                inputs.append(second_x)
        logits, *others = torch.split(
            self.forward_augmented(torch.cat(inputs)), [len(part) for part in inputs]
        )
        loss = self.cross_entropy(logits, y)
        out = {}
        if replaying and (alpha or beta):
            penalty = loss.new_zeros(())
            if alpha:
                distances = self.distances(others[0], old, first_y)
                penalty = penalty + alpha * self.distributed.mean(distances)
            if beta:
                penalty = penalty + beta * self.cross_entropy(others[-1], second_y)
            out["penalty"] = penalty.detach()
            loss = loss + penalty
        self.step(loss)
        if self.filling:
            self.memory.add(x, y, task.index, logits)
        return {"loss": loss.detach(), **out}

    def distances(self, logits: Tensor, old: Tensor, y: Tensor) -> Tensor:
        """Squared error of each example over the units that count, / D; [B] for logits [B, D]."""
        squares = (logits - old).square()
        return (squares * self.rivals[y] if self.own_units else squares).mean(1)

    def end_task(self, task: Task) -> dict[str, Any] | None:
        """Offer the task's examples to the memory, if that was not done as they came."""
        if self.fill == "after-task":
            rank, world = self.distributed.rank, self.distributed.world
            with evaluating(self.model), torch.no_grad():
                for x, y in task.train.batches(self.setup.batch_size, rank=rank, world=world):
                    self.memory.add(x, y, task.index, self.forward(x))
        return None

    def footprint(self) -> dict[str, int]:
        """The model's, and the memory's examples and bytes."""
        kept = super().footprint()
        num_bytes = kept["bytes"] + self.memory.num_bytes
        return {**kept, "examples": len(self.memory), "bytes": num_bytes}
