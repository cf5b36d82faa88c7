"""Exemplars in lists, best first: herded, and cut from the end when others need room.

Rebuffi et al. 2017 (arXiv 1611.07725), after Welling 2009 (doi 10.1145/1553374.1553517).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from clray.aside import Aside
from clray.distributed import Distributed
from clray.learner import Learner
from clray.memory import Memory
from clray.models.class_mean_rows import evaluating
from clray.models.task_sample import Shares
from clray.task import Task


def herd(features: Tensor, count: int) -> Tensor:
    """The rows that follow the mean best: each is the one which, with those before it, brings their
    mean nearest to the mean of all; of equals the first. None comes twice.

    Args:
        features: [n, D].
        count: how many at most.

    Returns:
        int64 [min(n, count)].
    """
    features = features.double()
    # With s the sum of those picked, |mean - (f + s) / k|^2 is least where
    # f . (k * mean - s) - |f|^2 / 2 is greatest.
    gain = features @ features.mean(0)
    score = features.square().sum(1) / -2
    picked = [torch.empty(0, dtype=torch.int64, device=features.device)]
    for _ in range(min(len(features), count)):
        score = score + gain
        best = score.argmax(0, keepdim=True)
        picked.append(best)
        score = score - features @ features[best].squeeze(0)
        score[best] = -torch.inf
    return torch.cat(picked)


class PriorityMemory(Memory):
    """An equal share of the capacity for each list: the examples of a class that came in one call
    of ``add``, the best first. When lists arrive, the others are cut from their ends.

    Shares differ by one at most, where the capacity is no multiple of the number of lists: those
    that came first have more. ``add`` reads the labels on the CPU, and so waits for the device.
    """

    def __init__(self, capacity: int, generator: torch.Generator, distributed: Distributed) -> None:
        super().__init__(capacity, generator, distributed)
        self.lists: list[Tensor] = []
        self.free = torch.arange(capacity)

    def __len__(self) -> int:
        """How many examples are kept."""
        return self.capacity - len(self.free)

    def share(self, position: int, arriving: int = 0) -> int:
        """The most examples that the list at that position holds once so many more arrive."""
        return -((position - self.capacity) // (len(self.lists) + arriving))

    def _place(self, y: Tensor) -> tuple[Tensor, Tensor]:
        labels = y.cpu()
        found = [(labels == label).nonzero().squeeze(1) for label in torch.unique(labels)]
        old = len(self.lists)
        self.lists += [self.free[:0] for _ in found]
        for position, slots in enumerate(self.lists[:old]):
            share = self.share(position)
            self.lists[position] = slots[:share]
            self.free = torch.cat([self.free, slots[share:]])
        rows = [own[: self.share(old + i)] for i, own in enumerate(found)]
        for i, own in enumerate(rows):
            self.lists[old + i], self.free = self.free[: len(own)], self.free[len(own) :]
        empty = labels[:0]
        return torch.cat([empty, *rows]), torch.cat([empty, *self.lists[old:]])

    def _occupied(self) -> Tensor | None:
        return torch.cat(self.lists) if self.lists else None


class HerdedMemory(PriorityMemory):
    """The exemplars of each class of each task that has ended."""

    @torch.no_grad()
    def herd(self, learner: Learner, task: Task, aside: Aside | None = None) -> None:
        """Keep exemplars of a task, herded by their features at length 1; the same on any number of
        workers, which must all call.

        Args:
            learner: its network gives the features, in evaluation mode, without augmentation.
            task: is read twice.
            aside: says which of its examples are none to choose.
        """
        shares = Shares(task, None, learner.setup)
        features, labels = [], []
        with evaluating(learner.model):
            for share in shares:
                units = F.normalize(learner.features(share.x))
                y = share.y
                if aside is not None:
                    y = torch.where(aside.holds(share.x, y), -1, y)
                features.append(self.distributed.gather(units))
                labels.append(self.distributed.gather(y))
        order = self._order(torch.cat(features), torch.cat(labels))
        # Where each of the task's examples stands in that order; -1 where it is not chosen.
        rank = torch.full((shares.count,), -1, device=order.device)
        rank[order] = torch.arange(len(order), device=order.device)
        images, places, start = [], [], 0
        for share in shares:
            own = rank[start + share.part.start : start + share.part.stop]
            chosen = own >= 0
            images.append(share.x[chosen])
            places.append(own[chosen])
            start += share.size
        x, place = (self.distributed.gather(torch.cat(part)) for part in (images, places))
        x, y = x[place.argsort()], torch.cat(labels)[order]
        part = self.distributed.slice(len(y))
        self.add(x[part], y[part], task.index)

    def _order(self, features: Tensor, labels: Tensor) -> Tensor:
        """The examples to keep: class by class, those of each in the order of their choice."""
        present = [label for label in torch.unique(labels).tolist() if label >= 0]
        order = [labels[:0]]
        for i, label in enumerate(present):
            rows = (labels == label).nonzero().squeeze(1)
            most = self.share(len(self.lists) + i, arriving=len(present))
            order.append(rows[herd(features[rows], most)])
        # All workers have the same features; of a tie, devices may think otherwise.
        chosen = self.distributed.broadcast(torch.cat(order).tolist())
        return torch.tensor(chosen, dtype=torch.int64, device=labels.device)
