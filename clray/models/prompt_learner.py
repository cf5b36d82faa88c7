"""What methods share that learn prompts for a frozen vision transformer, and a linear head.

An example's query is its feature from the transformer without prompts (the [CLS] token, in most),
so each batch goes through the transformer twice, the first time without a gradient.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from clray.learner import Learner, MethodConfig, Setup
from clray.models.prompted_vit import check_transformer, embedded, pooled
from clray.task import Task


class PromptConfig(MethodConfig):
    """Knobs of every method that learns prompts."""

    compete: Literal["task", "protocol"] = "task"
    """Which units compete in the training loss: those of the current task's classes alone, as
    published, or (protocol) those that ``protocol.head`` says."""


class PromptLearner(Learner):
    """Learns the head of a model and prompts, which become a part of the model.

    Raises:
        BadSpec: the model is no frozen vision transformer of timm's that reads images.
    """

    config: PromptConfig
    frozen_encoder: ClassVar[bool] = True
    vision_transformer: ClassVar[bool] = True
    hands_over: ClassVar[bool] = False

    def __init__(self, config: PromptConfig, setup: Setup) -> None:
        check_transformer(setup.model, type(self).__module__.rpartition(".")[2])
        super().__init__(config, setup)
        self.alone = config.compete == "task"
        self.own = torch.ones(setup.num_classes, dtype=torch.bool, device=setup.device)

    def take_up(self, prompts: nn.Module) -> None:
        """Make the prompts a part of the model, which the optimizer of each task learns."""
        self.model.prompts = prompts.to(self.setup.device)

    @abstractmethod
    def prompted(self, tokens: Tensor, query: Tensor) -> tuple[Tensor, Tensor | None]:
        """Features [B, D] of tokens [B, T, D] with prompts that a query [B, D] asks for, and what
        is added to each example's loss, [B] or 0-d; None: nothing."""

    @property
    def network(self) -> Any:
        """The ``VisionTransformer``."""
        encoder: Any = self.model.encoder
        return encoder.network

    @property
    def width(self) -> int:
        """D, of its tokens."""
        return int(self.network.embed_dim)

    def begin_task(self, task: Task) -> None:
        """Begin with a new optimizer; let the task's classes alone compete, where so asked for."""
        self.optimizer = self.setup.optimizer(self.model.parameters())
        if self.alone:
            self.own.fill_(False)
            self.own[list(task.classes)] = True

    def observe(self, x: Tensor, y: Tensor, task: Task) -> dict[str, Tensor]:
        """One step on uint8 [B, C, H, W] and int64 [B]; returns the loss and its penalty."""
        features, penalty = self.prompted(*self.asked(self.setup.augment(x)))
        logits = self.model.head(features)  # type: ignore[operator]
        if self.alone:
            logits = logits.masked_fill(~self.own, -torch.inf)
        loss = self.cross_entropy(logits, y)
        told = {}
        if penalty is not None:
            penalty = self.distributed.mean(penalty) if penalty.dim() else penalty
            loss = loss + penalty
            told["penalty"] = penalty.detach()
        self.step(loss)
        return {"loss": loss.detach(), **told}

    def forward(self, x: Tensor) -> Tensor:
        """Logits [B, num_classes] for uint8 [B, C, H, W]."""
        features, _ = self.prompted(*self.asked(x))
        logits: Tensor = self.model.head(features)  # type: ignore[operator]
        return logits

    @torch.no_grad()
    def asked(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens [B, T, D] and queries [B, D] of uint8 [B, C, H, W]."""
        encoder: Any = self.model.encoder
        inputs = encoder.prepared(self.setup.prepare(x))
        tokens = embedded(self.network, inputs)
        return tokens, pooled(self.network, self.network.blocks(tokens))
