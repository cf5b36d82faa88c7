"""BiC: replay and distillation, and then a scale and a shift that undo the bias to new classes.

Wu, Chen, Wang, Ye, Liu, Guo & Fu 2019, "Large Scale Incremental Learning" (arXiv 1905.13260).

A memory of exemplars is far smaller than a new task, so that the network answers new classes too
often, and most of that lies in the head. With n old classes and m new ones, the loss on a batch and
a draw from the memory is

    (1 - w) * mean cross-entropy + w * mean KL(old answers || new answers),   w = n / (n + m),

where answers are softmax(logits / temperature) over the old units, and the old ones are those of
the network as it was after the last task. When the task ends, its network stays still, and two
numbers are fitted: the logits o of the new classes become

    scale * o + shift,

such that the cross-entropy of a few examples is least which no network was trained on, equally many
of each class, old or new. They are a share (``held_out``) of the memory: before a class is first
learned they are set aside from its examples, and from then on only ever used for this. On the first
task there is nothing to correct. What remains of the memory is filled by herding when a task ends,
as in ``icarl``, and all lists are cut from their ends as classes arrive.

In task-incremental streams new and old classes never compete: there is no bias, nothing is set
aside and nothing is corrected, and what remains is replay and distillation, for which the
divergence is the mean of those over each old task's own units. Domain- and data-incremental streams
have no new classes: they are not served.

Differences:

- The correction is written into the head's rows of these classes, once it is fitted, so that the
  network itself gives corrected answers: in the midst of the next task too, and in a stored model.
  The next task so begins with the network whose answers it is held to. The paper begins it with the
  uncorrected one, which must learn the correction from the same old answers. On five tasks of two
  digits each (8,000 examples, 5 epochs, 500 kept, SGD at 0.1; 3 seeds) the average accuracy is 84
  either way, and 72 without a correction.
- The paper's loss of the two numbers is convex; the released code goes downhill on it for 200
  epochs with momentum. Here its minimum is found, by L-BFGS. That code adds
  0.1 / 2 * shift^2; here 0.1 / 2 * (shift^2 + (scale - 1)^2), or else no minimum need exist where
  the new classes are told apart without a mistake (``shrinkage``).
- The paper joins the exemplars to the task's examples and goes through all alike. Here each step
  learns a batch and a draw from the memory together, as in ``er``. That code raises the weight
  decay of early tasks and herds all classes anew after each task, from the exemplars that are left,
  by features of any length; here neither.
- The distillation has no temperature^2, as published; ``lwf`` has.
- FACIL keeps the numbers of all tasks and applies each for ever, while learning too. Mammoth weighs
  the old answers with 1 / (number of tasks), which falls where the published weight grows, and with
  temperature^2.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from clray.aside import Aside
from clray.errors import BadSpec
from clray.learner import Setup
from clray.models.class_mean_rows import evaluating
from clray.models.distillation import divergence
from clray.models.exemplars import ExemplarConfig, ExemplarLearner
from clray.models.herding import PriorityMemory
from clray.spec import STABILITY, derive_seed
from clray.task import Task

TOGETHER = 256
"""Examples at once whose logits the correction is fitted to; it changes nothing but memory."""


class Config(ExemplarConfig):
    """Knobs of BiC."""

    temperature: Annotated[float, STABILITY] = Field(2.0, gt=0)
    """What logits are divided by in the distillation."""
    held_out: float = Field(0.1, gt=0, lt=1)
    """Share of the memory that fits the correction and trains no network; an example of each class
    at least."""
    shrinkage: float = Field(0.1, gt=0)
    """Weight of half the squared distance of scale and shift from 1 and 0, against a mean
    cross-entropy of 1."""


class Bic(ExemplarLearner):
    """Cross-entropy and old answers; then two numbers for the new classes."""

    config: Config

    def __init__(self, config: Config, setup: Setup) -> None:
        self.held_out = config.held_out
        size = 0
        if setup.scenario == "class-incremental":
            size = max(setup.num_classes, math.floor(config.held_out * setup.memory + 0.5))
        if setup.memory - size < setup.num_classes:
            least = setup.num_classes + max(1, size)
            accepted = f"at least {least}, an exemplar of each class beside those held out"
            raise BadSpec("protocol.memory", setup.memory, accepted)
        super().__init__(config, setup, setup.memory - size)
        self.correction = Correction(size, config.shrinkage, setup) if size else None
        self.seed = int(torch.randint(2**62, (), generator=setup.generator))
        self.aside: Aside | None = None
        self.weight = 0.0

    def begin_task(self, task: Task) -> None:
        """Weigh the old answers, and set examples of the new classes aside."""
        known = {unit for units in self.groups for unit in units.tolist()}
        self.weight = len(known) / (len(known) + len(task.classes))
        if self.correction is not None:
            most = max(1, self.correction.examples.capacity // len(known | {*task.classes}))
            seed = derive_seed(self.seed, "aside", task.name)
            self.aside = Aside(task.train, self.held_out, seed, self.distributed, most)
            self.correction.add(self.aside, task)

    def observe(self, x: Tensor, y: Tensor, task: Task) -> dict[str, Tensor]:
        """One step on uint8 [B, C, H, W] and int64 [B]; returns the loss, and the old answers' part
        of it as its penalty."""
        x, y, counts = self._kept(x, y)
        x, y = self.with_exemplars(x, y)
        counts = F.pad(counts, (0, len(y) - len(counts)), value=1.0)
        share = counts * (self.distributed.world / self.distributed.sum(counts.sum()).clamp(min=1))
        inputs = self.setup.prepare(self.setup.augment(x))
        logits = self.model(inputs)
        rivals = logits if self.all_rivals else logits.masked_fill(~self.rivals[y], -torch.inf)
        loss = (1 - self.weight) * (share * F.cross_entropy(rivals, y, reduction="none")).sum()
        if self.old is None:
            self.step(loss)
            return {"loss": loss.detach()}
        apart = divergence(logits, self.old(inputs), self.groups, self.config.temperature)
        penalty = self.weight / len(self.groups) * (share * apart).sum()
        loss = loss + penalty
        self.step(loss)
        return {"loss": loss.detach(), "penalty": penalty.detach()}

    def _kept(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """A batch without what is set aside, and with what each example counts, float32 [B].

        Others of the batch stand in its place, and count nothing: that spares waiting for the
        device to say how many are left.
        """
        place = torch.arange(len(y), device=y.device)
        if self.aside is None:
            return x, y, torch.ones_like(place, dtype=torch.float32)
        held = self.aside.holds(x, y)
        kept = len(y) - held.sum()
        rows = held.long().argsort(stable=True)[place % kept.clamp(min=1)]
        return x[rows], y[rows], (place < kept).float()

    def end_task(self, task: Task) -> dict[str, Any] | None:
        """Correct the new classes' logits, herd exemplars, and keep the network as it is.

        Returns:
            ``scale`` and ``shift``; None where there was nothing to correct.
        """
        facts = None
        if self.correction is not None and self.groups:
            scale, shift = self.correction.fit(self, task)
            rows = list(task.classes)
            head: nn.Linear = self.model.head  # type: ignore[assignment]
            with torch.no_grad():
                head.weight[rows] *= scale
                head.bias[rows] = scale * head.bias[rows] + shift
            facts = {"scale": scale, "shift": shift}
        self.keep(task, self.aside)
        self.aside = None
        return facts

    def footprint(self) -> dict[str, int]:
        """The model's, the bytes of the old network, and all examples, those held out too."""
        kept = super().footprint()
        if self.correction is None:
            return kept
        held = self.correction.examples
        examples, num_bytes = kept["examples"] + len(held), kept["bytes"] + held.num_bytes
        return {**kept, "examples": examples, "bytes": num_bytes}


class Correction:
    """Examples that train no network, and what is fitted to them.

    Args:
        size: how many examples.
        shrinkage: see ``Config``.
        setup: what the frame hands over.
    """

    def __init__(self, size: int, shrinkage: float, setup: Setup) -> None:
        # No attribute of the learner: the frame takes a memory there for one that is replayed.
        self.examples = PriorityMemory(size, setup.generator, setup.distributed)
        self.shrinkage = shrinkage

    def add(self, aside: Aside, task: Task) -> None:
        """Keep what was set aside of a task, and less of those before it."""
        group = self.examples.distributed
        x, y = group.gather(aside.x), group.gather(aside.y)
        order = aside.hashes(x).argsort(stable=True)  # as good as random, on any number of workers
        own = order[group.slice(len(order))]
        self.examples.add(x[own], y[own], task.index)

    @torch.no_grad()
    def fit(self, learner: Bic, task: Task) -> tuple[float, float]:
        """Scale and shift of the logits of a task's classes; the same on all workers."""
        x, y, _ = self.examples.spread(len(self.examples))
        with evaluating(learner.model):
            logits = torch.cat([learner.forward(part) for part in torch.split(x, TOGETHER)])
        logits = logits.masked_fill(~learner.rivals[y], -torch.inf)
        found = fit_correction(logits, y, task.classes, self.shrinkage)
        return self.examples.distributed.broadcast(found)  # type: ignore[no-any-return]


def fit_correction(
    logits: Tensor, y: Tensor, new: Sequence[int], shrinkage: float
) -> tuple[float, float]:
    """The scale and shift of new classes' logits with which the mean cross-entropy, plus
    shrinkage / 2 * ((scale - 1)^2 + shift^2), is least.

    Args:
        logits: [N, C]; -inf where a unit does not compete.
        y: int64 [N].
        new: the new classes.
        shrinkage: above 0.
    """
    logits, y = logits.double().cpu(), y.cpu()
    is_new = torch.zeros(logits.shape[1], dtype=torch.bool)
    is_new[list(new)] = True
    own = torch.where(is_new, logits, 0.0)
    start = torch.tensor([1.0, 0.0], dtype=torch.float64)
    pair = start.clone().requires_grad_()
    search = torch.optim.LBFGS(
        [pair],
        max_iter=200,
        tolerance_grad=1e-9,
        tolerance_change=0.0,
        line_search_fn="strong_wolfe",
    )

    def loss() -> Tensor:
        search.zero_grad()
        corrected = torch.where(is_new, pair[0] * own + pair[1], logits)
        away = shrinkage / 2 * (pair - start).square().sum()
        value = F.cross_entropy(corrected, y) + away
        value.backward()  # type: ignore[no-untyped-call]
        return value

    with torch.enable_grad():
        search.step(loss)  # type: ignore[no-untyped-call]
    scale, shift = pair.tolist()
    return scale, shift
