"""iCaRL: binary classifiers learn beside their old answers; the nearest mean of exemplars wins.

Rebuffi, Kolesnikov, Sperl & Lampert 2017 (arXiv 1611.07725).

Each output unit is a classifier of its own. With s the sigmoid, the loss of an example is the sum
over units of the binary cross-entropy of s(logit) against a target:

- of a class of earlier tasks: s(logit of the network as it was after the last task);
- of a class of the task: 1 for the example's own, 0 for the others.

So the exemplars are taught the old network's answers, and not their labels. When a task ends, the
memory's equal share for each class seen so far is filled by herding (``clray.models.herding``):
examples are chosen one after the other such that the mean of their features, each at length 1,
follows the class's. Lists of older classes are cut from the end. Head and sigmoids serve the
learning only: an image is answered by the class whose exemplars' mean feature, at length 1, is
nearest to its own.

All means are those of the network as it is. They are computed when an answer is first wanted after
it has changed, from the whole memory: an evaluation costs a forward pass over that, graded after
each update it costs one after each update. The task's own classes have no exemplars before it has
ended: until then their means are those of the latest 8 batches. A class that was never seen comes
after all others, in the order of the head's answers.

In task-incremental streams the means of the task's own classes compete, and the units of the task
learn from its own examples alone. Domain- and data-incremental streams have no old classes but only
classes that come back, of which the targets above teach nothing new: they are not served.

Differences:

- The paper joins the exemplars to the task's examples and goes through all alike. Here each step
  learns a batch and a draw from the memory together, as in ``er``.
- The loss is the paper's sum over units. The released code has their mean: its learning rate of 2
  on 100 units, with momentum 0.9, is 0.02 here with that momentum, and about 0.2 without.
- Which units of later tasks count is ``protocol.head``'s to say: ``fixed`` has them all, with
  target 0, as in the released code; ``growing`` has none, as in the paper.
- The released code makes means of the exemplars and their mirror images; here of the exemplars. It
  rounds shares up, and so keeps a little more than the budget; here the shares add up to it. The
  class mean that herding follows is not scaled to length 1, as in that code.
- Mammoth herds by features of any length and averages those of a class batch by batch, so that the
  last batch weighs as much as all before it; neither is published.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clray.errors import BadSpec
from clray.learner import Setup
from clray.models.exemplars import ExemplarConfig, ExemplarLearner
from clray.models.feature_statistics import as_logits, num_features
from clray.task import Task

RECENT = 8
"""Batches that stand for the exemplars of classes which have none yet."""
TOGETHER = 256
"""Exemplars at once while means are computed; it changes nothing but memory and time."""


class Config(ExemplarConfig):
    """Knobs of iCaRL."""


class Icarl(ExemplarLearner):
    """Binary cross-entropy with old answers as targets, and the nearest mean of exemplars."""

    config: Config

    def __init__(self, config: Config, setup: Setup) -> None:
        if setup.memory < setup.num_classes:
            accepted = f"at least {setup.num_classes}, an exemplar of each class"
            raise BadSpec("protocol.memory", setup.memory, accepted)
        super().__init__(config, setup, setup.memory)
        self.is_old = torch.zeros(setup.num_classes, dtype=torch.bool, device=setup.device)
        self.recent: list[tuple[Tensor, Tensor]] = []
        self.means: tuple[Tensor, Tensor] | None = None

    def begin_task(self, task: Task) -> None:
        """Note which units are of classes that the task does not have."""
        self.is_old[:] = False
        for units in self.groups:
            self.is_old[units] = True
        self.is_old[list(task.classes)] = False

    def observe(self, x: Tensor, y: Tensor, task: Task) -> dict[str, Tensor]:
        """One step on uint8 [B, C, H, W] and int64 [B]; returns the loss."""
        group = self.distributed
        self.recent = [*self.recent[1 - RECENT :], (group.gather(x), group.gather(y))]
        self.means = None
        x, y = self.with_exemplars(x, y)
        inputs = self.setup.prepare(self.setup.augment(x))
        old = None if self.old is None else self.old(inputs)
        loss = group.mean(self.losses(self.model(inputs), y, old))
        self.step(loss)
        return {"loss": loss.detach()}

    def losses(self, logits: Tensor, y: Tensor, old: Tensor | None) -> Tensor:
        """Binary cross-entropy of each example, summed over units; [B].

        Args:
            logits: [B, num_classes].
            y: int64 [B].
            old: the old network's logits, [B, num_classes]; None in the first task.
        """
        targets = F.one_hot(y, self.setup.num_classes).to(logits)
        counts = self.rivals[y]
        if old is not None:
            targets = torch.where(self.is_old, old.sigmoid(), targets)
            counts = counts | self.is_old
        each = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
        return (each * counts).sum(1)

    def end_task(self, task: Task) -> None:
        """Herd exemplars, and keep the network as it is."""
        self.keep(task)
        self.recent = []
        self.means = None

    @torch.no_grad()
    def predict(self, x: Tensor, task: Task | None) -> Tensor:
        """Logits [B, num_classes]: cosines to the class means, less the best one's, 0 to -2; below
        these, of classes that were never seen, the head's answers."""
        if self.means is None:
            self.means = self._means()
        means, seen = self.means
        features = self.features(x)
        head: nn.Module = self.model.head  # type: ignore[assignment]
        cosines = F.normalize(features.double()) @ means.T
        return torch.where(seen, as_logits(cosines, seen), head(features).sigmoid() - 4)

    def _means(self) -> tuple[Tensor, Tensor]:
        """Of each class the mean unit feature at length 1, float64 [C, D], and whether there was an
        example, bool [C]."""
        width, size = num_features(self.setup), self.setup.num_classes
        sums = torch.zeros(size, width, dtype=torch.float64, device=self.setup.device)
        counts = torch.zeros(size, dtype=torch.int64, device=self.setup.device)
        # What the frame has held out of the memory takes no part.
        kept = [self.memory.spread(len(self.memory))[:2]] if len(self.memory) else []
        for images, labels in [*kept, *self.recent]:
            parts = (torch.split(tensor, TOGETHER) for tensor in (images, labels))
            for x, y in zip(*parts, strict=True):
                member = F.one_hot(y, size)
                sums += member.T.double() @ F.normalize(self.features(x).double())
                counts += member.sum(0)
        return F.normalize(sums), counts > 0
