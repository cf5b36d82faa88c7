"""Joint training: each task is learned together with all tasks before it, the upper bound.

No published source; it is the "Joint" of van de Ven & Tolias 2019 (arXiv 1904.07734), except that
the network goes on from the last task, and that each epoch is one pass over all examples so far.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from clray.learner import Learner, MethodConfig
from clray.task import Task


class Config(MethodConfig):
    """Joint training has no knobs of its own."""


class Joint(Learner):
    """Cross-entropy on batches of the examples of all tasks so far."""

    cumulative: ClassVar[bool] = True

    def observe(self, x: Tensor, y: Tensor, task: Task) -> dict[str, Tensor]:
        """One step on uint8 [B, C, H, W] and int64 [B]; returns the loss."""
        loss = self.cross_entropy(self.forward_augmented(x), y)
        self.step(loss)
        return {"loss": loss.detach()}
