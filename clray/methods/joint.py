"""Joint training: each task is learned together with all tasks before it, the upper bound.

No published source; it is the "Joint" of van de Ven & Tolias 2019 (arXiv 1904.07734), except that
the network goes on from the last task, and that each epoch is one pass over all examples so far.
With ``restart`` it begins anew for each task: a reference for the stability gap is what can be had
from the network as it came, whatever was learned on the way (Harun & Kanan 2024, arXiv 2306.01904).
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from clray.learner import Learner, MethodConfig, Setup
from clray.task import Task


class Config(MethodConfig):
    """Knobs of joint training."""

    restart: bool = False
    """Whether each task begins with the network as it was before the stream, and a new optimizer,
    in place of where the last task ended. A copy of it is kept."""


class Joint(Learner):
    """Cross-entropy on batches of the examples of all tasks so far."""

    cumulative: ClassVar[bool] = True
    config: Config

    def __init__(self, config: Config, setup: Setup) -> None:
        super().__init__(config, setup)
        self.initial: dict[str, Tensor] = {}
        if config.restart:
            self.initial = {k: v.detach().clone() for k, v in self.model.state_dict().items()}

    def begin_task(self, task: Task) -> None:
        """Go back to the network as it was, if that is wanted."""
        if self.initial and task.index > 0:
            self.model.load_state_dict(self.initial)
            self.optimizer = self.setup.optimizer(self.model.parameters())

    def observe(self, x: Tensor, y: Tensor, task: Task) -> dict[str, Tensor]:
        """One step on uint8 [B, C, H, W] and int64 [B]; returns the loss."""
        loss = self.cross_entropy(self.forward_augmented(x), y)
        self.step(loss)
        return {"loss": loss.detach()}

    def footprint(self) -> dict[str, int]:
        """The model's; the copy to begin with counts as bytes, for it learns nothing."""
        kept = super().footprint()
        copied = sum(t.numel() * t.element_size() for t in self.initial.values())
        return {**kept, "bytes": kept["bytes"] + copied}
