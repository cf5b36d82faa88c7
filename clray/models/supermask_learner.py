"""What supermask methods share: a mask for each task, found first, and weights trained after it.

SupSup (Wortsman et al. 2020, arXiv 2006.14769) searches a mask over random weights that never
change. Exclusive supermask training (Yadav & Bansal 2023, arXiv 2210.10209) spends a part of each
task on the weights of its mask.

The protocol's optimizer serves both phases, afresh for each task and phase; ``optimizer.lr`` is the
rate of the scores. Each phase's rate follows half a cosine, epoch by epoch, to zero. Phases are
counted in steps, so that a single pass over a task can be divided as well; the lesser part of an
epoch ends a phase. The state that answers best on a share of the task's training examples, which
is set aside, is what is kept of either phase; nothing else of the data takes part in the choice.
(A donor, see ``transfer``, is chosen before that, on any of the task's training examples.)

Differences from the authors' code, which ``compat`` brings back one by one: it trains masks with
the weights' rate, lets a plateau rule that reads accuracy as if it were a loss end the learning
early, counts what a mask keeps in floating point, and compares donors (``transfer``) on different
examples. It also chose by test examples, which clray's frame makes impossible. The head answers
among the task's own classes, where theirs also counts the units that only larger tasks use.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clray.aside import Aside
from clray.errors import Infeasible
from clray.learner import Learner, Setup
from clray.models.bitmask import Largest, Selection, count, erdos_renyi, kept
from clray.models.classifier import Classifier
from clray.models.subnetworks import Snapshot, Subnetworks
from clray.models.supermask_config import CAP, SubnetworkConfig, SupermaskConfig
from clray.models.transfer import Transfer
from clray.spec import derive_seed
from clray.task import Task, cut

EVAL_BATCH = 512
"""Examples at once while the state is judged."""
PATIENCE, FACTOR, THRESHOLD = 10, 0.1, 1e-4
"""Of the released plateau rule: torch's defaults."""

Phase = Literal["mask", "weights"]


class SupermaskLearner(Learner):
    """Searches a mask for each task."""

    config: SupermaskConfig
    scenarios: ClassVar[frozenset[str]] = frozenset({"task-incremental"})
    hands_over: ClassVar[bool] = False
    learns_head_alone: ClassVar[bool] = False
    exclusive: ClassVar[bool] = True
    """Whether only weights that no mask before has claimed are trained."""

    def __init__(self, config: SupermaskConfig, setup: Setup, outputs: int | None = None) -> None:
        super().__init__(config, setup)
        self.knobs = config
        self.compact = True
        self.transfer = Transfer(config, setup, released="donors" in config.compat)
        assert isinstance(setup.model, Classifier)
        self.subnetworks = Subnetworks(
            setup.model,
            outputs or setup.largest_task,
            signed=config.begin != "given",
            remembers_scores=self.transfer.needs_scores,
        )
        if config.begin == "scaled":
            self._scale_weights()
        self.optimizer = setup.optimizer([nn.Parameter(torch.empty(0))])  # until a phase begins
        self.seed = int(torch.randint(2**62, (), generator=setup.generator))
        self.units: dict[int, Tensor] = {}  # of each learned task, by its place in the stream
        self.local = torch.zeros(setup.num_classes, dtype=torch.int64, device=setup.device)
        self.aside: Aside | None = None
        self.best: Snapshot | None = None

    def weight_share(self) -> float:
        """Share of a task's steps that train weights."""
        return 0.0

    def weight_lr(self) -> float:
        """Learning rate of the weights."""
        return 0.0

    # One task.

    def begin_task(self, task: Task) -> None:
        """Set examples aside, and begin the search from fresh scores or those of other tasks."""
        self.subnetworks.learn()
        units = self.units_of(task)
        self.local[units] = torch.arange(len(units), device=self.setup.device)
        self.per_epoch = len(cut(len(task.train), self.setup.batch_size))
        total = self.setup.num_updates(task)
        weight_steps = min(total - 1, math.floor(self.weight_share() * total + 0.5))
        if self.weight_share() and total > 1:
            weight_steps = max(1, weight_steps)
        self.num_steps: dict[Phase, int] = {"mask": total - weight_steps, "weights": weight_steps}
        self.aside = None
        if self.knobs.state == "best" or "plateau" in self.knobs.compat:
            seed = derive_seed(self.seed, "aside", task.name)
            self.aside = Aside(task.train, self.knobs.held_out, seed, self.distributed)
        self.best, self.best_accuracy, self.found_in = None, -1.0, ""
        self.facts: dict[str, Any] = {}
        scores = self.subnetworks.draw(derive_seed(self.seed, "scores", task.name))
        selections = self._selections()
        if self.units and self.knobs.transfer != "none":
            seed = derive_seed(self.seed, "transfer", task.name)
            donors = [str(index) for index in self.units]
            self.train_mode(False)
            scores, self.facts = self.transfer.initial_scores(
                self.subnetworks, selections, donors, task, scores, seed
            )
            self.train_mode(True)
        self._begin("mask", self.subnetworks.search(scores, selections))

    def observe(self, x: Tensor, y: Tensor, task: Task) -> dict[str, Tensor]:
        """One step on uint8 [B, C, H, W] and int64 [B]; returns the loss."""
        if self.subnetworks.shown is not None:
            self.subnetworks.learn()
        if self.aside is not None:
            learned = ~self.aside.holds(x, y)
            x, y = x[learned], y[learned]
        if len(y) or self.distributed.world > 1:
            loss = self._loss(self.forward_augmented(x), self.local[y])
            self.step(loss)
        else:  # all of the batch is set aside
            loss = torch.zeros((), device=x.device)
        self.done += 1
        if self.done % self.per_epoch == 0 or self.done == self.num_steps[self.phase]:
            self._end_epoch()
        return {"loss": loss.detach()}

    def end_task(self, task: Task) -> dict[str, Any]:
        """Keep the best state; says what it was, and how much of the mask was free.

        Returns:
            ``density`` (share of all weights in the mask), ``free_share`` (of the mask, what no
            mask before had claimed), ``state`` (phase and epoch that it is of), ``accuracy`` on the
            examples set aside, where it was chosen by that, and what the transfer came to.
        """
        best = self.best or self.subnetworks.capture()
        layers = self.subnetworks.layers
        sizes, free = 0, 0
        for name, layer in layers.items():
            bits = best.masks[name]
            sizes += count(bits)
            free += count(bits & ~layer.claimed)
        self.subnetworks.keep(str(task.index), best)
        self.units[task.index] = self.units_of(task)
        self.aside = self.best = None
        self.optimizer = self.setup.optimizer([nn.Parameter(torch.empty(0))])
        total = sum(layer.weight.numel() for layer in layers.values())
        facts = {"density": sizes / total, "free_share": free / sizes, "state": self.found_in}
        chosen = {"accuracy": self.best_accuracy} if self.knobs.state == "best" else {}
        return {**facts, **chosen, **self.facts}

    # Phases.

    def _begin(self, phase: Phase, parameters: list[nn.Parameter]) -> None:
        self.phase: Phase = phase
        self.done = 0
        self.slack, self.bad, self.lowest = 1.0, 0, math.inf
        self.optimizer = self.setup.optimizer(parameters)
        shared = phase == "mask" and self.num_steps["weights"] and "shared-lr" in self.knobs.compat
        own = phase == "weights" or shared
        self.lr = self.weight_lr() if own else self.optimizer.param_groups[0]["lr"]
        self._set_rate()

    def _set_rate(self) -> None:
        """The rate of the epoch that begins, counted within the phase."""
        share = self.done / max(1, self.num_steps[self.phase])
        cosine = (1 + math.cos(math.pi * share)) / 2 if self.knobs.schedule == "cosine" else 1.0
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr * cosine * self.slack

    def _end_epoch(self) -> None:
        """Judge the state, and go on to the next epoch, or to the weights."""
        self._judge()
        if self.phase == "mask" and self.done == self.num_steps["mask"]:
            self.subnetworks.settle()
            if self.num_steps["weights"]:
                parameters = self.subnetworks.train_weights(self.exclusive, self.compact)
                self._begin("weights", parameters)
        else:
            self._set_rate()

    def _judge(self) -> None:
        state = f"{self.phase} {math.ceil(self.done / self.per_epoch)}"
        if self.knobs.state == "last":
            self.found_in = state
        if self.aside is None:
            return
        accuracy = self._accuracy(self.aside)
        if self.knobs.state == "best" and accuracy > self.best_accuracy:
            self.best, self.best_accuracy = self.subnetworks.capture(), accuracy
            self.found_in = state
        if "plateau" in self.knobs.compat:
            self._read_as_loss(accuracy)

    def _read_as_loss(self, accuracy: float) -> None:
        """The released plateau rule: it waits for the accuracy to fall."""
        if accuracy < self.lowest * (1 - THRESHOLD):
            self.lowest, self.bad = accuracy, 0
        else:
            self.bad += 1
        if self.bad > PATIENCE:
            self.slack, self.bad = self.slack * FACTOR, 0

    @torch.no_grad()
    def _accuracy(self, aside: Aside) -> float:
        """Share of the examples set aside, over all workers, that the state answers rightly."""
        self.train_mode(False)
        self.subnetworks.put_together()
        counts = torch.zeros(2, dtype=torch.int64, device=self.setup.device)
        for x, y in zip(
            torch.split(aside.x, EVAL_BATCH), torch.split(aside.y, EVAL_BATCH), strict=True
        ):
            counts[0] += (self.forward(x).argmax(1) == self.local[y]).sum()
            counts[1] += len(y)
        self.subnetworks.learn()
        self.train_mode(True)
        right, total = self.distributed.sum(counts).tolist()
        return float(right / total)

    def _scale_weights(self) -> None:
        """Divide each layer's weights by the root of the share of them that a mask keeps."""
        for name, number in self._numbers().items():
            weight = self.subnetworks.layers[name].weight
            weight.data /= math.sqrt(number / weight.numel())

    def _selections(self) -> dict[str, Selection]:
        """How each layer's mask is made of its scores."""
        return {name: Largest(number) for name, number in self._numbers().items()}

    def _numbers(self) -> dict[str, int]:
        """How many weights of each layer a mask keeps."""
        layers = list(self.subnetworks.layers.values())
        whole = self.config.density_over(self.setup.num_tasks)
        released = "density" in self.knobs.compat
        densities: list[float] | None = [whole] * len(layers)
        if self.knobs.density_rule == "erdos-renyi":
            cap = None if "uncapped" in self.knobs.compat else CAP
            densities = erdos_renyi([layer.weight.shape for layer in layers], whole, cap)
            if densities is None:
                raise Infeasible("method.density", whole, f"at most {CAP} with erdos-renyi")
        assert densities is not None
        return {
            name: kept(density, layer.weight.numel(), released)
            for density, (name, layer) in zip(
                densities, self.subnetworks.layers.items(), strict=True
            )
        }

    def _loss(self, logits: Tensor, y: Tensor) -> Tensor:
        """Mean cross-entropy over all workers' examples, and all outputs."""
        if self.distributed.world == 1:
            return F.cross_entropy(logits, y, reduction="sum") / max(1, len(y))
        seen = self.distributed.sum(torch.tensor(float(len(y)), device=y.device)).clamp_min(1)
        return F.cross_entropy(logits, y, reduction="sum") * (self.distributed.world / seen)

    # Answers.

    def predict(self, x: Tensor, task: Task | None) -> Tensor:
        """Logits [B, num_classes]: those of the task's subnetwork, on the units of its classes.

        A task that was not learned is answered by the latest subnetwork, and by all weights before
        any was.
        """
        assert task is not None
        if self.units:
            known = task.index in self.units
            self.subnetworks.show(str(task.index if known else max(self.units)))
        return self.on_units(self.forward(x), self.units_of(task))

    def units_of(self, task: Task) -> Tensor:
        """The output units of the task's classes, in the order of the head's outputs; int64."""
        return torch.tensor(sorted(task.classes), device=self.setup.device)

    def on_units(self, logits: Tensor, units: Tensor) -> Tensor:
        """Logits [B, outputs] of a task as [B, num_classes]; -inf for units of other tasks."""
        placed = logits.new_full((len(logits), self.setup.num_classes), -torch.inf)
        placed[:, units] = logits[:, : len(units)]
        return placed


class SubnetworkLearner(SupermaskLearner):
    """Searches a mask for each task, and trains its weights in the rest of the steps."""

    config: SubnetworkConfig

    def __init__(self, config: SubnetworkConfig, setup: Setup) -> None:
        super().__init__(config, setup)
        self.compact = config.update == "compact"

    def weight_share(self) -> float:
        """See ``SupermaskLearner``."""
        return self.config.weight_share

    def weight_lr(self) -> float:
        """See ``SupermaskLearner``."""
        return self.config.weight_lr
