"""ResNet-18 with a third of the channels, for small images (Lopez-Paz & Ranzato 2017).

GEM, arXiv 1706.08840; the blocks are those of He et al. 2016 (arXiv 1512.03385). Stem: one 3x3
convolution of stride 1, no pooling. Difference: the average pool is global, so that images need
not be 32x32 (it is the same for those).
"""

from __future__ import annotations

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from clray.models.classifier import Classifier, ModelConfig


class Config(ModelConfig):
    """Knobs of the slim ResNet-18."""

    width: int = Field(20, ge=1)
    """Channels of the first stage; the others have 2, 4 and 8 times as many (64: ResNet-18)."""

    def build(
        self, variant: str, image_shape: tuple[int, int, int], num_classes: int
    ) -> Classifier:
        """The network for images (C, H, W) of any size."""
        width = self.width
        layers: list[nn.Module] = [
            nn.Conv2d(image_shape[0], width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
        ]
        channels = width
        for factor, stride in ((1, 1), (2, 2), (4, 2), (8, 2)):
            for block_stride in (stride, 1):
                layers.append(Block(channels, width * factor, block_stride))
                channels = width * factor
        layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        return Classifier(nn.Sequential(*layers), nn.Linear(channels, num_classes))


class Block(nn.Module):
    """Two 3x3 convolutions with batch normalisation, and a shortcut around them."""

    def __init__(self, channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out_channels, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(out_channels)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels != out_channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels, out_channels, 1, stride, bias=False),
                nn.BatchNorm2d(out_channels),
            )

    def forward(self, x: Tensor) -> Tensor:
        """Float [B, C, H, W] to [B, C', H / stride, W / stride]."""
        out = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(out)) + self.shortcut(x))
