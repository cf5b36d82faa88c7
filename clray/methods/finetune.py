"""Fine-tuning: plain training on each task in turn, the lower bound.

No published source; it is the "None" of van de Ven & Tolias 2019 (arXiv 1904.07734).
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from clray.learner import Learner, MethodConfig
from clray.task import Task


class Config(MethodConfig):
    """Fine-tuning has no knobs of its own."""


class Finetune(Learner):
    """Cross-entropy on the current batch."""

    plain: ClassVar[bool] = True

    def observe(self, x: Tensor, y: Tensor, task: Task) -> dict[str, Tensor]:
        """One step on uint8 [B, C, H, W] and int64 [B]; returns the loss."""
        loss = self.cross_entropy(self.forward_augmented(x), y)
        self.step(loss)
        return {"loss": loss.detach()}
