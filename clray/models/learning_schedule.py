"""What the learning rates of one task do."""

from __future__ import annotations

from typing import Literal

from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, OneCycleLR

Schedule = Literal["constant", "onecycle", "cosine"]


class LearningSchedule:
    """Sets an optimizer's learning rates, step by step, for the length of one task.

    Args:
        optimizer: a new one; its groups are changed for good.
        kind: ``constant``; ``cosine``, which falls from the peak to 0; or ``onecycle`` (Smith &
            Topin 2018, arXiv 1708.07120, with torch's defaults): a rise from a 25th of the peak
            over 30% of the steps, then a fall to next to nothing, and momentum (or Adam's first
            beta) the other way, between 0.95 and 0.85, where the optimizer has any.
        num_steps: of the task.
        peak: highest learning rate, as a multiple of the optimizer's.
        layer_decay: the last tensor of the optimizer has the whole peak, each one before it this
            share of the next one's. The released code of SGM gives each tensor a rate of its own
            as well, which its schedule then overwrites with one and the same.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        kind: Schedule,
        num_steps: int,
        peak: float = 1.0,
        layer_decay: float = 1.0,
    ) -> None:
        if layer_decay != 1:
            _group_each(optimizer, layer_decay)
        for group in optimizer.param_groups:
            group["lr"] *= peak
        self.left = num_steps - 1  # the rate of the first step is set already
        self.scheduler: LRScheduler | None = None
        if kind == "onecycle":
            self.scheduler = OneCycleLR(
                optimizer,
                max_lr=[group["lr"] for group in optimizer.param_groups],
                total_steps=num_steps,
                cycle_momentum=any(
                    "betas" in group or group.get("momentum", 0) > 0
                    for group in optimizer.param_groups
                ),
            )
        elif kind == "cosine":
            self.scheduler = CosineAnnealingLR(optimizer, num_steps)

    def step(self) -> None:
        """Go on, after a step of the optimizer; nothing changes any more after the last one."""
        if self.scheduler is not None and self.left > 0:
            self.scheduler.step()
        self.left -= 1


def _group_each(optimizer: Optimizer, decay: float) -> None:
    """One group for each tensor, with rates that fall from the last one backwards."""
    pairs = [(group, p) for group in optimizer.param_groups for p in group["params"]]
    last = len(pairs) - 1
    optimizer.param_groups[:] = [
        {**group, "params": [p], "lr": group["lr"] * decay ** (last - position)}
        for position, (group, p) in enumerate(pairs)
    ]
