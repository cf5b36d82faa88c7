"""CODA-Prompt: prompts that are sums of components, each weighted by how an image attends to it.

Smith, Karlinsky, Gutta, Cascante-Bonilla, Kim, Arbelle, Panda, Feris & Kira 2023 (CVPR, arXiv
2211.13218).

A frozen vision transformer gives the query q(x), its [CLS] feature. Each of its first
``num_layers`` layers has components m with a key K_m, an attention A_m (both [D]) and a prompt P_m
[length, D]. An image's prompt there is

    sum over m of cos(q(x) * A_m, K_m) P_m      (* elementwise);

its first half goes before the keys, its second half before the values of the layer's
self-attention (prefix tuning), and the classifier reads the transformer's own feature. Components
are shared out evenly among the stream's tasks: each task adds its own, those of earlier tasks stay
as they were, and all so far have a part in the sum. New ones are drawn from N(0, 1) and made
orthogonal to all before them and to one another, of length 1: keys, attentions and prompts apart.
The loss is

    cross-entropy + orthogonality * sum over layers and over V in {K, A, P} of mean((V V' - I)^2).

``compete: task``, the default, lets the current task's classes alone compete in the cross-entropy,
as published; what that means is told in ``clray/methods/l2p.py``.

Differences:

- ``orthogonality`` is 0 by default, as in the authors' code since new components begin orthogonal
  (and in Mammoth). The paper has 0.1. So had the first release, on the mean as here, but divided by
  10^6, which is next to nothing; it drew all components at the start.
- The authors subtract projections onto each earlier component in turn, which leaves new components
  orthogonal to old ones only as far as these, which were learned, are so among themselves; here
  they are orthogonal to all, to rounding in float64. That takes as many dimensions as components.
- ``schedule: cosine`` goes from the learning rate to 0, step by step, along half a wave; the
  authors' by epochs, along the first quarter, to 1.6% of it: 27% more on the average.
- The optimizer begins afresh with each task, whatever ``optimizer.reset`` says, as published: Adam
  at 0.001, 128 a batch, 20 epochs on CIFAR-100, 50 on ImageNet-R.
- Pixels there are in [0, 1] without normalisation (``mean: [0, 0, 0]``, ``std: [1, 1, 1]``); here
  the model says.
- With weight decay, the authors' frozen components decay; here they are no parameters any more.
- Cosines come from two matrix products, without one product of query and attention per image and
  component: sum q A K = q (A K)', |q A|^2 = q^2 (A^2)'.
- The published code takes the number of components for granted to be a multiple of that of tasks;
  what is left over is not used, there and here.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from clray.errors import BadSpec
from clray.learner import Setup
from clray.models.learning_schedule import LearningSchedule
from clray.models.prompt_learner import PromptConfig, PromptLearner
from clray.models.prompted_vit import check_layers, with_prefixes
from clray.spec import PLASTICITY
from clray.task import Task

SMALLEST = 1e-24
"""Of a squared length that is divided by."""


class Config(PromptConfig):
    """Knobs of CODA-Prompt."""

    components: int = Field(100, ge=1)
    """Of each layer, over all tasks."""
    length: int = Field(8, ge=2, multiple_of=2)
    """Of a prompt: half of it keys, half of it values."""
    num_layers: int = Field(5, ge=1)
    """How many of the first layers get prompts."""
    orthogonality: Annotated[float, PLASTICITY] = Field(0.0, ge=0)
    """Weight of the penalty for components that are not orthogonal, against a mean cross-entropy
    of 1."""
    schedule: Literal["constant", "cosine"] = "cosine"
    """What the learning rate does while a task is learned: nothing, or fall to 0."""


class Components(nn.Module):
    """Components of several layers, of which the current task's learn.

    A component is one row: its key, its attention and its prompt.

    Args:
        num_layers: L.
        num_tasks: that the stream has.
        per_task: how many each task adds.
        length: of a prompt.
        width: D, of a token.
        generator: draws what they begin as, on the CPU.

    Attributes:
        new: [L, per_task, (2 + length) * D], the current task's.
        old: [L, per_task * (num_tasks - 1), (2 + length) * D], of which the first ``num_old`` in
            each layer are earlier tasks'.
    """

    old: Tensor

    def __init__(
        self,
        num_layers: int,
        num_tasks: int,
        per_task: int,
        length: int,
        width: int,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.parts = [width, width, length * width]
        self.length, self.num_old = length, 0
        size = sum(self.parts)
        self.register_buffer("old", torch.zeros(num_layers, per_task * (num_tasks - 1), size))
        self.new = nn.Parameter(torch.zeros(num_layers, per_task, size))
        self._draw(generator)

    @torch.no_grad()
    def expand(self, generator: torch.Generator) -> None:
        """Freeze what was learned, and begin with new components beside it."""
        count = self.new.shape[1]
        self.old[:, self.num_old : self.num_old + count] = self.new
        self.num_old += count
        self._draw(generator)

    def rows(self) -> Tensor:
        """All components so far, [L, M, (2 + length) * D]."""
        return torch.cat([self.old[:, : self.num_old], self.new], 1)

    def split(self, rows: Tensor) -> tuple[Tensor, ...]:
        """Keys and attentions [L, M, D], and prompts [L, M, length * D], of rows."""
        return torch.split(rows, self.parts, 2)

    def forward(self, query: Tensor) -> Tensor:
        """Prompts [L, B, length, D] for queries [B, D]."""
        keys, attentions, prompts = self.split(self.rows())
        products = query @ (attentions * F.normalize(keys, dim=2)).mT
        squares = query.square() @ attentions.square().mT
        cosines = products * squares.clamp_min(SMALLEST).rsqrt()
        return (cosines @ prompts).reshape(*cosines.shape[:2], self.length, -1)

    def penalty(self) -> Tensor:
        """How far components are from orthogonal, 0-d."""
        total = self.new.new_zeros(())
        for part in self.split(self.rows()):
            gap = part @ part.mT - torch.eye(part.shape[1], device=part.device)
            total = total + gap.square().mean((1, 2)).sum()
        return total

    @torch.no_grad()
    def _draw(self, generator: torch.Generator) -> None:
        """New components, drawn on the CPU: orthogonal to the old ones and among themselves."""
        old = self.old[:, : self.num_old].double().cpu()
        drawn = torch.randn(self.new.shape, generator=generator, dtype=torch.float64)
        made = []
        for before, fresh in zip(self.split(old), self.split(drawn), strict=True):
            directions, heights = torch.linalg.qr(torch.cat([before, fresh], 1).mT)
            signs = heights.diagonal(dim1=1, dim2=2).sign()  # as Gram and Schmidt have them
            made.append((directions * signs.unsqueeze(1)).mT[:, self.num_old :])
        self.new.copy_(torch.cat(made, 2))


class CodaPrompt(PromptLearner):
    """Cross-entropy from prompts that are sums of components."""

    config: Config

    def __init__(self, config: Config, setup: Setup) -> None:
        super().__init__(config, setup)
        check_layers(self.network, config.num_layers, "coda_prompt")
        where = "method coda_prompt: components"
        if config.components > self.width:
            accepted = f"at most {self.width}, so many features: they are orthogonal"
            raise BadSpec(where, config.components, accepted)
        if config.components < setup.num_tasks:
            accepted = f"at least {setup.num_tasks}, one for each task"
            raise BadSpec(where, config.components, accepted)
        per_task = config.components // setup.num_tasks
        self.components = Components(
            config.num_layers,
            setup.num_tasks,
            per_task,
            config.length,
            self.width,
            setup.generator,
        )
        self.take_up(self.components)
        self.schedule = config.schedule
        self.steps: LearningSchedule | None = None

    def begin_task(self, task: Task) -> None:
        """Freeze the components of the task before, and begin with new ones."""
        if self.steps is not None:
            self.components.expand(self.setup.generator)
        super().begin_task(task)
        self.steps = LearningSchedule(self.optimizer, self.schedule, self.setup.num_updates(task))

    def observe(self, x: Tensor, y: Tensor, task: Task) -> dict[str, Tensor]:
        """One step on uint8 [B, C, H, W] and int64 [B]; returns the loss and its penalty."""
        told = super().observe(x, y, task)
        if self.steps is not None:
            self.steps.step()
        return told

    def prompted(self, tokens: Tensor, query: Tensor) -> tuple[Tensor, Tensor | None]:
        """See ``PromptLearner.prompted``."""
        features = with_prefixes(self.network, tokens, self.components(query))
        weight = self.config.orthogonality
        return features, weight * self.components.penalty() if weight else None

    def footprint(self) -> dict[str, int]:
        """The model's, and the frozen components."""
        kept = super().footprint()
        frozen = self.components.old[:, : self.components.num_old].numel()
        return {**kept, "parameters": kept["parameters"] + frozen}
