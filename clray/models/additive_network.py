"""One network whose layers each task masks, and adds sparse numbers of its own to (APD).

The weights that all tasks share are the layers' own parameters. Mask scores, adaptive numbers,
biases, normalisations and the rows of the head belong to each task alone. Between tasks they lie in
buffers of the model, so that the whole is in ``model.state_dict()``; while a task is learned,
scores and adaptive numbers of all tasks before it are stacked, layer by layer, and learn too.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from clray.models.additive import Held, Parts, pruned
from clray.models.classifier import Classifier
from clray.models.growth import UNCOUNTED
from clray.models.low_rank import Dense
from clray.models.low_rank_form import (
    COUNTER,
    Form,
    parameter,
    still_norm,
    under,
)
from clray.models.low_rank_network import LowRankNetwork
from clray.spec import derive_seed

Begin = Literal["shared", "zero"]


class AdditiveNetwork:
    """The layers and normalisations of a network, and what each task has of them.

    Args:
        model: becomes a network whose layers take each task's form.
        seed: of what tasks begin with, which depends on their names alone, but for what is shared.
        begin: what a task's adaptive numbers begin as.
        threshold: the largest magnitude of an adaptive number that is pruned.

    Raises:
        BadSpec: a network with other parameters that learn than those of linear layers,
            convolutions in one group and normalisations, or with none beneath its head.

    Attributes:
        shared: the weights that all tasks share, by layer.
        names: of the tasks that were learned, in their order.
        learned_now: name of the task that is being learned.
        working: what the task that is being learned has of each layer.
        earlier: what ``names`` have of each layer, stacked, while a task is learned.
    """

    def __init__(self, model: Classifier, seed: int, begin: Begin, threshold: float) -> None:
        self.network = LowRankNetwork(model)
        self.seed, self.begin_as, self.threshold = seed, begin, threshold
        self.shared = {path: layer.weight for path, layer in self.network.layers.items()}
        self.held = nn.ModuleList(Held(weight, threshold) for weight in self.shared.values())
        model.add_module("held", self.held)
        model.requires_grad_(False)
        for weight in self.shared.values():
            weight.requires_grad_(True)
        self.names: list[str] = []
        self.working: dict[str, Parts] = {}
        self.earlier: dict[str, Parts] = {}
        self.learned_now: str | None = None
        self._rest: Form | None = None  # the working task's, beside its weights
        self._targets: dict[str, Tensor] = {}
        self._shown: tuple[str, Form] | None = None

    def __getstate__(self) -> dict[str, Any]:
        # Whole weights can be put together again.
        return {**vars(self), "_shown": None}

    # One task.

    def begin(self, name: str, classes: int) -> list[nn.Parameter]:
        """Begin to learn a task; returns all that learns."""
        self.learned_now = name
        self.working, self._rest = self._fresh(name, classes)
        self.earlier, self._targets = {}, {}
        if self.names:
            for path, held in self._held():
                parts = held.parts()
                self._targets[path] = parts.weight(self.shared[path].detach())
                self.earlier[path] = Parts(parameter(parts.scores), nn.Parameter(parts.adaptive))
        own = [p for part in self.working.values() for p in part.parameters()]
        before = [p for part in self.earlier.values() for p in part.parameters()]
        return [*self.shared.values(), *before, *own, *self._rest.parameters()]

    def _fresh(self, name: str, classes: int) -> tuple[dict[str, Parts], Form]:
        """What a task begins with."""
        working, network = dict[str, Parts](), self.network
        rest = network.free(network.drawn_head(classes, derive_seed(self.seed, "head", name)))
        for path, weight in self.shared.items():
            generator = torch.Generator().manual_seed(derive_seed(self.seed, "scores", name, path))
            scores = torch.randn(len(weight), generator=generator) / math.sqrt(len(weight))
            adaptive = weight if self.begin_as == "shared" else torch.zeros_like(weight)
            working[path] = Parts(parameter(scores.to(weight)), parameter(adaptive))
            one = rest.layers[path]
            assert isinstance(one, Dense)
            one.weight = weight.detach()  # in place of a copy that would learn
        return working, rest

    @contextmanager
    def learning(self) -> Iterator[None]:
        """Compute with the weights of the task that is being learned, within."""
        assert self._rest is not None
        weights = {path: part.weight(self.shared[path]) for path, part in self.working.items()}
        with self.network.using(_with_weights(self._rest, weights)):
            yield

    def drift(self) -> Tensor:
        """Half the squared distance of all earlier tasks' weights from where this one found them.

        What groups add is the same in both. Time and memory grow with the number of earlier tasks.
        """
        parts = [
            part.drift(self.shared[path], self._targets[path])
            for path, part in self.earlier.items()
        ]
        return torch.stack(parts).sum()

    def magnitude(self) -> Tensor:
        """The sum of all adaptive numbers' magnitudes, of this task and of earlier ones."""
        parts = [*self.working.values(), *self.earlier.values()]
        return torch.stack([torch.linalg.vector_norm(p.adaptive, 1) for p in parts]).sum()

    def changed(self) -> None:
        """Weights have changed: what was put together is out of date."""
        self._shown = None

    @torch.no_grad()
    def end(self, name: str) -> None:
        """Prune all tasks' adaptive numbers, and keep what each has of its own."""
        assert self._rest is not None
        for path, held in self._held():
            part = self.working[path]
            scores, adaptive = part.scores[None], part.adaptive[None]
            if self.earlier:
                before = self.earlier[path]
                scores = torch.cat([before.scores, scores])
                adaptive = torch.cat([before.adaptive, adaptive])
            held.keep(Parts(scores, adaptive))
        rest = {"head.weight": self._rest.head.weight, "head.bias": self._rest.head.bias}
        for path, one in self._rest.layers.items():
            rest[f"{path}.bias"] = None if one is None else one.bias
        for path, norm in self._rest.norms.items():
            rest |= {f"{path}.{part}": value for part, value in norm.items() if part != COUNTER}
        kept = {place: value.detach().clone() for place, value in rest.items() if value is not None}
        self.network.adopt(name, kept)
        self.names.append(name)
        self.working, self._rest, self.learned_now = {}, None, None
        self.earlier, self._targets = {}, {}
        self.changed()

    def consolidate(self, number: int, tolerance: float, generator: torch.Generator) -> None:
        """Put the tasks into groups, layer by layer: see ``clray.models.consolidation``.

        Args:
            number: of groups, at most.
            tolerance: within which numbers of a group are alike.
            generator: on the CPU, in step on all workers.
        """
        for _, held in self._held():
            held.consolidate(number, tolerance, generator)
        self.changed()

    def _held(self) -> Iterator[tuple[str, Held]]:
        for path, held in zip(self.shared, self.held, strict=True):
            assert isinstance(held, Held)
            yield path, held

    # Answers, and what is kept.

    @contextmanager
    def answering(self, name: str, classes: int) -> Iterator[None]:
        """Compute with a task's weights, within; of one that was never begun, with what it would
        begin with. Weights are put together once until ``changed``, of one task at a time."""
        if self._shown is None or self._shown[0] != name:
            self._shown = None
            with torch.no_grad():
                self._shown = name, self._answer(name, classes)
        with self.network.using(self._shown[1]):
            yield

    def _answer(self, name: str, classes: int) -> Form:
        if name in self.names:
            place = self.names.index(name)
            weights = {
                path: self._part(path, held, place).weight(self.shared[path]) + held.added(place)
                for path, held in self._held()
            }
            return _with_weights(self._kept_rest(name), weights)
        working, rest = self.working, self._rest
        if name != self.learned_now or rest is None:
            working, rest = self._fresh(name, classes)
        weights = {}
        for path, part in working.items():
            kept = Parts(part.scores, pruned(part.adaptive, self.threshold))
            weights[path] = kept.weight(self.shared[path])
        return _with_weights(rest, weights)

    def _part(self, path: str, held: Held, place: int) -> Parts:
        """What an earlier task has of a layer, now."""
        if path not in self.earlier:
            return Parts(held.scores[place], held.adaptive.one(place))
        stack = self.earlier[path]
        return Parts(stack.scores[place], pruned(stack.adaptive[place], self.threshold))

    def _kept_rest(self, name: str) -> Form:
        kept = self.network.kept(name)
        form = self.network.unlearned(Dense(kept["head.weight"], kept.get("head.bias")))
        layers = {p: Dense(weight, kept.get(f"{p}.bias")) for p, weight in self.shared.items()}
        norms = {path: still_norm(under(path, kept)) for path in form.norms}
        return Form({**layers}, norms, form.head)

    def numbers(self) -> int:
        """All that were learned and are kept: shared weights, and of each task what is its own;
        zeros among adaptive numbers not."""
        total = sum(weight.numel() for weight in self.shared.values())
        for _, held in self._held():
            total += held.scores.numel() + sum(held.adaptive.counts) + sum(held.common.counts)
        for name in self.names:
            kept = self.network.kept(name).items()
            total += sum(t.numel() for p, t in kept if p.rpartition(".")[2] not in UNCOUNTED)
        return total

    def plain_numbers(self) -> int:
        """What one plain network learns, with a head for each of the tasks that were learned."""
        sizes = self.network.sizes
        heads = [self.network.kept(name)["head.weight"] for name in self.names]
        rest = sizes.weights + sizes.biases + sizes.norms
        return rest + sum(sizes.head(len(head)) for head in heads)

    def densities(self) -> list[float]:
        """The share of each task's adaptive numbers that are not zero."""
        counts = torch.tensor([held.adaptive.counts for _, held in self._held()])
        return [float(n) / self.network.sizes.weights for n in counts.sum(0)]

    def groups(self) -> dict[str, list[int]]:
        """By layer, the group of each task that was there at the last consolidation."""
        return {path: held.labels.tolist() for path, held in self._held()}

    def num_bytes(self) -> int:
        """Of all that the model keeps, with sparse numbers' places and what tasks begin as."""
        tensors = [*self.network.model.parameters(), *self.network.model.buffers()]
        return sum(t.numel() * t.element_size() for t in tensors)


def _with_weights(form: Form, weights: dict[str, Tensor]) -> Form:
    """A form of whole layers, with other weights."""
    biases = {path: None if one is None else one.bias for path, one in form.layers.items()}
    layers = {path: Dense(weights[path], bias) for path, bias in biases.items()}
    return Form({**layers}, form.norms, form.head)
