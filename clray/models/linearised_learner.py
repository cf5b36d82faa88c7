"""Learning of a linearised network by a rescaled squared loss: what DLCFT and its bound share."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from clray.errors import BadSpec
from clray.learner import Learner, MethodConfig, Setup
from clray.models.classifier import Classifier
from clray.models.curved_penalty import Accumulate, CurvedPenalty, Part
from clray.models.folding import fold_norms, leak
from clray.models.leak_cost import leak_cost
from clray.models.linearised_classifier import HeadMode, LinearisedClassifier
from clray.models.matrix_layers import num_groups
from clray.models.per_example import check_independent
from clray.models.squared_loss import squared_losses
from clray.task import Task

HEAD = "head of its own"
"""Name of the part of a head that is not linearised."""


class LinearisedConfig(MethodConfig):
    """How the network is linearised, and how it learns then."""

    head: HeadMode = "bilinear"
    """Whether the head learns as it is, on the features of the linearised encoder, or is linearised
    with it: then all that is learned is linear, and the theory exact."""
    anchor: Literal["pretrained", "first-task"] = "pretrained"
    """Weights that the network is linearised around: those that the model begins with, or those
    that the first task, learned by the ordinary network, ends with."""
    fold_norms: bool = True
    """Whether batch normalisation is folded into the layers before it, whose scale then learns;
    else it stays as it is, and learns nothing. Its statistics never change."""
    slope: float = Field(0.0, ge=0, lt=1)
    """Of each ReLU below zero, where the network has some; 0: as they are. The facts of the first
    task say what a change has done to the features; with the anchor at its end, the network adapts
    to it first."""
    target_scale: float = Field(15.0, gt=0)
    """Target of an example's own class; of all others it is 0."""
    schedule: Literal["constant", "linear"] = "linear"
    """Whether the learning rate falls to 0 over each task."""
    ridge: float = Field(1e-5, ge=0)
    """Pull of every weight towards where it began, per example of the whole stream; counted once,
    not once for each task."""


class LinearisedLearner(Learner):
    """Squared loss of a linearised classifier.

    Attributes:
        linear: whether the model is linearised already; until it is, it learns as it is.
        penalty: pulls the steps to zero, or to where old tasks want them.
    """

    hands_over: ClassVar[bool] = False
    learns_head_alone: ClassVar[bool] = False
    config: LinearisedConfig
    accumulate: Accumulate = "factors"

    def __init__(self, config: LinearisedConfig, setup: Setup) -> None:
        super().__init__(config, setup)
        decay = self.optimizer.param_groups[0].get("weight_decay", 0)
        if decay:
            accepted = "0: method.ridge pulls the weights, once for the whole stream"
            raise BadSpec("optimizer.weight_decay", decay, accepted)
        self.head_mode, self.slope, self.ridge = config.head, config.slope, config.ridge
        self.target_scale, self.falls = config.target_scale, config.schedule == "linear"
        in_classes = setup.scenario == "class-incremental"
        self.all_compete = in_classes and config.head == "linearised"
        classifier: Classifier = self.model  # type: ignore[assignment]
        classifier.eval()
        check_independent(classifier)
        if config.fold_norms:
            try:
                fold_norms(classifier.encoder, self.blank)
            except ValueError as error:
                accepted = f"false for this network: {error}"
                raise BadSpec("method.fold_norms", True, accepted) from None
        self.num_leaking = leak(classifier.encoder, config.slope) if config.slope else 0
        self.zero_head = in_classes and config.head == "bilinear"
        self.optimizer = setup.optimizer(classifier.parameters())
        self.linear, self.penalty = False, CurvedPenalty({}, self.accumulate)
        self.lr, self.step_in_task, self.num_steps = 0.0, 0, 1
        if config.anchor == "pretrained":
            self.linearise()

    @property
    def blank(self) -> Tensor:
        """Two black images, prepared; by them is seen which layer follows which, and which ones
        meet each example alone."""
        shape = (2, *self.setup.image_shape)
        return self.setup.prepare(torch.zeros(shape, dtype=torch.uint8, device=self.setup.device))

    def linearise(self) -> None:
        """Go on with steps from the weights as they are."""
        rates = [group["lr"] for group in self.optimizer.param_groups]
        self.model = LinearisedClassifier(self.model, self.head_mode, self.blank)  # type: ignore[arg-type]
        self.optimizer = self.setup.optimizer(
            [p for p in self.model.parameters() if p.requires_grad]
        )
        for group, lr in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = lr
        self.penalty = CurvedPenalty(self.parts(), self.accumulate)
        self.linear = True

    def begin_task(self, task: Task) -> None:
        """Let the learning rate start anew, and in the first task a growing head at zero; say then
        what leaking units change."""
        self.lr = float(self.optimizer.param_groups[0]["lr"])
        self.step_in_task, self.num_steps = 0, self.setup.num_updates(task)
        self.facts: dict[str, Any] | None = None
        if self.zero_head and task.index == 0:
            for weights in self.setup.model.get_submodule("head").parameters():
                nn.init.zeros_(weights)
            self.penalty.recentre()
        if self.num_leaking and task.index == 0:
            encoder = self.setup.model.get_submodule("encoder")
            self.facts = {"leaks": self.num_leaking, **leak_cost(encoder, task, self.setup)}

    def observe(self, x: Tensor, y: Tensor, task: Task) -> dict[str, Tensor]:
        """One step on uint8 [B, C, H, W] and int64 [B]; returns the loss, and the pull's part."""
        logits = self.forward_augmented(x)
        losses = squared_losses(logits, y, self.competing(y), self.target_scale)
        loss = self.distributed.mean(losses)
        total, pull = self.objective(loss, len(task.train)) if self.linear else (loss, {})
        if self.falls:
            left = 1 - self.step_in_task / self.num_steps
            for group in self.optimizer.param_groups:
                group["lr"] = self.lr * left
        self.step_in_task += 1
        self.step(total)
        return {"loss": loss.detach(), **pull}

    def end_task(self, task: Task) -> dict[str, Any] | None:
        """Give the optimizer its learning rate back, and linearise what is not yet."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr
        if not self.linear:
            self.linearise()
        return self.facts

    def objective(self, loss: Tensor, now: int) -> tuple[Tensor, dict[str, Tensor]]:
        """What is minimised, of the mean loss of a task of so many examples, and what it adds."""
        if not self.ridge:
            return loss, {}
        pull = self.penalty(0.0, self.ridge * self.setup.num_examples) / now
        return loss + pull, {"penalty": pull.detach()}

    def competing(self, y: Tensor) -> Tensor:
        """bool [B, C]: the outputs that have a target, 0 but for the example's own class."""
        return torch.ones_like(self.rivals[y]) if self.all_compete else self.rivals[y]

    def parts(self) -> dict[str, Part]:
        """The layers, each with its weights."""
        model: LinearisedClassifier = self.model  # type: ignore[assignment]
        network = model.linear.network
        parts = {
            name: Part(model.steps_of(name), num_groups(network.get_submodule(name)))
            for name in model.layers
        }
        if model.head is not None:
            parts[HEAD] = Part(tuple(model.head.parameters()), 1)
        return parts

    def train_mode(self, training: bool) -> None:
        """Leave the network in evaluation mode: its statistics never change."""
        super().train_mode(False)
