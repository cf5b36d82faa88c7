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

from typing import Annotated

from pydantic import Field
from torch import Tensor

from clray.learner import Learner, MethodConfig, Setup
from clray.models.distillation import OldNetwork, divergence, with_units_of
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
        self.old: OldNetwork | None = None
        self.groups: list[Tensor] = []

    def observe(self, x: Tensor, y: Tensor, task: Task) -> dict[str, Tensor]:
        """One step on uint8 [B, C, H, W] and int64 [B]; returns the loss and its penalty."""
        inputs = self.setup.prepare(self.setup.augment(x))
        logits = self.model(inputs)
        loss = self.cross_entropy(logits, y)
        if self.old is None or self.config.strength == 0:
            self.step(loss)
            return {"loss": loss.detach()}
        penalty = self.config.strength * self.distributed.mean(
            self.divergence(logits, self.old(inputs))
        )
        loss = loss + penalty
        self.step(loss)
        return {"loss": loss.detach(), "penalty": penalty.detach()}

    def divergence(self, logits: Tensor, old: Tensor) -> Tensor:
        """temperature^2 * KL(old answers || new answers) of each example, [B] for logits [B, D]."""
        heat = self.config.temperature
        return heat**2 * divergence(logits, old, self.groups, heat)

    def end_task(self, task: Task) -> None:
        """Keep a frozen copy of the network, and which units it has learned."""
        self.old = OldNetwork(self.model)
        self.groups = with_units_of(task, self.groups, self.setup)

    def footprint(self) -> dict[str, int]:
        """The model's, and the bytes of the old network, without what both share."""
        kept = super().footprint()
        old = 0 if self.old is None else self.old.num_bytes
        return {**kept, "bytes": kept["bytes"] + old}
