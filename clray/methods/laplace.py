"""Online Laplace: an ordinary network, pulled along the curvature that old tasks leave behind.

Ritter, Botev & Barber 2018 (arXiv 1805.07810), with Kronecker factors; with ``curvature: diag``,
online elastic weight consolidation (``ewc``; Schwarz et al. 2018, arXiv 1805.06370).

These are the controls of ``dlcft``, and weigh tasks as it does: with n examples of the task, N of
those before it, and the mean curvature H of these around the last weights w*,

    (n * mean loss + past_weight * N / 2 * (w - w*)' H (w - w*)) / (n + N)

is minimised. Of cross-entropy, H is the Fisher information, which vanishes as a task is learned and
knows nothing of classes to come. With ``loss: squared``, the loss is the rescaled one of ``dlcft``,
H its Gauss-Newton matrix, and new classes are treated as there: all that is left to differ is that
the network is not linear in its weights.

Differences. Ritter et al.'s text was not at hand; as remembered, they search a multiplier of each
task's curvature, which here is ``past_weight``, and have fully connected layers. Factors of tasks
are averaged, or each task's kept; those of convolutions are as in Grosse & Martens 2016 (arXiv
1602.01407). Parameters of other layers than Linear and convolutions, and of layers that are used
more than once, have a diagonal.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from clray.learner import Learner, Setup
from clray.models.curvature import Block, Diagonal, Kronecker, Outputs, joined
from clray.models.curvature_config import CurvatureConfig
from clray.models.curvature_fit import Cotangents, Kind, fit_curvature
from clray.models.curved_penalty import CurvedPenalty, Part
from clray.models.label_losses import LabelLosses, Labels
from clray.models.linearised_classifier import matrix_layers
from clray.models.matrix_layers import num_groups
from clray.models.per_example import (
    Losses,
    check_independent,
    cotangents_of,
    mean_squared_gradients,
)
from clray.models.squared_loss import output_noise, squared_losses
from clray.models.task_sample import Share, Shares
from clray.spec import STABILITY
from clray.task import Task

HEAD = "head"
"""Name of the head in the model."""
REST = "all else"
"""Name of the part of all parameters that have a diagonal."""


class Config(CurvatureConfig):
    """Knobs of online Laplace."""

    curvature: Literal["none", "diag", "kfac", "tkfac", "ekfac"] = "kfac"
    """What is kept of it: nothing; its diagonal; two Kronecker factors of each layer; these with
    the right trace, or with moments along their eigenvectors."""
    loss: Literal["cross-entropy", "squared"] = "cross-entropy"
    """What is learned by."""
    labels: Annotated[Labels, STABILITY] = "sampled"
    """Of cross-entropy, the labels that gradients are taken for: those of the data, one for each
    example sampled from the model's prediction, or all, weighted by it."""
    target_scale: float = Field(15.0, gt=0)
    """Of the squared loss, the target of an example's own class; of all others it is 0."""


class Laplace(Learner):
    """The task's loss on an ordinary network, and the quadratic of all tasks before it."""

    config: Config

    def __init__(self, config: Config, setup: Setup) -> None:
        super().__init__(config, setup)
        check_independent(self.model)
        self.kind: Kind | None = None if config.curvature == "none" else config.curvature
        self.noise, self.target_scale = config.noise, config.target_scale
        self.squared = config.loss == "squared"
        # Its outputs have a squared loss each, so that its curvature is known.
        self.exact_head = self.squared and setup.scenario != "task-incremental"
        self.layers = [] if self.kind in (None, "diag") else self._layers()
        self.rest: list[str] = []
        parts = {} if self.kind is None else self._parts()
        self.penalty = CurvedPenalty(parts, config.accumulate)

    def begin_task(self, task: Task) -> None:
        """Let outputs that join now be held like all others."""
        if not self.squared or self.setup.scenario != "class-incremental":
            return
        if task.index == 0:
            for weights in self.model.get_submodule(HEAD).parameters():
                nn.init.zeros_(weights)
        if HEAD in self.penalty.blocks:
            rows = self.rivals[task.classes[0]]
            self.penalty.blocks[HEAD] = joined(self.penalty.blocks[HEAD], rows)

    def observe(self, x: Tensor, y: Tensor, task: Task) -> dict[str, Tensor]:
        """One step on uint8 [B, C, H, W] and int64 [B]; returns the loss, and the pull's part."""
        logits = self.forward_augmented(x)
        if self.squared:
            losses = squared_losses(logits, y, self.rivals[y], self.target_scale)
            loss = self.distributed.mean(losses)
        else:
            loss = self.cross_entropy(logits, y)
        now, past = len(task.train), self.penalty.examples
        if not past:
            self.step(loss)
            return {"loss": loss.detach()}
        damping = self.config.damping * (now + past)
        pull = self.penalty(self.config.past_weight, damping) / (now + past)
        self.step(loss * (now / (now + past)) + pull)
        return {"loss": loss.detach(), "penalty": pull.detach()}

    def end_task(self, task: Task) -> None:
        """Add the task's curvature to that of all before."""
        if self.kind is not None:
            self.train_mode(False)
            self.penalty.add(self.curvature_of(task), len(task.train))
            self.train_mode(True)

    def footprint(self) -> dict[str, int]:
        """The model's, and the bytes of curvature and centres."""
        kept = super().footprint()
        return {**kept, "bytes": kept["bytes"] + self.penalty.num_bytes}

    def curvature_of(self, task: Task) -> dict[str, Block]:
        """The mean curvature of the loss on a task, by part; the model is in evaluation mode."""
        shares = Shares(task, self.config.examples, self.setup)
        blocks: dict[str, Block] = {}
        if self.layers and self.kind is not None:
            blocks = self._fit(self.kind, self.layers, shares)
        if self.rest:
            found = mean_squared_gradients(self.model, shares, self._losses, self.rest)
            packed = self.penalty.parts[REST].pack([found[name] for name in self.rest])
            blocks[REST] = Diagonal(packed)
        if self.exact_head:
            factors = self._fit("kfac", [HEAD], shares)[HEAD]
            assert isinstance(factors, Kronecker)
            inputs = factors.inputs[0].diagonal() if self.kind == "diag" else factors.inputs[0]
            blocks[HEAD] = Outputs(self.rivals[task.classes[0]].clone(), inputs)
        return blocks

    def _fit(self, kind: Kind, names: list[str], shares: Shares) -> dict[str, Block]:
        """The curvature of layers."""
        layers = {name: self.model.get_submodule(name) for name in names}

        def batches() -> Iterator[tuple[Tensor, Cotangents]]:
            for share in shares:
                yield self.setup.prepare(share.x), cotangents_of(self._losses(share))

        return fit_curvature(kind, self.model, layers, batches, shares.count, self.distributed)

    def _losses(self, share: Share) -> Losses:
        """Of each example, what has squared gradients that make the curvature."""
        rivals, generator = self.rivals, self.setup.generator
        if not self.squared:
            return LabelLosses.of(self.config.labels, rivals, share, generator)
        drawn = output_noise(self.noise, share.size, share.part, rivals[share.y], generator)
        return lambda out: torch.stack([(out * one).sum(1) for one in drawn])

    def _layers(self) -> list[str]:
        """Those with Kronecker factors."""
        shape = (2, *self.setup.image_shape)  # by two examples it is seen which meet each of them
        x = self.setup.prepare(torch.zeros(shape, dtype=torch.uint8, device=self.setup.device))
        self.model.eval()
        found = list(matrix_layers(self.model, x))
        self.model.train()
        return [name for name in found if name != HEAD or not self.exact_head]

    def _parts(self) -> dict[str, Part]:
        """All parameters that learn."""
        parts = {}
        for name in [*self.layers, HEAD] if self.exact_head else self.layers:
            module = self.model.get_submodule(name)
            parts[name] = Part(tuple(module.parameters()), num_groups(module))
        taken = {id(p) for part in parts.values() for p in part.parameters}
        learning = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
        self.rest = [name for name, p in learning.items() if id(p) not in taken]
        if self.rest:
            parts[REST] = Part(tuple(learning[name] for name in self.rest), None)
        return parts
