"""ResNet-18 with a third of the channels, for small images (Lopez-Paz & Ranzato 2017).

GEM, arXiv 1706.08840; the blocks are those of He et al. 2016 (arXiv 1512.03385). Stem: one 3x3
convolution of stride 1, no pooling. Difference: the average pool is global, so that images need
not be 32x32 (it is the same for those). The network of HALRP (Li et al. 2024, arXiv 2311.15161) has
``width: 32, bias: true, pool: 2``.
"""

from __future__ import annotations

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from clray.errors import BadSpec
from clray.models.classifier import Classifier, ModelConfig


class Config(ModelConfig):
    """Knobs of the slim ResNet-18."""

    width: int = Field(20, ge=1)
    """Channels of the first stage; the others have 2, 4 and 8 times as many (64: ResNet-18)."""
    bias: bool = False
    """Whether convolutions have biases."""
    pool: int | None = Field(None, ge=1)
    """Side of the windows that the last features, one in 8 x 8 pixels, are averaged over; none:
    all of the image."""

    def build(
        self, variant: str, image_shape: tuple[int, int, int], num_classes: int
    ) -> Classifier:
        """The network for images (C, H, W) of any size; with ``pool``, of one window or more.

        Raises:
            BadSpec: the images are smaller.
        """
        planes, *sides = image_shape
        pool, num_windows = self._pool(sides)
        width = self.width
        layers: list[nn.Module] = [
            nn.Conv2d(planes, width, 3, padding=1, bias=self.bias),
            nn.BatchNorm2d(width),
            nn.ReLU(),
        ]
        channels = width
        for factor, stride in ((1, 1), (2, 2), (4, 2), (8, 2)):
            for block_stride in (stride, 1):
                layers.append(Block(channels, width * factor, block_stride, self.bias))
                channels = width * factor
        layers += [pool, nn.Flatten()]
        head = nn.Linear(channels * num_windows, num_classes)
        return Classifier(nn.Sequential(*layers), head)

    def _pool(self, sides: list[int]) -> tuple[nn.Module, int]:
        """The average pool, and how many windows it has."""
        if self.pool is None:
            return nn.AdaptiveAvgPool2d(1), 1
        height, width = (-(-side // 8) // self.pool for side in sides)  # three strides of 2
        if not height * width:
            least = 8 * self.pool - 7
            accepted = f"{least} x {least} or more, with pool: {self.pool}"
            raise BadSpec("model slim_resnet18: image size", tuple(sides), accepted)
        return nn.AvgPool2d(self.pool), height * width


class Block(nn.Module):
    """Two 3x3 convolutions with batch normalisation, and a shortcut around them."""

    def __init__(self, channels: int, out_channels: int, stride: int, bias: bool = False) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out_channels, 3, stride, padding=1, bias=bias)
        self.norm1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=bias)
        self.norm2 = nn.BatchNorm2d(out_channels)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels != out_channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels, out_channels, 1, stride, bias=bias),
                nn.BatchNorm2d(out_channels),
            )

    def forward(self, x: Tensor) -> Tensor:
        """Float [B, C, H, W] to [B, C', H / stride, W / stride]."""
        out = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(out)) + self.shortcut(x))
