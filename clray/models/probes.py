"""What the two probes share: a small network on a frozen encoder's features, trained in the stream.

They are the baselines of the discrete key-value bottleneck (Träuble et al. 2023, arXiv 2207.11240),
whose released runs have plain SGD at a step of 0.001, batches of 256, label smoothing 0.1 and a
clipped gradient. How well a probe does in a stream hangs on its step: in steps small enough, logits
stay near 0, gradients nearly the same throughout, and so the order of classes hardly matters. A
comparison is fair only where the step is searched downwards too, to 1e-5; the released one is a
single value.

Differences:

- ``begin: zeros``, the default, lets no random logits drown what small steps learn; the released
  code begins as torch does (``default``).
- ``standardise``, on by default and not in the released code, shifts and scales each feature to
  mean 0 and variance 1 over the stream so far, the current batch included: each example once, in
  the first pass over its task. So one range of steps serves all encoders.
- Smoothing spreads over the units that compete in the example's loss, not over all there are.

On ten tasks of one class of CIFAR-10 (MobileNetV1's features at 96 px, one pass, growing head,
validation, one seed), the linear probe's average accuracy is 0.59, 0.58, 0.51, 0.46 and 0.44 at
steps of 1e-5, 1e-4 ... 0.1; begun as torch does, 0.14 at 1e-4; on features as they are, 0.10 at
all five. With a fixed head, the best over steps from 1e-6 to 1e-2 are 0.53 and, on features as they
are, 0.28.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from clray.distributed import Distributed
from clray.learner import Learner, MethodConfig, Setup
from clray.spec import PLASTICITY
from clray.task import Task

NOISE = 1e-12
"""Of a squared mean: a variance below it is float32's rounding."""


class ProbeConfig(MethodConfig):
    """Knobs of both probes."""

    bias: bool = True
    """Whether layers have biases."""
    smoothing: Annotated[float, PLASTICITY] = Field(0.0, ge=0, lt=1)
    """Share of each target that is spread evenly over the units which compete in the loss."""
    standardise: bool = True
    """Whether features are shifted and scaled by their statistics over the stream so far."""
    begin: Literal["zeros", "default"] = "zeros"
    """What the weights of the last layer begin as: zero, or as torch's linear layers do."""


class Standardise(nn.Module):
    """Shifts and scales features by their mean and deviation so far.

    A feature that has not varied yet is shifted alone.

    Args:
        num_features: D.
    """

    count: Tensor
    mean: Tensor
    squares: Tensor

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))
        self.register_buffer("mean", torch.zeros(num_features, dtype=torch.float64))
        self.register_buffer("squares", torch.zeros(num_features, dtype=torch.float64))

    def add(self, features: Tensor, distributed: Distributed) -> None:
        """Count all workers' features [B, D]."""
        gap = features.double() - self.mean
        size = gap.new_full((1,), len(gap))
        sums = distributed.sum(torch.cat([size, gap.sum(0), gap.square().sum(0)]))
        gaps, squares = sums[1:].chunk(2)
        self.count += sums[0]
        shift = gaps / self.count
        self.mean += shift
        self.squares += squares - gaps * shift

    def forward(self, features: Tensor) -> Tensor:
        """float32 [B, D] to the same."""
        variance = self.squares / self.count.clamp_min(1)
        varies = variance > NOISE * self.mean.square()
        scale = torch.where(varies, variance, 1.0).rsqrt()
        return (features - self.mean.float()) * scale.float()


class Probe(nn.Module):
    """Layers on features, in place of a model's head.

    Args:
        widths: of the features, of hidden layers if any (ReLU), and the number of classes.
        config: the knobs.
        generator: draws the weights, on the CPU.
    """

    def __init__(self, widths: list[int], config: ProbeConfig, generator: torch.Generator) -> None:
        super().__init__()
        self.standardise = Standardise(widths[0]) if config.standardise else None
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise(widths):
            layer = nn.Linear(inputs, outputs, bias=config.bias)
            for weights in layer.parameters():  # torch's own distribution, from our generator
                nn.init.uniform_(weights, -(inputs**-0.5), inputs**-0.5, generator)
            layers += [layer, nn.ReLU()]
        self.layers = nn.Sequential(*layers[:-1])
        if config.begin == "zeros":
            for weights in layers[-2].parameters():
                nn.init.zeros_(weights)

    def forward(self, features: Tensor) -> Tensor:
        """Logits [B, C] for features float32 [B, D]."""
        inputs = features if self.standardise is None else self.standardise(features)
        logits: Tensor = self.layers(inputs)
        return logits


class ProbeLearner(Learner):
    """Trains a probe with the protocol's optimizer, on augmented images where there are any."""

    config: ProbeConfig
    frozen_encoder: ClassVar[bool] = True
    hands_over: ClassVar[bool] = False

    def __init__(self, config: ProbeConfig, setup: Setup, hidden: list[int]) -> None:
        super().__init__(config, setup)
        old: nn.Linear = self.model.head  # type: ignore[assignment]
        widths = [old.in_features, *hidden, setup.num_classes]
        self.probe = Probe(widths, config, setup.generator).to(setup.device)
        self.model.head = self.probe
        self.optimizer = setup.optimizer(self.probe.parameters())
        self.counting = False

    def begin_epoch(self, task: Task, epoch: int, num_epochs: int) -> None:
        """Count examples in the first epoch only."""
        self.counting = epoch == 0

    def observe(self, x: Tensor, y: Tensor, task: Task) -> dict[str, Tensor]:
        """One step on uint8 [B, C, H, W] and int64 [B]; returns the loss."""
        features = self.features(self.setup.augment(x))
        if self.counting and self.probe.standardise is not None:
            self.probe.standardise.add(features, self.distributed)
        loss = self._loss(self.probe(features), y)
        self.step(loss)
        return {"loss": loss.detach()}

    def _loss(self, logits: Tensor, y: Tensor) -> Tensor:
        """Mean cross-entropy with smoothed targets, over all workers' examples."""
        share = self.config.smoothing
        if share == 0:
            return self.cross_entropy(logits, y)
        rivals = self.rivals[y]
        log_p = logits.masked_fill(~rivals, -torch.inf).log_softmax(1)
        own = log_p.gather(1, y.unsqueeze(1)).squeeze(1)
        even = log_p.masked_fill(~rivals, 0).sum(1) / rivals.sum(1)
        return -self.distributed.mean((1 - share) * own + share * even)
