"""APD: each task masks shared weights and adds sparse ones of its own; old sums are held in place.

Yoon, Kim, Yang & Hwang 2020, "Scalable and Order-robust Continual Learning with Additive Parameter
Decomposition" (ICLR, arXiv 1902.09432), task-incremental. In each layer, task t computes with

    theta_t = sigma * sigmoid(v_t) + tau_t,

where sigma is shared by all tasks, v_t scores a mask over the outputs, and tau_t is adaptive: a
number for each weight, most of which end as zero. Biases, normalisations and head are each task's
own. While task t is learned, sigma, v_1 to v_t and tau_1 to tau_t all learn, by

    mean cross-entropy on task t
    + sparsity * sum over i <= t of |tau_i|
    + drift / 2 * sum over i < t of ||theta_i - theta_i before task t||^2
    + decay / 2 * (||tau_t||^2 + ||v_t||^2, and ||sigma||^2 on the first task),

so that what is shared may move on while old tasks' adaptive numbers take it back: no task comes
first for good, and their order matters less. Numbers of tau up to the threshold count as zero.
With ``consolidate_every`` (the paper's APD(2); without, APD(1)), after every so many tasks each
layer's tasks are clustered by their tau, and what a cluster has in common is kept once.

A step takes time and memory in proportion to the number of tasks before, as published; they are
stacked, so that it takes no more calls. Plain SGD is stable while lr * drift * (1 + the number of
tasks before) stays below 2; Adam, as released, does not mind.

Read in the authors' code: all of the above, the values of the search space, that masks of old tasks
learn as well (its flag that seems to hold them does nothing), and that tau_t begins as a copy of
sigma. Not read: the paper's text and tables, so that no published accuracy is quoted here.

Differences from that code: tau is pruned where it is kept, at the end of each task, where the code
prunes only to answer and to count, and theta before a task includes what is below the threshold;
sparse numbers are stored with a bit for each place; v_t is drawn from a normal distribution that is
not cut off; biases and normalisations begin as the model is built; there is no L1 norm of v (0 as
released), no choice among the last epochs by validation, and gradients are not multiplied by 10.
Clusters begin at the means of those before, which are of the numbers as they are now, and one that
is left empty keeps its centre, where the code computes means of nothing. Capacity, in the facts,
counts all tasks' biases and heads, where the code counts the latest task's alone. A task that was
not learned is answered with what it would begin with.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from clray.learner import Learner, MethodConfig, Setup
from clray.models.additive_network import AdditiveNetwork, Begin
from clray.models.classifier import Classifier
from clray.spec import STABILITY
from clray.task import Task


class Config(MethodConfig):
    """Knobs of additive parameter decomposition."""

    sparsity: float = Field(4e-4, ge=0)
    """Weight of the sum of the adaptive numbers' magnitudes (lambda_1 in the paper)."""
    drift: Annotated[float, STABILITY] = Field(100.0, ge=0)
    """Weight of half the squared distance by which old tasks' weights have moved (lambda_2)."""
    decay: float = Field(1e-4, ge=0)
    """Weight of half the squares of the task's adaptive numbers and mask scores, and on the first
    task of the shared weights."""
    threshold: float | None = Field(None, ge=0)
    """Largest magnitude of an adaptive number that is pruned; none: the sparsity, as released."""
    begin: Begin = "shared"
    """What a task's adaptive numbers begin as: a copy of the shared weights, as released, or 0."""
    lr_decay: float = Field(0.95, gt=0, le=1)
    """What the learning rate is multiplied by after each pass over a task."""
    consolidate_every: int | None = Field(None, ge=2)
    """Tasks between consolidations; none: never."""
    groups: int = Field(2, ge=1)
    """Groups of a layer at the first consolidation, and how many more at each later one."""
    tolerance: float = Field(0.01, ge=0)
    """By how much adaptive numbers of a group may differ for the group to keep them."""


class Apd(Learner):
    """Learns what is shared and what is the task's own, and corrects what is older tasks' own."""

    config: Config
    scenarios: ClassVar[frozenset[str]] = frozenset({"task-incremental"})
    hands_over: ClassVar[bool] = False
    learns_head_alone: ClassVar[bool] = False

    def __init__(self, config: Config, setup: Setup) -> None:
        super().__init__(config, setup)
        self.knobs = config
        threshold = config.sparsity if config.threshold is None else config.threshold
        seed = int(torch.randint(2**62, (), generator=setup.generator))
        assert isinstance(setup.model, Classifier)
        self.network = AdditiveNetwork(setup.model, seed, config.begin, threshold)
        self.optimizer = self._idle()
        self.units: dict[str, Tensor] = {}

    def _idle(self) -> torch.optim.Optimizer:
        """Until a task begins."""
        return self.setup.optimizer([nn.Parameter(torch.empty(0))])

    def begin_task(self, task: Task) -> None:
        """Add what the task has of its own, with an optimizer afresh."""
        learn = self.network.begin(task.name, len(task.classes))
        self.optimizer = self.setup.optimizer(learn)
        self.lr = self.optimizer.param_groups[0]["lr"]

    def begin_epoch(self, task: Task, epoch: int, num_epochs: int) -> None:
        """Lower the learning rate."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr * self.knobs.lr_decay**epoch

    def observe(self, x: Tensor, y: Tensor, task: Task) -> dict[str, Tensor]:
        """One step on uint8 [B, C, H, W] and int64 [B]; returns the loss and the drift's part."""
        with self.network.learning():
            logits = self._on_units(self.forward_augmented(x), task)
        loss = self.cross_entropy(logits, y) + self._size()
        out = {}
        if self.network.names:
            penalty = self.config.drift * self.network.drift()
            loss = loss + penalty
            out = {"penalty": penalty.detach()}
        self.step(loss)
        self.network.changed()
        return {"loss": loss.detach(), **out}

    def _size(self) -> Tensor:
        """What numbers cost by their magnitude."""
        decayed = [t for part in self.network.working.values() for t in part.parameters()]
        if not self.network.names:
            decayed += self.network.shared.values()
        squares = torch.stack([torch.dot(t.flatten(), t.flatten()) for t in decayed]).sum()
        return self.knobs.sparsity * self.network.magnitude() + self.knobs.decay / 2 * squares

    def end_task(self, task: Task) -> dict[str, Any]:
        """Prune, keep what each task has of its own, and consolidate when it is time.

        Returns:
            ``densities``, of each task so far the share of its adaptive numbers that are not zero;
            ``capacity``, all numbers that are kept over those of one plain network with as many
            heads; ``groups`` of the tasks by layer, where they have some.
        """
        self.network.end(task.name)
        self.optimizer = self._idle()
        learned, every = len(self.network.names), self.knobs.consolidate_every
        if every is not None and learned % every == 0:
            number = self.knobs.groups * (learned // every)
            self.network.consolidate(number, self.knobs.tolerance, self.setup.generator)
        capacity = self.network.numbers() / self.network.plain_numbers()
        facts = {"densities": self.network.densities(), "capacity": capacity}
        grouped = every is not None and learned >= every
        return {**facts, **({"groups": self.network.groups()} if grouped else {})}

    @torch.no_grad()
    def predict(self, x: Tensor, task: Task | None) -> Tensor:
        """Logits [B, num_classes], -inf for the classes of other tasks."""
        assert task is not None
        with self.network.answering(task.name, len(task.classes)):
            return self._on_units(self.forward(x), task)

    def _on_units(self, logits: Tensor, task: Task) -> Tensor:
        """Logits [B, outputs] of a task as [B, num_classes]."""
        if task.name not in self.units:
            units = torch.tensor(sorted(task.classes), device=logits.device)
            self.units[task.name] = units
        placed = logits.new_full((len(logits), self.setup.num_classes), -torch.inf)
        return placed.index_copy(1, self.units[task.name], logits)

    def footprint(self) -> dict[str, int]:
        """What is shared, and what each task has of its own, zeros not counted."""
        return {
            "parameters": self.network.numbers(),
            "examples": 0,
            "bytes": self.network.num_bytes(),
        }
