"""What iCaRL and BiC share: herded exemplars, replayed beside the answers of the old network."""

from __future__ import annotations

from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from clray.aside import Aside
from clray.learner import Learner, MethodConfig, Setup
from clray.models.distillation import OldNetwork, with_units_of
from clray.models.herding import HerdedMemory
from clray.spec import STABILITY
from clray.task import Task


class ExemplarConfig(MethodConfig):
    """What is replayed."""

    memory_batch: Annotated[int | None, STABILITY] = Field(None, ge=1)
    """Exemplars drawn from the memory for each step; none: as many as the batch size."""


class ExemplarLearner(Learner):
    """Keeps herded exemplars and a frozen copy of the network when a task ends.

    Args:
        config: the knobs.
        setup: what the frame hands over.
        capacity: of the memory.
    """

    config: ExemplarConfig
    scenarios: ClassVar[frozenset[str]] = frozenset({"class-incremental", "task-incremental"})
    uses_memory: ClassVar[bool] = True

    def __init__(self, config: ExemplarConfig, setup: Setup, capacity: int) -> None:
        super().__init__(config, setup)
        self.memory = HerdedMemory(capacity, setup.generator, setup.distributed)
        self.old: OldNetwork | None = None
        self.groups: list[Tensor] = []

    def with_exemplars(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """This worker's part of a batch, [B, C, H, W] and int64 [B], followed by its part of a draw
        from the memory."""
        if len(self.memory) == 0:
            return x, y
        old_x, old_y, _ = self.memory.draw(self.config.memory_batch or self.setup.batch_size)
        return torch.cat([x, old_x]), torch.cat([y, old_y])

    def keep(self, task: Task, aside: Aside | None = None) -> None:
        """Keep exemplars of a task that has ended, and the network as it is.

        Args:
            task: is read twice.
            aside: says which of its examples are none to choose.
        """
        self.memory.herd(self, task, aside)
        self.old = OldNetwork(self.model)
        self.groups = with_units_of(task, self.groups, self.setup)

    def footprint(self) -> dict[str, int]:
        """The model's, the memory's examples and bytes, and the bytes of the old network."""
        kept = super().footprint()
        old = 0 if self.old is None else self.old.num_bytes
        num_bytes = kept["bytes"] + self.memory.num_bytes + old
        return {**kept, "examples": len(self.memory), "bytes": num_bytes}
