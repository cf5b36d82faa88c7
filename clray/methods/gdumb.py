"""GDumb: a class-balanced memory, and a network that learns from it alone, anew after each task.

Prabhu, Torr & Dokania 2020, "GDumb: A Simple Approach that Questions Our Progress in Continual
Learning" (ECCV 2020; no arXiv id).

While a task is there, its examples are offered to the memory, in the first pass, and nothing is
learned: ``loss`` is 0, and continual evaluation shows the network of the task before. When it ends,
network and optimizer begin as they were before the stream, and learn ``passes`` over the memory in
batches of ``memory_batch``, each pass in another order. Cross-entropy is among the units that
compete (``protocol.head``, or the task's own). The record's facts say how many steps that were, and
the loss of the last pass.

The protocol's ``optimizer`` is that of these passes; ``protocol.epochs`` and ``batch_size`` say no
more than how the stream comes: one epoch is enough. The released code is ``optimizer: {name: sgd,
lr: 0.05, momentum: 0.9, weight_decay: 1e-6, clip_norm: 10}`` with the defaults here: 256 passes, as
on CIFAR (128 on MNIST), and learning rates with warm restarts (Loshchilov & Hutter 2017, arXiv
1608.03983): a pass at a tenth of ``optimizer.lr``, then cosines from it to ``lowest`` of it, in 1,
2, 4, 8 ... passes. ``cutmix`` is Yun et al. 2019 (arXiv 1905.04899) with a uniformly drawn area:
0.5 in the released runs on natural images, 0 on MNIST; off by default.

Differences:

- Of a class, a uniform sample is kept (``ClassBalancedMemory``), where the paper's greedy sampler
  keeps the first that come, and evicts at random from the largest class. Where a class comes in one
  task in random order, both are the same in distribution; where tasks share classes, greedy would
  keep next to nothing but the first task. A class with fewer examples than its share leaves slots
  empty here; greedy leaves them to other classes.
- The network is trained after each task, to be graded; there and in Mammoth once, at the end.
- The released code reports its best test accuracy over all passes; here the last pass counts.
- A network that another method has begun is taken as it was handed over, and gone back to.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from clray.errors import BadSpec
from clray.learner import Learner, MethodConfig, Setup
from clray.memory import ClassBalancedMemory
from clray.task import Task

WARM = 0.1
"""What the first pass's learning rate is of the others' highest."""


class Config(MethodConfig):
    """Knobs of GDumb."""

    passes: int = Field(256, ge=1)
    """Passes over the memory when a task ends; with ``schedule: restarts``, a power of two ends
    where the learning rate is lowest."""
    memory_batch: int = Field(16, ge=1)
    """Examples of the memory in each step."""
    schedule: Literal["restarts", "constant"] = "restarts"
    """What the learning rate does: it falls along cosines from ``optimizer.lr``, each twice as long
    as the one before, after a pass at a tenth of it; or it stays."""
    lowest: float = Field(0.01, ge=0, le=1)
    """Where the cosines end, as a share of ``optimizer.lr``."""
    cutmix: float = Field(0.0, ge=0, le=1)
    """Share of the steps in which a rectangle of each image is replaced by another image's, and so
    is as much of its label."""


class GDumb(Learner):
    """Stores examples while a task is there, and trains the network from scratch when it ends."""

    config: Config
    uses_memory: ClassVar[bool] = True
    learns_head_alone: ClassVar[bool] = False

    def __init__(self, config: Config, setup: Setup) -> None:
        super().__init__(config, setup)
        if config.cutmix and setup.image_shape[1:] == (1, 1):
            raise BadSpec("method.cutmix", config.cutmix, "0 for what are no images")
        self.passes, self.memory_batch = config.passes, config.memory_batch
        self.schedule, self.lowest, self.cutmix = config.schedule, config.lowest, config.cutmix
        self.memory = ClassBalancedMemory(setup.memory, setup.generator, setup.distributed)
        self.filling = False
        fixed = {name for name, p in self.model.named_parameters() if not p.requires_grad}
        state = self.model.state_dict().items()
        self.initial = {name: v.detach().clone() for name, v in state if name not in fixed}

    def begin_epoch(self, task: Task, epoch: int, num_epochs: int) -> None:
        """Offer examples to the memory in the first epoch only."""
        self.filling = epoch == 0

    def observe(self, x: Tensor, y: Tensor, task: Task) -> dict[str, Tensor]:
        """Offer uint8 [B, C, H, W] and int64 [B] to the memory; the loss is 0."""
        if self.filling:
            self.memory.add(x, y, task.index)
        return {"loss": torch.zeros((), device=y.device)}

    def end_task(self, task: Task) -> dict[str, Any] | None:
        """Train the network from scratch, on the memory alone.

        Returns:
            ``steps`` that were made, and the mean ``loss`` in the last pass; None where nothing is
            remembered, which leaves the network as it is.
        """
        if len(self.memory) == 0:
            return None
        self.model.load_state_dict(self.initial, strict=False)
        self.optimizer = self.setup.optimizer(self.model.parameters())
        rates = [group["lr"] for group in self.optimizer.param_groups]
        training = self.model.training
        self.train_mode(True)
        steps = 0
        for number in range(self.passes):
            for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * self.rate(number)
            losses = [self.learn(x, y) for x, y, _ in self.memory.epoch(self.memory_batch)]
            steps += len(losses)
        self.train_mode(training)
        mean = self.distributed.sum(torch.stack(losses).mean()) / self.distributed.world
        return {"steps": steps, "loss": mean.item()}

    def rate(self, number: int) -> float:
        """The learning rate of a pass over the memory, from 0, as a share of the optimizer's."""
        if self.schedule == "constant":
            return 1.0
        if number == 0:
            return WARM
        length = 2 ** (number.bit_length() - 1)  # of the cosine that began at this very number
        height = (1 + math.cos(math.pi * (number - length) / length)) / 2
        return self.lowest + (1 - self.lowest) * height

    def learn(self, x: Tensor, y: Tensor) -> Tensor:
        """One step on a batch that all workers have; the loss."""
        x = self.setup.augment(x)
        part = self.distributed.slice(len(y))
        if self.cutmix and self._uniform(1)[0] < self.cutmix:
            x, others, kept = self.mixed(x)
            logits, y_other = self.forward(x[part]), y[others][part]
            loss = kept * self.cross_entropy(logits, y[part])
            loss = loss + (1 - kept) * self.cross_entropy(logits, y_other)
        else:
            loss = self.cross_entropy(self.forward(x[part]), y[part])
        self.step(loss)
        return loss.detach()

    def mixed(self, x: Tensor) -> tuple[Tensor, Tensor, float]:
        """Images [B, C, H, W] of which each has a rectangle of another one.

        Returns:
            The images; which is each one's other, int64 [B]; the share that is each one's own.
        """
        height, width = x.shape[2:]
        area, middle_y, middle_x = self._uniform(3)
        others = torch.randperm(len(x), generator=self.setup.generator).to(x.device)
        rows, columns = (
            slice(max(0, middle - half), min(size, middle + half))
            for size, uniform in ((height, middle_y), (width, middle_x))
            for half, middle in [(int(size * math.sqrt(area)) // 2, int(size * uniform))]
        )
        x = x.clone()
        x[:, :, rows, columns] = x[others][:, :, rows, columns]
        cut = (rows.stop - rows.start) * (columns.stop - columns.start)
        return x, others, 1 - cut / (height * width)

    def _uniform(self, n: int) -> list[float]:
        return torch.rand(n, generator=self.setup.generator).tolist()

    def footprint(self) -> dict[str, int]:
        """The model's, and the memory's; the copy to begin with counts as bytes alone."""
        kept = super().footprint()
        copied = sum(t.numel() * t.element_size() for t in self.initial.values())
        num_bytes = kept["bytes"] + self.memory.num_bytes + copied
        return {**kept, "examples": len(self.memory), "bytes": num_bytes}
