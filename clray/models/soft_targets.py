"""Dynamic soft targets: labels that are softened by what the network itself answers.

Harun & Kanan 2024 (arXiv 2306.01904), after the released code. An example of an old class is to be
answered as its class was on average, in so far as that was right; one of a new class as it is
answered now. In both the class that is wrongly ahead falls to chance and the true one is raised to
1 before all are scaled to sum to 1. Nothing is to be tuned. The gradient of a new example that is
answered rightly is at most half of what cross-entropy gives it.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from clray.distributed import Distributed

Softened = Literal["both", "old", "new"]


class SoftTargets:
    """The targets of one task, which follow the network while it learns.

    Args:
        num_classes: output units C.
        device: where the state lies.
        distributed: the workers that share the trial.
        softened: the classes that have soft targets; the others keep hard ones.
        dtype: of the state and the targets.

    Attributes:
        sums: [C, C], row y: the answers to examples of class y that were right, summed.
        counts: [C], how many these were. Neither is forgotten within the task.
    """

    def __init__(
        self,
        num_classes: int,
        device: torch.device,
        distributed: Distributed,
        softened: Softened = "both",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.distributed, self.softened = distributed, softened
        self.sums = torch.zeros(num_classes, num_classes, dtype=dtype, device=device)
        self.counts = torch.zeros(num_classes, dtype=dtype, device=device)

    @torch.no_grad()
    def __call__(self, logits: Tensor, y: Tensor, old: Tensor, rivals: Tensor | None) -> Tensor:
        """Targets [B, C] for this step's logits [B, C] and labels int64 [B]; all workers must call.

        Args:
            logits: of the whole batch, new examples and replayed ones.
            y: their labels.
            old: bool [C], the classes of earlier tasks.
            rivals: bool [C, C], row y: the units that compete with y; None: all do. The others have
                target 0, and chance is 1 over the number of those that compete.
        """
        competing = None if rivals is None else rivals[y]
        answers = self._answers(logits, competing)
        favoured = answers.argmax(1, keepdim=True)
        chance = self._chance(answers, competing)
        means = self._means(y, chance, competing)  # of the steps before this one
        self._accumulate(answers, y, favoured)
        targets = torch.where(old[y][:, None], means, answers)
        targets = targets.scatter(1, favoured, chance).scatter(1, y[:, None], 1.0)
        targets /= targets.sum(1, keepdim=True)
        if self.softened == "both":
            return targets
        soft = old[y] if self.softened == "old" else ~old[y]
        hard = torch.zeros_like(targets).scatter(1, y[:, None], 1.0)
        return torch.where(soft[:, None], targets, hard)

    @torch.no_grad()
    def fill(self, logits: Tensor, y: Tensor, rivals: Tensor | None) -> None:
        """Let the means begin with what is answered to these examples, before the first step; all
        workers must call, each with its own."""
        answers = self._answers(logits, None if rivals is None else rivals[y])
        self._accumulate(answers, y, answers.argmax(1, keepdim=True))

    def _answers(self, logits: Tensor, competing: Tensor | None) -> Tensor:
        logits = logits.detach().to(self.sums.dtype)
        if competing is not None:
            logits = logits.masked_fill(~competing, -torch.inf)
        return logits.softmax(1)

    def _chance(self, answers: Tensor, competing: Tensor | None) -> Tensor:
        """[B, 1]."""
        if competing is None:
            return torch.full_like(answers[:, :1], 1 / answers.shape[1])
        return 1 / competing.sum(1, keepdim=True).to(answers.dtype)

    def _means(self, y: Tensor, chance: Tensor, competing: Tensor | None) -> Tensor:
        """[B, C]: the mean right answer to each one's class; chance where there was none yet."""
        counts = self.counts[y][:, None]
        unknown = chance.expand(-1, len(self.sums))
        if competing is not None:
            unknown = unknown * competing
        return torch.where(counts > 0, self.sums[y] / counts.clamp(min=1), unknown)

    def _accumulate(self, answers: Tensor, y: Tensor, favoured: Tensor) -> None:
        right = (favoured.squeeze(1) == y).to(answers.dtype)  # no indexing by it: that would wait
        alone = self.distributed.world == 1
        sums, counts = self.sums, self.counts
        if not alone:
            sums, counts = torch.zeros_like(sums), torch.zeros_like(counts)
        sums.index_add_(0, y, answers * right[:, None])
        counts.index_add_(0, y, right)
        if not alone:
            self.sums += self.distributed.sum(sums)
            self.counts += self.distributed.sum(counts)


def soft_cross_entropy(
    logits: Tensor, targets: Tensor, competing: Tensor | None, distributed: Distributed
) -> Tensor:
    """Mean cross-entropy over all workers' examples.

    Args:
        logits: [B, C].
        targets: [B, C], 0 where a unit does not compete.
        competing: bool [B, C]; None: all units do.
        distributed: the workers that share the trial.
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if competing is None:
        return distributed.mean(-(targets * F.log_softmax(logits, 1)).sum(1))
    logs = F.log_softmax(logits.masked_fill(~competing, -torch.inf), 1)
    logs = logs.masked_fill(~competing, 0.0)  # 0 * -inf is not a number
    return distributed.mean(-(targets * logs).sum(1))
