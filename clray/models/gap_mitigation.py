"""What a replaying learner does against the stability gap: SGM's four parts and its schedule.

Harun & Kanan 2024 (arXiv 2306.01904): output rows of new classes begin at class means, labels are
softened, hidden layers learn by low-rank adapters, and output rows of old classes are frozen.

The first task of a stream is learned plainly, with the optimizer as it is, so that all methods
begin from the same network. From the second on, old classes are those of earlier tasks that the
task does not have: none where all tasks have the same classes, so that nothing is frozen there, no
row is set, and each example is softened as one of a new class. A task begins with a new optimizer
where something changes what is trained, or how fast, and ends with a plain new one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from clray.errors import BadSpec, Infeasible
from clray.learner import Learner, Setup
from clray.memory import Memory
from clray.models.class_mean_rows import begin_at_class_means, evaluating
from clray.models.frozen_rows import FrozenRows, RowsWithoutGradient
from clray.models.gap_mitigation_config import MitigationConfig
from clray.models.learning_schedule import LearningSchedule
from clray.models.least_squares_rows import begin_at_least_squares
from clray.models.low_rank_adapters import Adapted, adaptable, narrowest
from clray.models.soft_targets import SoftTargets, soft_cross_entropy
from clray.task import Task

LARGEST_RANK = 48
"""The released code's."""
MEASURED = 512
"""Old examples, at most, that tell what class-mean initialisation does to them."""
ALARMING = 0.05
"""Loss of accuracy on them that a person is told of."""
BATCH = 256
"""Remembered examples of all workers at once; it changes nothing but memory and time."""


class Mitigation:
    """Stands beside a learner, which calls it around its tasks, its loss and its steps.

    Args:
        config: what is done; the peak is read anew for each task, the rest stays.
        setup: the learner's.
        memory: the learner's.

    Raises:
        BadSpec: adapters for a network that they do not suit.
    """

    def __init__(self, config: MitigationConfig, setup: Setup, memory: Memory) -> None:
        self.memory = memory
        self.new_rows, self.new_bias = config.new_rows, config.new_bias
        self.soft_targets, self.prefill = config.soft_targets, config.prefill
        self.freeze_old, self.alpha = config.freeze_old, config.lora_alpha
        self.schedule, self.layer_decay = config.schedule, config.layer_decay
        self.rank, self.told = _rank(config, setup)
        self.seen: set[int] = set()
        self.facts: dict[str, Any] = {}
        self.warnings: list[str] = []
        self.old = torch.zeros(setup.num_classes, dtype=torch.bool, device=setup.device)
        self.soft: SoftTargets | None = None
        self.adapted: Adapted | None = None
        self.steps: LearningSchedule | None = None

    # What a learner calls.

    def begin_task(self, learner: Learner, task: Task) -> None:
        """Make the network ready; the learner's memory holds old examples alone."""
        self.facts, self.warnings = {}, []
        if task.index == 0:
            return
        self.facts.update(self.told)
        old = sorted(self.seen - set(task.classes))
        self.old.zero_()
        self.old[old] = True
        if self.new_rows != "random":
            self._set_rows(learner, task)
        changed = self._adapt(learner)
        if old and self.freeze_old != "none":
            head: nn.Linear = learner.model.head  # type: ignore[assignment]
            kind = FrozenRows if self.freeze_old == "exact" else RowsWithoutGradient
            learner.model.head = kind(head, self.old)
            changed = True
        config: MitigationConfig = learner.config  # type: ignore[assignment]
        scheduled = self.schedule != "constant" or config.peak != 1 or self.layer_decay != 1
        if changed or scheduled:
            learner.optimizer = learner.setup.optimizer(_trained(learner.model))
            self.steps = LearningSchedule(
                learner.optimizer,
                self.schedule,
                learner.setup.num_updates(task),
                config.peak,
                self.layer_decay,
            )
        if self.soft_targets != "none":
            setup = learner.setup
            self.soft = SoftTargets(
                setup.num_classes, setup.device, setup.distributed, self.soft_targets
            )
            if self.prefill:
                self._fill(learner, self.soft)

    def begin_epoch(self) -> None:
        """Adapters do not follow the statistics of new batches."""
        if self.adapted is not None:
            self.adapted.freeze_statistics()

    def loss(self, learner: Learner, logits: Tensor, y: Tensor) -> Tensor:
        """Mean cross-entropy over all workers' examples: of logits [B, C] and labels int64 [B], or
        of the targets that these are softened to."""
        if self.soft is None:
            return learner.cross_entropy(logits, y)
        rivals = None if learner.all_rivals else learner.rivals
        targets = self.soft(logits, y, self.old, rivals)
        competing = None if rivals is None else rivals[y]
        return soft_cross_entropy(logits, targets, competing, learner.distributed)

    def after_step(self) -> None:
        """Let the learning rate go on."""
        if self.steps is not None:
            self.steps.step()

    def end_task(self, learner: Learner, task: Task) -> dict[str, Any] | None:
        """Put the plain network and a plain optimizer back; what a person may want to know."""
        self.seen |= set(task.classes)
        self.soft = None
        head = learner.model.head
        if isinstance(head, FrozenRows | RowsWithoutGradient):
            learner.model.head = head.plain()
        if self.adapted is not None:
            self.adapted.merge()
            self.adapted = None
        if self.steps is not None:
            learner.optimizer = learner.setup.optimizer(learner.model.parameters())
            self.steps = None
        if self.warnings:
            self.facts["warning"] = "; ".join(self.warnings)
        return self.facts or None

    # Its parts.

    def _set_rows(self, learner: Learner, task: Task) -> None:
        """Set the rows of new classes, and measure what that does to old examples."""
        new = sorted(set(task.classes) - self.seen)
        if not new:
            return
        before = self._old_accuracy(learner, new)
        x, y = self._others(new)
        if self.new_rows == "class-means" or len(y) == 0:
            begin_at_class_means(learner, task, new, sorted(self.seen), self.new_bias)
        else:
            begin_at_least_squares(learner, task, new, x, y)
        after = self._old_accuracy(learner, new)
        if before is None or after is None:
            return
        self.facts["old_accuracy_before_initialisation"] = before
        self.facts["old_accuracy_after_initialisation"] = after
        if before - after > ALARMING:
            self.warnings.append(
                f"new rows ({self.new_rows}) took the accuracy on remembered examples from "
                f"{before:.2f} to {after:.2f}: set method.new_rows=least-squares or random, or "
                "put a layer normalisation before the head"
            )

    def _adapt(self, learner: Learner) -> bool:
        """Put adapters in, where they are wanted; whether they are."""
        if self.rank is None:
            return False
        encoder = learner.model.get_submodule("encoder")
        self.adapted = Adapted(encoder, self.rank, self.alpha)
        if learner.distributed.world > 1:  # their own randomness need not be in step
            for adapter in self.adapted.adapters:
                drawn = learner.distributed.broadcast(adapter.down.detach().cpu())
                adapter.down.data.copy_(drawn)
        self.adapted.freeze_statistics()
        self.facts["lora_parameters"] = self.adapted.num_parameters
        if not learner.setup.pretrained:
            self.warnings.append(
                "method.lora=on with an encoder that was not pre-trained elsewhere: its frozen "
                "layers can hardly make features for new classes, set method.lora=auto"
            )
        return True

    @torch.no_grad()
    def _old_accuracy(self, learner: Learner, new: list[int]) -> float | None:
        """Accuracy on remembered examples of other classes than the new ones, evenly spread."""
        x, y = self._others(new)
        if len(y) == 0:
            return None
        with evaluating(learner.model):
            logits = torch.cat([learner.forward(part) for part in torch.split(x, BATCH)])
        answers = logits.masked_fill(~learner.rivals[y], -torch.inf).argmax(1)
        return float((answers == y).double().mean())

    def _others(self, new: list[int]) -> tuple[Tensor, Tensor]:
        """Remembered examples of other classes than the new ones, evenly spread, and their
        labels."""
        x, y, _ = self.memory.spread(MEASURED)
        others = ~torch.isin(y, torch.tensor(new, device=y.device))
        return x[others], y[others]

    @torch.no_grad()
    def _fill(self, learner: Learner, soft: SoftTargets) -> None:
        """Let soft targets begin with what is answered to the memory."""
        rivals = None if learner.all_rivals else learner.rivals
        with evaluating(learner.model):
            for x, y in self._remembered(learner):
                logits = learner.forward(x) if len(y) else self.old.new_zeros(0, len(self.old))
                soft.fill(logits, y, rivals)

    def _remembered(self, learner: Learner) -> Iterator[tuple[Tensor, Tensor]]:
        """This worker's parts of all that is remembered, batch by batch."""
        x, y, _ = self.memory.spread(len(self.memory))
        for images, labels in zip(torch.split(x, BATCH), torch.split(y, BATCH), strict=True):
            part = learner.distributed.slice(len(labels))
            yield images[part], labels[part]


def _rank(config: MitigationConfig, setup: Setup) -> tuple[int | None, dict[str, Any]]:
    """Rank of the adapters, None where there are none; and what is told of that.

    Raises:
        BadSpec: there is no layer to adapt, or one that is too narrow for the rank.
    """
    if config.lora == "off":
        return None, {}
    if config.lora == "auto" and not setup.pretrained:
        return None, {"lora": "off (the model's encoder is not pre-trained)"}
    layers = adaptable(setup.model.get_submodule("encoder"))
    if not layers:
        if config.lora == "auto":
            return None, {"lora": "off (no layer of the model's encoder can be adapted)"}
        accepted = "off: no linear layer and no 1x1 convolution of the encoder learns"
        raise BadSpec("method.lora", config.lora, accepted)
    most = narrowest(layers)
    if config.lora_rank is None:
        return min(LARGEST_RANK, max(1, most // 4)), {}
    if config.lora_rank > most:
        raise Infeasible("method.lora_rank", config.lora_rank, f"1 to {most}, for this encoder")
    return config.lora_rank, {}


def _trained(model: nn.Module) -> list[nn.Parameter]:
    return [p for p in model.parameters() if p.requires_grad]
