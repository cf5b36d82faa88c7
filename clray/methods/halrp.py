"""HALRP: later tasks are low-rank perturbations of the first one's network, whatever their order.

Li et al. 2024 (IEEE TKDE 36(11), arXiv 2311.15161), task-incremental. The first task is learned by
an ordinary network, whose weights then stay. A later task warms up in a free copy of it; row and
column scales and a residual explain the copy's weights by the first ones; the residual's singular
directions that the loss would miss most, by squared gradients, fix each layer's rank; scales, thin
factors, biases, normalisations and a head of its own then learn on, and are pruned to a budget.
Later tasks never read one another: ``prune: new``, the default, forgets nothing at all.

Differences from the authors' code (of 2024-09): scales are least squares, where a slip makes its
columns an outer product (``scale_fit: released``); a retained share of 1, or an exact fit, keeps
what it says; directions of singular value 0, which could never learn, are dropped; importance is of
training examples (``importance_from: aside`` for a share that is set aside) in at most 16 batches;
each task is pruned once, to its own share of a budget that is kept, and a budget that cannot be
kept is refused, where the release prunes all tasks again and again and ends above it (``prune:
all``); learning rates decay by the examples of the task, where it takes 50,000 for all
(``decay_examples``); gradients are not multiplied by 10. ``convolutions: reshape``, ``importance:
sum``, ``ranks: parameters``, ``decay_toward: one`` and ``prune_after`` are extensions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clray.aside import Aside
from clray.errors import BadSpec
from clray.learner import Learner, MethodConfig, Setup
from clray.models.classifier import Classifier
from clray.models.growth import check_growth, keep_largest, share_of
from clray.models.low_rank import Dense
from clray.models.low_rank_config import LowRankConfig
from clray.models.low_rank_form import Form
from clray.models.low_rank_learner import (
    decayed,
    factorise,
    importances,
    penalty,
    prune_as_released,
)
from clray.models.low_rank_network import LowRankNetwork
from clray.spec import derive_seed
from clray.task import Task

Phase = Literal["first", "warm-up", "factored"]


class Config(LowRankConfig):
    """Knobs of Hessian-aware low-rank perturbation."""


class HALRP(Learner):
    """Learns the first task, and each later one as what differs from it."""

    config: Config
    scenarios: ClassVar[frozenset[str]] = frozenset({"task-incremental"})
    hands_over: ClassVar[bool] = False
    learns_head_alone: ClassVar[bool] = False

    def __init__(self, config: Config, setup: Setup) -> None:
        super().__init__(config, setup)
        self.knobs = config
        assert isinstance(setup.model, Classifier)
        self.network = LowRankNetwork(setup.model, config.convolutions)
        sizes = self.network.sizes
        if config.growth is not None and config.prune == "new":
            classes = setup.largest_task, setup.num_classes
            check_growth(config.growth, sizes, setup.num_tasks, *classes)
        least = sum(n.weight.shape[0] + n.width for n in self.network.layers.values())
        if config.rank_parameters is not None and config.rank_parameters < least:
            accepted = f"{least} or more: one direction in each layer"
            raise BadSpec("method.rank_parameters", config.rank_parameters, accepted)
        self.optimizer = self._idle()
        self.seed = int(torch.randint(2**62, (), generator=setup.generator))
        self.first: str | None = None
        self.base = 0  # numbers of the first task's network
        self.later: list[str] = []
        self.aside: Aside | None = None
        self.masks: list[Tensor] = []
        self.facts: dict[str, Any] = {}
        self.units: dict[str, Tensor] = {}

    def _idle(self) -> torch.optim.Optimizer:
        """Until a task begins."""
        return self.setup.optimizer([nn.Parameter(torch.empty(0))])

    @classmethod
    def independent_after_first(cls, config: MethodConfig) -> bool:
        """Always, but where the release's pruning changes old tasks."""
        assert isinstance(config, Config)
        return config.growth is None or config.prune == "new"

    # One task.

    def begin_task(self, task: Task) -> None:
        """Learn the network itself with the first task, and a copy of it with another."""
        self.network.rest()
        self.aside, self.masks, self.facts = None, [], {}
        total = self.setup.num_updates(task)
        warm_up = self.knobs.num_warm_up(total)
        self.num_steps = {"first": total, "warm-up": warm_up, "factored": total - warm_up}
        self.rate_factor = self.knobs.rate_factor(self.setup.batch_size, len(task.train))
        head = self._drawn_head(task)
        if self.first is None:
            self.first, self.base = task.name, self.network.sizes.first(len(task.classes))
            self._begin("first", self.network.first(head), list(self.model.parameters()))
            return
        if self.knobs.importance_from == "aside":
            seed = derive_seed(self.seed, "aside", task.name)
            self.aside = Aside(task.train, self.knobs.held_out, seed, self.distributed)
        self._begin("warm-up", self.network.free(head), [])

    def _begin(self, phase: Phase, form: Form, shared: list[nn.Parameter]) -> None:
        """Learn a form, and what is shared, with an optimizer afresh."""
        self.phase: Phase = phase
        self.done = 0
        self.network.working = form
        own = [p for p in form.parameters() if all(p is not other for other in shared)]
        self.optimizer = self.setup.optimizer([*shared, *own])
        self.lr = self.optimizer.param_groups[0]["lr"]

    def observe(self, x: Tensor, y: Tensor, task: Task) -> dict[str, Tensor]:
        """One step on uint8 [B, C, H, W] and int64 [B]; returns the loss."""
        if self.aside is not None:
            learned = ~self.aside.holds(x, y)
            x, y = x[learned], y[learned]
        loss = torch.zeros((), device=x.device)
        if len(y) or self.distributed.world > 1:
            with self.network.using(self._working()):
                loss = self._loss(self.forward_augmented(x), y, task) + self._penalty()
                self.step(loss)
            for factor, mask in zip(self._working().factors(), self.masks, strict=False):
                factor.data.mul_(mask)
        self.done += 1
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr * self.rate_factor**self.done
        if self.phase == "warm-up" and self.done == self.num_steps["warm-up"]:
            self._factorise(task)
        early = self.phase == "factored" and self.knobs.prune_after < 1
        if early and self.done == self.knobs.num_unpruned(self.num_steps["factored"]):
            self._prune_new(task)
        return {"loss": loss.detach()}

    def _working(self) -> Form:
        assert self.network.working is not None
        return self.network.working

    def _loss(self, logits: Tensor, y: Tensor, task: Task) -> Tensor:
        """Mean cross-entropy over all workers' examples, among the task's classes."""
        placed = self._on_units(logits, task)
        if self.aside is None:
            return self.cross_entropy(placed, y)
        count = self.distributed.sum(torch.tensor(float(len(y)), device=y.device)).clamp_min(1)
        return F.cross_entropy(placed, y, reduction="sum") * (self.distributed.world / count)

    def _penalty(self) -> Tensor | float:
        """On weights, or on scales and factors, as the phase has it."""
        l1, decay = self.knobs.l1, self.knobs.decay
        if self.phase == "first" and decay:
            return decayed(self.network.layers.values(), decay)
        if self.phase == "factored" and (l1 or decay):
            return penalty(self._working(), l1, decay, self.knobs.decay_toward)
        return 0.0

    def _factorise(self, task: Task) -> None:
        """End the warm-up: choose ranks, and go on with factors."""
        free, layers = self._working(), self.network.layers
        weights = [one.weight for one in free.layers.values() if isinstance(one, Dense)]
        importance = torch.ones(len(layers), device=self.setup.device)
        if self.knobs.ranks != "flat":
            self.train_mode(False)
            with self.network.using(free):
                importance = importances(
                    weights,
                    lambda x, y: self._loss(self.forward(x), y, task),
                    self._importance_batches(task),
                    self.distributed,
                    self.knobs.importance,
                )
            self.train_mode(True)
        form, ranks, shares = factorise(self.network, free, importance, self.knobs.choice)
        self.facts = {"directions": sum(ranks.values()), "ranks": ranks, "retained": shares}
        self._begin("factored", form, [])

    def _importance_batches(self, task: Task) -> Iterator[tuple[Tensor, Tensor]]:
        """This worker's part of some batches, of what is set aside where something is."""
        size, aside = self.setup.batch_size, self.aside
        if aside is not None:  # of so many examples that about a batch of them is set aside
            size = round(size / self.knobs.held_out)
        seed = derive_seed(self.seed, "importance", task.name)
        rank, world = self.distributed.rank, self.distributed.world
        batches = task.train.batches(size, seed, 0, rank=rank, world=world)
        for x, y in islice(batches, self.knobs.importance_batches):
            held = slice(None) if aside is None else aside.holds(x, y)
            yield x[held], y[held]

    def end_task(self, task: Task) -> dict[str, Any]:
        """Keep what the task has of its own; says what that is, but for the first.

        Returns:
            ``directions`` (the sum of the ranks), ``ranks`` and ``retained`` share of the scores by
            layer, ``pruned`` share of the factors, and what this task adds to the first one's
            network: ``growth_released`` as the authors count, ``growth_full`` in bytes, with
            biases, running statistics and the places of sparse entries. With ``prune: all``, which
            changes old tasks too, ``growth_so_far`` as well, of all tasks, as the authors count.
        """
        if self.phase == "warm-up":  # of a task of one step
            self._factorise(task)
        if self.phase == "factored" and not self.masks:
            self._prune_new(task)
        form, everything = self._working(), self.knobs.prune == "all"
        self.network.keep(task.name, form, drops=not everything)
        self.network.rest()
        self.optimizer = self._idle()
        self.aside, self.masks = None, []
        if self.phase == "first":
            self.network.freeze()
            return {"base": self.base}
        self.later.append(task.name)
        dense = sum(factor.numel() for factor in form.factors())
        so_far = {}
        if everything:
            growth = prune_as_released(self.network, self.later, self.knobs.growth, self.base)
            so_far = {"growth_so_far": growth}
        taken = self.network.taken(task.name)
        return {
            **self.facts,
            "pruned": 1 - taken.entries / dense if dense else 0.0,
            "growth_released": taken.counted / self.base,
            "growth_full": taken.bytes / self._first_bytes(),
            **so_far,
        }

    # Pruning.

    def _prune_new(self, task: Task) -> None:
        """Keep the task to its share of the growth."""
        if self.knobs.growth is None or self.knobs.prune == "all":
            return
        each = share_of(self.knobs.growth, self.base, self.setup.num_tasks)
        factors = self._working().factors()
        least = self.network.sizes.least(len(task.classes))
        self.masks = keep_largest(factors, each - least)
        for factor, mask in zip(factors, self.masks, strict=True):
            factor.data.mul_(mask)

    # Answers, and what is kept.

    @torch.no_grad()
    def predict(self, x: Tensor, task: Task | None) -> Tensor:
        """Logits [B, num_classes], -inf for the classes of other tasks; of a task that was not
        learned, by the first one's network with the head that it would begin with."""
        assert task is not None
        if self.network.has(task.name):
            form = self.network.answering(task.name)
        else:
            form = self.network.unlearned(self._drawn_head(task))
        with self.network.using(form):
            return self._on_units(self.forward(x), task)

    def _drawn_head(self, task: Task) -> Dense:
        seed = derive_seed(self.seed, "head", task.name)
        return self.network.drawn_head(len(task.classes), seed)

    def _on_units(self, logits: Tensor, task: Task) -> Tensor:
        """Logits [B, outputs] of a task as [B, num_classes]."""
        if task.name not in self.units:
            units = torch.tensor(sorted(task.classes), device=logits.device)
            self.units[task.name] = units
        placed = logits.new_full((len(logits), self.setup.num_classes), -torch.inf)
        return placed.index_copy(1, self.units[task.name], logits)

    def learned_of(self, task: Task) -> dict[str, Tensor]:
        """See ``Learner``: all tensors that the task has of its own."""
        return self.network.kept(task.name)

    def adopt(self, task: Task, learned: Mapping[str, Tensor]) -> None:
        """See ``Learner``."""
        self.network.adopt(task.name, learned)
        self.later.append(task.name)

    def footprint(self) -> dict[str, int]:
        """What is stored: the first task's network, and what each task has of its own."""
        taken = [self.network.taken(name) for name in self._names()]
        parameters = sum(p.numel() for p in self.model.parameters())
        return {
            "parameters": parameters + sum(one.numbers for one in taken),
            "examples": 0,
            "bytes": self.network.base_bytes() + sum(one.bytes for one in taken),
        }

    def _names(self) -> list[str]:
        known = [*([self.first] if self.first else []), *self.later]
        return [name for name in known if self.network.has(name)]

    def _first_bytes(self) -> int:
        assert self.first is not None
        return self.network.base_bytes() + self.network.taken(self.first).bytes
