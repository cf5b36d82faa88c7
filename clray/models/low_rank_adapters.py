"""Low-rank adapters: a layer's weights stay, and a product of two thin matrices is learned beside.

Hu et al. 2021, LoRA (arXiv 2106.09685), for linear layers and convolutions of one pixel. A layer
answers with W + alpha / rank * B A; A [rank, in] begins at random, B [out, rank] at zero, so that
nothing changes at first. Adapters are merged when that is said, and at no other time: evaluating in
between changes nothing.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import TypeGuard

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Layer = nn.Linear | nn.Conv2d


class LowRankAdapter(nn.Module):
    """A layer with a low-rank addition that learns in its place.

    Args:
        layer: ``nn.Linear``, or a convolution of one pixel without groups and padding.
        rank: of the addition.
        alpha: the addition is scaled by alpha / rank.

    Attributes:
        layer: the one given, as it was.
        down: A, float [rank, in], from torch's global generator.
        up: B, float [out, rank].
    """

    def __init__(self, layer: Layer, rank: int, alpha: float) -> None:
        super().__init__()
        self.layer, self.scaling = layer, alpha / rank
        down = torch.empty(rank, layer.weight.shape[1])
        nn.init.kaiming_uniform_(down, a=math.sqrt(5))
        self.down = nn.Parameter(down.to(layer.weight))
        self.up = nn.Parameter(layer.weight.new_zeros(layer.weight.shape[0], rank))

    @property
    def weight(self) -> Tensor:
        """The layer's weight with the addition, for networks that take it from the layer."""
        added = self.scaling * (self.up @ self.down)
        return self.layer.weight + added.view_as(self.layer.weight)

    @property
    def bias(self) -> Tensor | None:
        """The layer's own."""
        return self.layer.bias

    def forward(self, x: Tensor) -> Tensor:
        """What the layer would answer with the sum as its weight."""
        if isinstance(self.layer, nn.Linear):
            added = F.linear(F.linear(x, self.down), self.up)
        else:
            thin = F.conv2d(x, self.down[:, :, None, None], stride=self.layer.stride)
            added = F.conv2d(thin, self.up[:, :, None, None])
        whole: Tensor = self.layer(x) + self.scaling * added
        return whole

    @torch.no_grad()
    def merge(self) -> Layer:
        """The layer, with the addition in its weight."""
        self.layer.weight.copy_(self.weight)
        return self.layer


def adaptable(network: nn.Module) -> list[Layer]:
    """The layers inside a network that learn and can be adapted.

    Subclasses are left out, whose forward may be another; and layers that share their weight with
    others, which an addition to one would change as well.
    """
    modules = list(network.modules())
    uses = Counter(id(p) for module in modules for p in module.parameters(recurse=False))
    return [
        module
        for module in modules[1:]
        if _fits(module) and module.weight.requires_grad and uses[id(module.weight)] == 1
    ]


def narrowest(layers: Sequence[Layer]) -> int:
    """The smallest of all layers' numbers of inputs and outputs: no rank is above it."""
    return min(min(layer.weight.shape[:2]) for layer in layers)


class Adapted:
    """A network whose layers learn by adapters until they are merged; all else in it is frozen.

    Args:
        network: is changed in place; see ``adaptable`` for its layers.
        rank, alpha: of each adapter.

    Attributes:
        adapters: in the network's order.
    """

    def __init__(self, network: nn.Module, rank: int, alpha: float) -> None:
        self.network = network
        self.learned = [p for p in network.parameters() if p.requires_grad]
        made = {id(layer): LowRankAdapter(layer, rank, alpha) for layer in adaptable(network)}
        self.adapters = list(made.values())
        # A layer may stand in several places.
        self.places = [
            (parent, name, made[id(child)])
            for parent in list(network.modules())
            for name, child in parent._modules.items()
            if id(child) in made
        ]
        for parent, name, adapter in self.places:
            setattr(parent, name, adapter)
        for parameter in self.learned:
            parameter.requires_grad_(False)
        self.merged = False

    @property
    def num_parameters(self) -> int:
        """Of all adapters."""
        return sum(a.down.numel() + a.up.numel() for a in self.adapters)

    def freeze_statistics(self) -> None:
        """Put batch normalisations in evaluation mode, which the frame's ``train_mode`` ends."""
        for module in self.network.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()

    def merge(self) -> None:
        """Put the plain layers back, with what was learned in their weights; what was frozen learns
        again.

        Raises:
            RuntimeError: they are back already.
        """
        if self.merged:
            raise RuntimeError("these adapters were merged before")
        self.merged = True
        for adapter in self.adapters:
            adapter.merge()
        for parent, name, adapter in self.places:
            setattr(parent, name, adapter.layer)
        for parameter in self.learned:
            parameter.requires_grad_(True)
            parameter.grad = None


def _fits(module: nn.Module) -> TypeGuard[Layer]:
    if type(module) is nn.Conv2d:
        plain = module.groups == 1 and module.padding in ((0, 0), "valid", "same")
        return plain and module.kernel_size == (1, 1)
    return type(module) is nn.Linear
