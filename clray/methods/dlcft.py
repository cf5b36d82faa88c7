"""DLCFT: continual fine-tuning of a linearised pre-trained network, where a quadratic is exact.

Shon, Lee, Kim & Kim 2022 (ECCV; arXiv 2208.08112).

The pre-trained network is replaced by its first-order expansion around its weights, and learns with
a squared loss. A task's loss is then a quadratic in the step, everywhere: its curvature H, which
needs no labels, and its minimum say all of it. So the loss of all old tasks is

    examples so far / 2 * (d - d*)' H (d - d*) + constant,

and minimising it with the new task's loss is joint training, whatever the order (``past_weight: 1``
follows; nothing is to be tuned). With cross-entropy neither holds: curvature vanishes as a task is
learned, and new classes change the loss of old ones (Kirkpatrick et al. 2017's penalty under it:
``ewc``; along Kronecker factors: ``laplace``).

Exact are a linearised head, ``curvature: full`` and tasks that are learned to the end; all else is
approximate: the head that learns as it is (``head: bilinear``), the structure kept of H, and the
noise that estimates it. New classes are exact as well: their weights begin at zero, where old tasks
want them, and are held there along the known curvature; with a linearised head all outputs are
there from the start, and learn to be zero.

Differences. The paper's text was not at hand; these are from the first author's development code of
February 2022 and from derivation:

- Tasks weigh as their examples do, there all the same; of equal tasks the two agree.
- ``ridge`` is counted once for the stream, there a decay at every step of every task. It is
  multiplied by the examples of the stream, so that at its end it is the ridge of the mean loss.
- Traces of ``tkfac`` are exact, there estimated; its head's curvature is exact in all structures.
- Curvature is estimated on images without augmentation, by random signs; there with, by normal
  numbers.
- There, networks are pre-trained with leaky units; here ``slope`` swaps them, 0 does not.
- The first task is not trained for twice the steps. A learning rate falls linearly over each task.
- Grouped convolutions have factors of each group. Parameters of other layers than Linear and
  convolutions (normalisation that cannot be folded, tokens, scales) stay as they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call, jacrev

from clray.errors import BadSpec
from clray.learner import Setup
from clray.models.curvature import Block, Kronecker, Outputs, joined
from clray.models.curvature_config import CurvatureConfig
from clray.models.curvature_fit import Cotangents, Kind, fit_curvature
from clray.models.curved_penalty import Part
from clray.models.linearised_classifier import LinearisedClassifier
from clray.models.linearised_learner import HEAD, LinearisedConfig, LinearisedLearner
from clray.models.squared_loss import output_noise
from clray.models.task_sample import Share, Shares
from clray.task import Task

WHOLE = "all"
LARGEST = 5000
"""Weights of which all curvature can be kept."""


class Config(LinearisedConfig, CurvatureConfig):
    """Knobs of DLCFT."""


class Dlcft(LinearisedLearner):
    """Squared loss of the task, and the quadratic of all tasks before it."""

    config: Config

    def __init__(self, config: Config, setup: Setup) -> None:
        self.kind, self.noise, self.accumulate = config.curvature, config.noise, config.accumulate
        learning = sum(p.numel() for p in setup.model.parameters() if p.requires_grad)
        if self.kind == "full" and learning > LARGEST:
            accepted = f"full with {LARGEST} weights at most, here {learning}; or another one"
            raise BadSpec("method.curvature", "full", accepted)
        super().__init__(config, setup)

    def parts(self) -> dict[str, Part]:
        """One for each layer, or one for all, but heads of which each task has its own."""
        parts = super().parts()
        if self.kind != "full":
            return parts
        own = {}
        if self.setup.scenario == "task-incremental" and HEAD in parts:
            own = {HEAD: parts.pop(HEAD)}
        weights = tuple(p for part in parts.values() for p in part.parameters)
        return {WHOLE: Part(weights, None), **own}

    def begin_task(self, task: Task) -> None:
        """Let outputs that join now be held like all others."""
        super().begin_task(task)
        if self.setup.scenario == "class-incremental":
            rows = self.competing(torch.tensor(task.classes[:1], device=self.setup.device))[0]
            for name, block in self.penalty.blocks.items():
                self.penalty.blocks[name] = joined(block, rows)

    def objective(self, loss: Tensor, now: int) -> tuple[Tensor, dict[str, Tensor]]:
        """The mean loss of all examples so far, those of old tasks by their quadratic."""
        past = self.penalty.examples
        ridge = self.ridge * self.setup.num_examples
        if past:
            ridge += self.config.damping * (now + past)
        if not past and not ridge:
            return loss, {}
        pull = self.penalty(self.config.past_weight, ridge) / (now + past)
        return loss * (now / (now + past)) + pull, {"penalty": pull.detach()}

    def end_task(self, task: Task) -> dict[str, Any] | None:
        """Add the task's curvature to that of all before."""
        facts = super().end_task(task)
        if self.kind == "none":
            self.penalty.recentre()
        elif self.kind == "full":
            self.penalty.add({WHOLE: self._whole(task)}, len(task.train))
        else:
            self.penalty.add(self._layers(task, self.kind), len(task.train))
        return facts

    def footprint(self) -> dict[str, int]:
        """The model's, and the bytes of curvature and centres."""
        kept = super().footprint()
        return {**kept, "bytes": kept["bytes"] + self.penalty.num_bytes}

    def _layers(self, task: Task, kind: Kind) -> dict[str, Block]:
        """Each layer's block; of a head that is not linearised, exactly."""
        model, setup = self.model, self.setup
        assert isinstance(model, LinearisedClassifier)
        network = model.linear.network
        layers = {name: network.get_submodule(name) for name in model.layers}
        shares = Shares(task, self.config.examples, setup)

        def batches() -> Iterator[tuple[Tensor, Cotangents]]:
            for share in shares:
                yield setup.prepare(share.x), self._noise(share)

        blocks = fit_curvature(kind, network, layers, batches, shares.count, self.distributed)
        if model.head is not None and setup.scenario != "task-incremental":
            blocks[HEAD] = self._head(shares)
        return blocks

    def _noise(self, share: Share) -> Cotangents:
        """What is propagated back from what is linearised."""
        assert isinstance(self.model, LinearisedClassifier)
        head = self.model.head
        competing = self.competing(share.y)
        drawn = output_noise(self.noise, share.size, share.part, competing, self.setup.generator)
        pulled = drawn if head is None else [one @ head.weight.detach() for one in drawn]
        return lambda out: pulled

    @torch.no_grad()
    def _head(self, shares: Shares) -> Outputs:
        """The head's block: the mean product of its inputs, for each output that competes."""
        assert isinstance(self.model, LinearisedClassifier)
        assert self.model.head is not None
        size = self.model.head.in_features + (self.model.head.bias is not None)
        total = self.model.head.weight.new_zeros(size if self.kind == "diag" else (size, size))
        for share in shares:
            x = self.model.linear(self.setup.prepare(share.x))
            x = F.pad(x, (0, size - x.shape[1]), value=1.0)
            total += x.square().sum(0) if self.kind == "diag" else x.T @ x
        rows = self.competing(torch.tensor([shares.task.classes[0]], device=total.device))[0]
        return Outputs(rows, self.distributed.sum(total) / shares.count)

    def _whole(self, task: Task) -> Kronecker:
        """All of the curvature, from all derivatives; [1, P, P], in the order of the part.

        Outputs whose classes have not come yet are in it: with weights of zero they hold nothing
        back but themselves, and what they will be held by once they learn is known already.
        """
        names = {id(p): name for name, p in self.model.named_parameters()}
        weights = {names[id(p)]: p.detach() for p in self.penalty.parts[WHOLE].parameters}
        shares = Shares(task, self.config.examples, self.setup)
        own = self.setup.scenario == "task-incremental"
        size = sum(w.numel() for w in weights.values())
        total = next(iter(weights.values())).new_zeros(size, size)
        for share in shares:
            x = self.setup.prepare(share.x)

            def logits(weights: dict[str, Tensor], x: Tensor = x) -> Tensor:
                found: Tensor = functional_call(self.model, weights, (x,))
                return found

            derivatives = jacrev(logits)(weights).values()
            rows = torch.cat([d.flatten(2) for d in derivatives], 2)
            rows = rows[self.competing(share.y)] if own else rows.flatten(0, 1)
            total += rows.T @ rows
        total = self.distributed.sum(total) / shares.count
        return Kronecker(total.unsqueeze(0), total.new_ones(1, 1, 1))
