"""Losses whose squared gradients make the Fisher information of a classifier."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from clray.models.task_sample import Share

Labels = Literal["empirical", "sampled", "exact"]
"""Those of the data; one for each example, sampled from the model's prediction; or all, weighted by
the prediction. The last is the Fisher information itself, the second one tends to it."""


class LabelLosses:
    """Each example's negative log-likelihood among the units that compete with its label.

    Args:
        labels: whose likelihood.
        rivals: bool [B, D], the units that compete.
        y: int64 [B], the labels of the data.
        draws: [B], uniform in [0, 1), by which labels are sampled.
    """

    def __init__(self, labels: Labels, rivals: Tensor, y: Tensor, draws: Tensor) -> None:
        self.labels, self.rivals, self.y, self.draws = labels, rivals, y, draws

    @classmethod
    def of(
        cls, labels: Labels, rivals: Tensor, share: Share, generator: torch.Generator
    ) -> LabelLosses:
        """A worker's part of the losses of a batch, of which all workers draw the same.

        Args:
            labels: whose likelihood.
            rivals: bool [D, D], the units that compete with each label.
            share: the worker's part.
            generator: on the CPU, in step on all workers.
        """
        draws = torch.rand(share.size, generator=generator)[share.part].to(share.y.device)
        return cls(labels, rivals[share.y], share.y, draws)

    def __call__(self, logits: Tensor) -> Tensor:
        """Losses [B] for logits [B, D], or [D, B] weighted by the labels' probability."""
        log_p = logits.masked_fill(~self.rivals, -torch.inf).log_softmax(1)
        if self.labels == "empirical":
            return F.nll_loss(log_p, self.y, reduction="none")
        p = log_p.detach().exp()
        if self.labels == "sampled":
            below = p.cumsum(1)
            drawn = (below <= self.draws.unsqueeze(1) * below[:, -1:]).sum(1)
            return F.nll_loss(log_p, drawn, reduction="none")
        # Scaled by the root, so that the squared gradient is scaled by the probability.
        return -(p.sqrt() * log_p.masked_fill(~self.rivals, 0)).T
