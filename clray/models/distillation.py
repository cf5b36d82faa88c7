"""What a network that learns a new task is held to: the answers of the one it was before."""

from __future__ import annotations

import copy
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clray.learner import Setup
from clray.task import Task


class OldNetwork:
    """A frozen copy of a network, which always answers in evaluation mode.

    What the network never learns, such as a frozen encoder, is shared with it.

    Attributes:
        num_bytes: what the copy takes, without what is shared.
    """

    def __init__(self, model: nn.Module) -> None:
        # It is no attribute of a learner itself, so that no learner puts it in training mode.
        shared = {id(p): p for p in model.parameters() if not p.requires_grad}
        self.network = copy.deepcopy(model, shared).requires_grad_(False).eval()
        own = [p for p in self.network.parameters() if id(p) not in shared]
        tensors = [*own, *self.network.buffers()]
        self.num_bytes = sum(t.numel() * t.element_size() for t in tensors)

    @torch.no_grad()
    def __call__(self, inputs: Tensor) -> Tensor:
        """Logits [B, num_classes] for what the network takes."""
        logits: Tensor = self.network(inputs)
        return logits


def with_units_of(task: Task, groups: list[Tensor], setup: Setup) -> list[Tensor]:
    """The groups of units over which old answers are softmaxes, once a task has ended.

    Task-incremental: one of each task's own units. Otherwise one of all units that tasks have used.

    Args:
        task: has ended.
        groups: of the tasks before it, each int64, in ascending order.
        setup: names the scenario.
    """
    if setup.scenario == "task-incremental":
        return [*groups, _ascending(task.classes, setup)]
    known = {unit for group in groups for unit in group.tolist()}
    return [_ascending(known | {*task.classes}, setup)]


def _ascending(classes: Iterable[int], setup: Setup) -> Tensor:
    return torch.tensor(sorted(classes), device=setup.device)


def divergence(logits: Tensor, old: Tensor, groups: list[Tensor], temperature: float) -> Tensor:
    """KL(old answers || new answers) of each example, summed over groups of units; [B].

    Args:
        logits, old: of the new network and of the old one, [B, num_classes].
        groups: the units of each softmax.
        temperature: divides the logits.
    """
    total = logits.new_zeros(len(logits))
    for units in groups:
        new_log, old_log = (
            (answers.index_select(1, units) / temperature).log_softmax(1)
            for answers in (logits, old)
        )
        total = total + F.kl_div(new_log, old_log, reduction="none", log_target=True).sum(1)
    return total
