"""AlexNet for small images: three convolutions, two hidden layers (Li et al. 2024, HALRP).

arXiv 2311.15161; the layers are those of Serrà et al. 2018 (HAT, arXiv 1801.01423), with batch
normalisation. Convolutions of 4x4, 3x3 and 2x2, not padded, each with batch normalisation, ReLU,
dropout and 2x2 max pooling, then two hidden layers with batch normalisation, ReLU and dropout.
Difference: the released network keeps no running statistics, so that a prediction depends on the
other images of its batch; here it does not, unless ``running_stats`` is off.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from torch import nn

from clray.errors import BadSpec
from clray.models.classifier import Classifier, ModelConfig

KERNELS = (4, 3, 2)
CONVOLUTION_DROPOUT = (0.2, 0.2, 0.5)
HIDDEN_DROPOUT = 0.5
SMALLEST = 19
"""Pixels; a side below leaves nothing after the third pooling."""


class Config(ModelConfig):
    """Knobs of the small AlexNet."""

    width: int = Field(64, ge=1)
    """Channels of the first convolution; the others have 2 and 4 times as many."""
    hidden: tuple[Annotated[int, Field(ge=1)], ...] = (2048, 2048)
    """Width of each hidden layer after them."""
    dropout: bool = True
    """Whether units are dropped while training: 0.2, 0.2 and 0.5 after the convolutions, 0.5 after
    each hidden layer."""
    running_stats: bool = True
    """Whether batch normalisation keeps running statistics to predict with; off: every batch is
    normalised by its own, as released."""

    def build(
        self, variant: str, image_shape: tuple[int, int, int], num_classes: int
    ) -> Classifier:
        """The network for images (C, H, W) with both sides at least 19.

        Raises:
            BadSpec: the images are smaller.
        """
        planes, *sides = image_shape
        if min(sides) < SMALLEST:
            accepted = f"{SMALLEST} x {SMALLEST} or more"
            raise BadSpec("model small_alexnet: image size", tuple(sides), accepted)
        layers: list[nn.Module] = []
        for i, kernel in enumerate(KERNELS):
            size = self.width * 2**i
            layers += [
                nn.Conv2d(planes, size, kernel),
                nn.BatchNorm2d(size, track_running_stats=self.running_stats),
                nn.ReLU(),
                *self._drop(CONVOLUTION_DROPOUT[i]),
                nn.MaxPool2d(2),
            ]
            planes = size
            sides = [(side - kernel + 1) // 2 for side in sides]
        layers.append(nn.Flatten())
        features = planes * sides[0] * sides[1]
        for size in self.hidden:
            layers += [
                nn.Linear(features, size),
                nn.BatchNorm1d(size, track_running_stats=self.running_stats),
                nn.ReLU(),
                *self._drop(HIDDEN_DROPOUT),
            ]
            features = size
        return Classifier(nn.Sequential(*layers), nn.Linear(features, num_classes))

    def _drop(self, share: float) -> list[nn.Module]:
        return [nn.Dropout(share)] if self.dropout else []
