"""Chains of layers whose units each task attends to, and what protects the units of earlier tasks.

After each hidden layer's ReLU stands a gate, one number in [0, 1] for each unit: while a task is
learned, the logistic function of ``scale`` times an embedding that learns. What tasks have attended
to, at most, conditions the gradients of later ones (Serrà et al. 2018, arXiv 1801.01423).
Normalisations keep statistics of each task's own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from clray.errors import BadSpec
from clray.models.bitmask import pack, unpack
from clray.models.task_statistics import TaskStatistics

PASSING = (nn.Dropout, nn.MaxPool2d, nn.AvgPool2d)
"""Act on each unit for itself."""
ACCEPTED = (
    "a chain of linear layers and 2d convolutions (with batch normalisation or without), each "
    "with ReLU after it, as mlp, lenet and small_alexnet have, for a method that gates units"
)


class Gate(nn.Module):
    """ReLU, and then a factor for each unit; all are open before any task has begun.

    Args:
        num_units: of the layer before it.
        hard: whether tasks keep which units are open, one bit each; else how far each one is.

    Attributes:
        embedding: float [units], of the task that is being learned.
        scale: what it is multiplied with.
        attended: float [units], the furthest that any kept task has opened each.
        shown: float [units] that answer in place of the embedding's.
    """

    attended: Tensor
    embedding: nn.Parameter | None

    def __init__(self, num_units: int, hard: bool, device: torch.device) -> None:
        super().__init__()
        self.num_units, self.hard = num_units, hard
        self.register_buffer("attended", torch.zeros(num_units, device=device))
        self.register_parameter("embedding", None)
        self.scale = 1.0
        self.shown: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Float [B, units, ...] to the same shape."""
        x = F.relu(x)
        values = self.shown
        if values is None:
            if self.embedding is None:
                return x
            values = self.opened()
        return x * values.view(-1, *[1] * (x.ndim - 2))

    def opened(self) -> Tensor:
        """How far each unit is open to the task that is being learned; float [units]."""
        assert self.embedding is not None
        return torch.sigmoid(self.scale * self.embedding)

    @torch.no_grad()
    def answering(self, scale: float) -> Tensor:
        """As it would be kept: 0 or 1, where that is ``hard``; float [units]."""
        assert self.embedding is not None
        if self.hard:
            return (self.embedding > 0).float()
        return torch.sigmoid(scale * self.embedding)

    def keep(self, name: str, scale: float) -> None:
        """End a task."""
        values = self.answering(scale)
        self.attended = torch.maximum(self.attended, values)
        self.register_buffer(f"gate_{name}", pack(values > 0) if self.hard else values)
        self.embedding = self.shown = None

    def kept(self, name: str) -> Tensor:
        """How far each unit is open to a task that was kept; float [units]."""
        kept = self.get_buffer(f"gate_{name}")
        return unpack(kept, self.attended.shape).float() if self.hard else kept


@dataclass
class Layer:
    """A hidden layer of the chain.

    Attributes:
        weights: linear or convolution.
        before: the gate of its inputs; None: they are not gated.
        after: the gate of its outputs.
        norm: between it and its ReLU.
    """

    weights: nn.Linear | nn.Conv2d
    before: Gate | None
    after: Gate
    norm: _BatchNorm | None = None

    def parameters(self) -> Iterator[tuple[nn.Parameter, Tensor]]:
        """Each that learns, and how far earlier tasks attend to both of its ends."""
        post = self.after.attended
        weight = self.weights.weight
        both = post.view(-1, *[1] * (weight.ndim - 1)).expand_as(weight)
        if self.before is not None:
            pre = self.before.attended
            if len(pre) != weight.shape[1]:  # planes that were flattened
                pre = pre.repeat_interleave(weight.shape[1] // len(pre))
            both = torch.minimum(both, pre.view(1, -1, *[1] * (weight.ndim - 2)))
        found = [(weight, both), (self.weights.bias, post)]
        if self.norm is not None:
            found += [(self.norm.weight, post), (self.norm.bias, post)]
        for parameter, attended in found:
            if isinstance(parameter, nn.Parameter) and parameter.requires_grad:
                yield parameter, attended


class GatedChain:
    """The hidden layers of an encoder with a gate after each.

    Args:
        encoder: its ReLUs become gates; what comes before its first layer that learns stays.
        hard: see ``Gate``.

    Raises:
        BadSpec: an encoder that is no chain, or has no hidden layer that learns.

    Attributes:
        layers: in order.
        learned: names of the tasks that were kept.
        shown: the one that answers; None: the one that is being learned.
    """

    def __init__(self, encoder: nn.Module, hard: bool) -> None:
        self.hard = hard
        self.layers = _gated(encoder, hard)
        norms = {
            str(place): layer.norm
            for place, layer in enumerate(self.layers)
            if layer.norm is not None and layer.norm.track_running_stats
        }
        self.statistics = TaskStatistics(norms)
        self.learned: list[str] = []
        self.shown: str | None = None
        self.embeddings: list[nn.Parameter] = []
        self.conditioned: list[nn.Parameter] = []
        self.free: list[Tensor] = []
        self.held: list[tuple[nn.Parameter, Tensor, Tensor]] = []

    @property
    def gates(self) -> list[Gate]:
        """One for each hidden layer."""
        return [layer.after for layer in self.layers]

    # One task's way through the network.

    @torch.no_grad()
    def begin(self, generator: torch.Generator) -> list[nn.Parameter]:
        """Begin a task with embeddings drawn from a normal distribution.

        Returns:
            What is to be optimized: the layers' parameters and the embeddings.
        """
        self.learn()
        self.statistics.reset()
        self.embeddings = []
        for gate in self.gates:
            drawn = torch.randn(gate.num_units, generator=generator)
            gate.embedding = nn.Parameter(drawn.to(gate.attended.device))
            self.embeddings.append(gate.embedding)
        pairs = [pair for layer in self.layers for pair in layer.parameters()]
        if self.learned:
            self.conditioned = [parameter for parameter, _ in pairs]
            self.free = [1 - attended for _, attended in pairs]
        if self.learned and self.hard:
            self.held = [(p, attended == 1, p.detach().clone()) for p, attended in pairs]
        return [parameter for parameter, _ in pairs] + self.embeddings

    def set_scale(self, scale: float) -> None:
        """What embeddings are multiplied with, until it is set again."""
        for gate in self.gates:
            gate.scale = scale

    def usage(self) -> Tensor:
        """Mean opening of the units that no earlier task attends to, each weighted by how little
        these do; 0-d, 0 where there are none."""
        free = [1 - gate.attended for gate in self.gates]
        opened = [gate.opened() for gate in self.gates]
        total = torch.stack([torch.dot(a, b) for a, b in zip(opened, free, strict=True)]).sum()
        return total / torch.stack([each.sum() for each in free]).sum().clamp_min(1e-6)

    def condition(self) -> None:
        """Multiply gradients by how little earlier tasks attend to both of a weight's ends."""
        if self.conditioned:
            gradients = [p.grad for p in self.conditioned if p.grad is not None]
            torch._foreach_mul_(gradients, self.free)

    @torch.no_grad()
    def hold(self) -> None:
        """Put back what earlier tasks attend to at both ends, where they keep hard gates: decay
        moves weights whose gradient is 0."""
        for parameter, still, as_kept in self.held:
            parameter.copy_(torch.where(still, as_kept, parameter))

    def keep(self, name: str, scale: float) -> None:
        """End a task."""
        self.learn()
        for gate in self.gates:
            gate.keep(name, scale)
        self.statistics.keep(name, self.statistics.now())
        self.learned.append(name)
        self._rest()

    def _rest(self) -> None:
        self.embeddings, self.conditioned, self.free, self.held = [], [], [], []

    # Answers.

    def learn(self) -> None:
        """Go on with the task that is being learned."""
        self.shown = None
        self.statistics.learn()
        for gate in self.gates:
            gate.shown = None

    def show(self, name: str) -> None:
        """Answer as a task that was kept, until another is shown, or ``learn``."""
        if name == self.shown:
            return
        self.shown = name
        self.statistics.show(name)
        for gate in self.gates:
            gate.shown = gate.kept(name)

    def show_learning(self, scale: float) -> None:
        """Answer as the task that is being learned would be kept, until ``learn``."""
        self.learn()
        for gate in self.gates:
            gate.shown = gate.answering(scale)


def _gated(encoder: nn.Module, hard: bool) -> list[Layer]:
    """The hidden layers of a chain, whose ReLUs become gates.

    Raises:
        BadSpec: no chain, or without hidden layers that learn.
    """
    if not isinstance(encoder, nn.Sequential):
        raise BadSpec("model: encoder", type(encoder).__name__, ACCEPTED)
    layers: list[Layer] = []
    waiting: nn.Linear | nn.Conv2d | None = None  # for its ReLU
    norm: _BatchNorm | None = None
    for name, module in list(encoder.named_children()):
        learns = any(parameter.requires_grad for parameter in module.parameters())
        if waiting is None and learns and _is_plain(module):
            assert isinstance(module, nn.Linear | nn.Conv2d)
            waiting = module
        elif waiting is not None and isinstance(module, nn.ReLU):
            before = layers[-1].after if layers else None
            after = Gate(len(waiting.weight), hard, waiting.weight.device)
            layers.append(Layer(waiting, before, after, norm))
            encoder.add_module(name, after)
            waiting = norm = None
        elif waiting is not None and norm is None and isinstance(module, _BatchNorm):
            norm = module
        elif not _passes(module, waiting is None, first=not layers and not learns):
            raise BadSpec(f"model: encoder.{name}", type(module).__name__, ACCEPTED)
    if waiting is not None or not layers:
        raise BadSpec("model: encoder", "no hidden layer with ReLU at its end", ACCEPTED)
    return layers


def _is_plain(module: nn.Module) -> bool:
    return type(module) is nn.Linear or (type(module) is nn.Conv2d and module.groups == 1)


def _passes(module: nn.Module, between: bool, first: bool) -> bool:
    """Whether it leaves units apart, or comes before them all and never changes."""
    if isinstance(module, PASSING):
        return True
    return between and (
        isinstance(module, nn.Flatten) or (first and not isinstance(module, _BatchNorm))
    )
