"""LeNet-like network, Conv 20-50 and FC 800-500 (Yoon et al. 2020, arXiv 1902.09432).

Two 5x5 convolutions, each with ReLU and 2x2 max pooling, and two hidden layers. The convolutions
are padded by 2 so that 8x8, 28x28 and 32x32 images all fit: a side of s leaves floor(s / 4), at
least 1. LeCun et al. 1998 do not pad. With ``batch_norm`` it is the network of HALRP (Li et al.
2024, arXiv 2311.15161); its Omniglot network has ``channels: [64, 128]`` and ``hidden: [2500,
1500]``.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from torch import nn

from clray.errors import BadSpec
from clray.models.classifier import Classifier, ModelConfig

Width = Annotated[int, Field(ge=1)]


class Config(ModelConfig):
    """Knobs of the LeNet-like network."""

    channels: tuple[Width, Width] = (20, 50)
    """Channels of the two convolutions."""
    hidden: tuple[Width, ...] = (800, 500)
    """Width of each hidden layer after them."""
    batch_norm: bool = False
    """Whether each convolution and each hidden layer is normalised over the batch before ReLU."""

    def build(
        self, variant: str, image_shape: tuple[int, int, int], num_classes: int
    ) -> Classifier:
        """The network for images (C, H, W) with both sides at least 4.

        Raises:
            BadSpec: the images are smaller.
        """
        planes, height, width = image_shape
        if min(height, width) < 4:
            raise BadSpec("model lenet: image size", (height, width), "4 x 4 or more")
        layers: list[nn.Module] = []
        for size in self.channels:
            layers.append(nn.Conv2d(planes, size, 5, padding=2))
            if self.batch_norm:
                layers.append(nn.BatchNorm2d(size))
            layers += [nn.ReLU(), nn.MaxPool2d(2)]
            planes = size
        layers.append(nn.Flatten())
        features = planes * (height // 4) * (width // 4)
        for size in self.hidden:
            layers.append(nn.Linear(features, size))
            if self.batch_norm:
                layers.append(nn.BatchNorm1d(size))
            layers.append(nn.ReLU())
            features = size
        return Classifier(nn.Sequential(*layers), nn.Linear(features, num_classes))
