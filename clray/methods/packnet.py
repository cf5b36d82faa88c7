"""PackNet: each task trains the weights still free, prunes the smallest, and freezes the rest.

Mallya & Lazebnik 2018 (arXiv 1711.05769), task-incremental. Task t trains all weights of the
encoder that no task has claimed, with the claimed ones in the forward pass as they are. Then, layer
by layer, the share ``prune`` of the weights that it trained, those of the smallest magnitude, is
set to 0; the others are retrained for the rest of the task's steps, and are the task's own from
then on: no later task changes them. The pruned ones are free for the next task, which begins them
at 0. The share of weights that are free falls as ``prune`` to the power of the number of tasks (the
record's ``free_share``); the last task of the stream keeps all that it trained, as in the published
runs. A task is answered with its mask, the weights of all tasks up to it, and rows of the head of
its own. Biases and normalisations, with their running statistics, learn on the first task and then
stay.

Nothing is forgotten, to the bit, whatever the optimizer: only vectors of the weights that learn are
optimized, and it begins afresh with each phase. A task that was not learned is answered by all
weights as they are.

Differences: the paper begins from a network that was trained on ImageNet, its first task, and
prunes that; here the first task is learned like the others (also from pre-trained weights, where
the model has some). It trains for 20 epochs, with a tenth of the learning rate from the 11th on,
and retrains for 10 with that tenth: a ``retrain_share`` of a third, and a ``retrain_lr`` of 0.1 of
the first rate or 1 of the latest. Here rates are constant, hence 1 is the default. The authors'
code prunes every weight up to a threshold, so more than told where magnitudes are equal; it keeps
for each weight the number of its task, where here each task has one bit a weight; weight decay
reaches claimed weights, whose gradients alone it sets to 0; it keeps the epoch that does best on
the examples that it is tested on. Its option of biases for each task is not offered.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from clray.learner import Learner, MethodConfig, Setup
from clray.models.classifier import Classifier
from clray.models.frozen_rows import close_rows, open_rows
from clray.models.pruned import PrunedNetwork
from clray.spec import PLASTICITY
from clray.task import Task


class Config(MethodConfig):
    """Knobs of PackNet."""

    prune: Annotated[float, PLASTICITY] = Field(0.75, ge=0, lt=1)
    """Share of the weights that a task trained, layer by layer, which it leaves to later tasks."""
    retrain_share: Annotated[float, PLASTICITY] = Field(1 / 3, ge=0, lt=1)
    """Share of a task's steps that retrain the weights that are kept, after the pruning."""
    retrain_lr: Annotated[float, PLASTICITY] = Field(1.0, gt=0)
    """Learning rate of these steps, as a multiple of the optimizer's."""


class PackNet(Learner):
    """Cross-entropy on the weights that are free, then on those that were kept."""

    config: Config
    scenarios: ClassVar[frozenset[str]] = frozenset({"task-incremental"})
    hands_over: ClassVar[bool] = False
    learns_head_alone: ClassVar[bool] = False

    def __init__(self, config: Config, setup: Setup) -> None:
        super().__init__(config, setup)
        assert isinstance(setup.model, Classifier)
        self.network = PrunedNetwork(setup.model)
        self.learning: str | None = None
        self._rest()

    def begin_task(self, task: Task) -> None:
        """Train all free weights, and the task's rows of the head."""
        self.learning = str(task.index)
        open_rows(self.model, task.classes)
        total = self.setup.num_updates(task)
        retrained = min(total - 1, math.floor(self.config.retrain_share * total + 0.5))
        self.last = task.index == self.setup.num_tasks - 1
        self.until_pruned = total if self.last else total - max(0, retrained)
        self.pruned = False
        self.network.learn()
        self._optimize(self.network.begin(), 1.0)

    def observe(self, x: Tensor, y: Tensor, task: Task) -> dict[str, Tensor]:
        """One step on uint8 [B, C, H, W] and int64 [B]; returns the loss."""
        self.network.learn()
        loss = self.cross_entropy(self.forward_augmented(x), y)
        self.step(loss)
        self.until_pruned -= 1
        if self.until_pruned == 0:
            self._prune()
        return {"loss": loss.detach()}

    def end_task(self, task: Task) -> dict[str, Any]:
        """Freeze what was kept.

        Returns:
            ``density`` (share of the encoder's weights that this task claims) and ``free_share``
            (share that no task has claimed yet).
        """
        self._prune()
        before = self.network.num_claimed
        self.network.learn()
        self.network.keep(str(task.index))
        self.network.freeze_statistics()
        close_rows(self.model)
        self.learning = None
        self._rest()
        now, total = self.network.num_claimed, self.network.num_weights
        return {"density": (now - before) / total, "free_share": 1 - now / total}

    def predict(self, x: Tensor, task: Task | None) -> Tensor:
        """Logits [B, num_classes] with the task's mask."""
        assert task is not None
        name = str(task.index)
        if name in self.network.learned:
            self.network.show(name)
        else:
            self.network.learn()
        return self.forward(x)

    def train_mode(self, training: bool) -> None:
        """See ``Learner``; statistics of normalisations stay after the first task."""
        super().train_mode(training)
        self.network.freeze_statistics()

    def _prune(self) -> None:
        if self.pruned or self.last:
            return
        self.pruned = True
        self.network.learn()
        self._optimize(self.network.prune(self.config.prune), self.config.retrain_lr)

    def _optimize(self, parameters: list[nn.Parameter], factor: float) -> None:
        head = self.model.get_submodule("head")
        self.optimizer = self.setup.optimizer([*parameters, *head.parameters()])
        for group in self.optimizer.param_groups:
            group["lr"] *= factor

    def _rest(self) -> None:
        self.optimizer = self.setup.optimizer([nn.Parameter(torch.empty(0))])
