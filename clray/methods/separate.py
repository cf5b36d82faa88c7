"""A network of its own for each task: nothing is shared, nothing is forgotten, and all of it grows.

No published source; "single-task learning" in Yoon et al. 2020 (arXiv 1902.09432). The control for
methods whose tasks share weights: what each task could reach alone (``begin: fresh``), and what it
could reach from the first task's features, without any constraint (``begin: first``; with HALRP,
arXiv 2311.15161, the warm-up going on to the end).

Each task's network, which is all that learns and the statistics beside it, is kept in the model's
state as ``<name>_<task>``; a frozen encoder is shared. A task that was not learned is answered by
the first task's network. The optimizer begins afresh with each task.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call

from clray.learner import Learner, MethodConfig, Setup
from clray.task import Task

State = dict[str, Tensor]


class Config(MethodConfig):
    """Knobs of separate networks."""

    begin: Literal["fresh", "first"] = "fresh"
    """What a task's network begins as: the model as it is built, or the network that the first task
    was learned with, under a fresh head."""


class Separate(Learner):
    """Learns each task with a copy of the network, and keeps it."""

    config: Config
    scenarios: ClassVar[frozenset[str]] = frozenset({"task-incremental"})
    hands_over: ClassVar[bool] = False

    def __init__(self, config: Config, setup: Setup) -> None:
        super().__init__(config, setup)
        self.from_first = config.begin == "first"
        self.fresh = _own_state(self.model)
        self.learned: list[str] = []
        self.learning: str | None = None

    @classmethod
    def independent_after_first(cls, config: MethodConfig) -> bool:
        """Whatever a task's network begins as, no later task's is among it."""
        return True

    def begin_task(self, task: Task) -> None:
        """Put the network and the optimizer back to where tasks begin."""
        state = self.fresh
        if self.from_first and self.learned:
            head = {name: value for name, value in state.items() if name.startswith("head.")}
            state = {**self._kept(self.learned[0]), **head}
        self._show(state)
        self.optimizer = self.setup.optimizer(self.model.parameters())
        self.learning = task.name

    def observe(self, x: Tensor, y: Tensor, task: Task) -> dict[str, Tensor]:
        """One step on uint8 [B, C, H, W] and int64 [B]; returns the loss."""
        loss = self.cross_entropy(self.forward_augmented(x), y)
        self.step(loss)
        return {"loss": loss.detach()}

    def end_task(self, task: Task) -> None:
        """Keep a copy of the network."""
        own = {**dict(self.model.named_parameters()), **dict(self.model.named_buffers())}
        self.adopt(task, {name: own[name].detach().clone() for name in self.fresh})
        self.learning = None

    def learned_of(self, task: Task) -> State:
        """The task's network: what learns, and the statistics beside it, by name."""
        return self._kept(task.name)

    def adopt(self, task: Task, learned: Any) -> None:
        """Keep a network as the task's, and go on from it."""
        self._show(learned)
        for name, value in learned.items():
            path, _, leaf = name.rpartition(".")
            value = value.to(self.setup.device)
            self.model.get_submodule(path).register_buffer(_place(leaf, task.name), value)
        self.learned.append(task.name)

    def predict(self, x: Tensor, task: Task | None) -> Tensor:
        """Logits [B, num_classes] of the task's network, or of the first task's."""
        assert task is not None
        if task.name == self.learning or not self.learned:
            return self.forward(x)
        state = self._kept(task.name if task.name in self.learned else self.learned[0])
        logits: Tensor = functional_call(self.model, state, (self.setup.prepare(x),))
        return logits

    def footprint(self) -> dict[str, int]:
        """What is shared, and each task's network; the one that learns is the latest task's."""
        kept, others = super().footprint(), len(self.learned) - 1
        if others < 0:
            return kept
        learn = sum(p.numel() for p in self.model.parameters() if p.requires_grad)
        num_bytes = sum(t.numel() * t.element_size() for t in self.fresh.values())
        parameters = kept["parameters"] + others * learn
        return {**kept, "parameters": parameters, "bytes": kept["bytes"] - num_bytes}

    @torch.no_grad()
    def _show(self, state: State) -> None:
        own = {**dict(self.model.named_parameters()), **dict(self.model.named_buffers())}
        for name, value in state.items():
            own[name].copy_(value)

    def _kept(self, task: str) -> State:
        return {name: self.model.get_buffer(_place(name, task)) for name in self.fresh}


def _place(name: str, task: str) -> str:
    """The name of what is kept of a task; buffers may not have points in theirs."""
    return f"{name}_{task.replace('%', '%25').replace('.', '%2E')}"


def _own_state(model: nn.Module) -> State:
    """Copies of the parameters that learn, and of all buffers outside of frozen parts."""
    frozen = []
    for path, module in model.named_modules():
        learn = [parameter.requires_grad for parameter in module.parameters()]
        if learn and not any(learn):
            frozen.append(f"{path}.")
    parameters = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    buffers = [(n, b) for n, b in model.named_buffers() if not n.startswith(tuple(frozen))]
    return {name: value.detach().clone() for name, value in [*parameters, *buffers]}
