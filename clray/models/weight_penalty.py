"""What regularisers by importance share: a quadratic pull towards old weights.

With importances F >= 0 and a centre for each weight, the loss of a stream of T tasks is

    mean cross-entropy + strength / 2 * 1 / T * sum of F * (theta - centre)^2,

summed over parameters; on the first task, the cross-entropy alone. The methods differ in what F is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

from pydantic import Field
from torch import Tensor, nn

from clray.learner import Learner, MethodConfig, Setup
from clray.models.per_example import Losses
from clray.models.quadratic import Quadratic
from clray.models.task_sample import Share, Shares
from clray.spec import STABILITY
from clray.task import Task

Mean = Callable[[nn.Module, Shares, Callable[[Share], Losses]], dict[str, Tensor]]
"""Such as ``clray.models.per_example.mean_squared_gradients``."""


class PenaltyConfig(MethodConfig):
    """The knob that they share; each method has a default of its own."""

    strength: Annotated[float, STABILITY] = Field(ge=0)
    """Weight of the penalty, against a mean cross-entropy of 1."""


class WeightPenalty(Learner):
    """Cross-entropy on the current batch, and a penalty for leaving old weights.

    A method fills the quadratic when a task ends.
    """

    config: PenaltyConfig

    def __init__(self, config: PenaltyConfig, setup: Setup) -> None:
        super().__init__(config, setup)
        self.quadratic = Quadratic()

    def observe(self, x: Tensor, y: Tensor, task: Task) -> dict[str, Tensor]:
        """One step on uint8 [B, C, H, W] and int64 [B]; returns the loss and its penalty."""
        loss = self.cross_entropy(self.forward_augmented(x), y)
        if self.quadratic.empty:
            self.step(loss)
            return {"loss": loss.detach()}
        penalty = self.penalty()
        loss = loss + penalty
        self.step(loss)
        return {"loss": loss.detach(), "penalty": penalty.detach()}

    def penalty(self) -> Tensor:
        """What is added to the cross-entropy, 0-d and differentiable, once a task has ended."""
        weight = self.config.strength / (2 * self.setup.num_tasks)
        return weight * self.quadratic(self.model)

    def mean_over(
        self, task: Task, examples: int | None, mean: Mean, losses: Callable[[Share], Losses]
    ) -> dict[str, Tensor]:
        """A mean over a task's training examples of all workers, in evaluation mode, by name.

        Args:
            examples: how many of them, drawn at random; None: all.
            mean: of gradients of the losses.
            losses: those of a share.
        """
        self.train_mode(False)
        found = mean(self.model, Shares(task, examples, self.setup), losses)
        self.train_mode(True)
        return found

    def footprint(self) -> dict[str, int]:
        """The model's, and the bytes of the importances and the old weights."""
        kept = super().footprint()
        return {**kept, "bytes": kept["bytes"] + self.quadratic.num_bytes}
