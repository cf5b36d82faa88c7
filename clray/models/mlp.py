"""Fully connected network with ReLU (default: 256-256, van de Ven & Tolias 2019 use 400-400).

Images are flattened; layers have torch's default initialisation.
"""

from __future__ import annotations

import math
from typing import Annotated, ClassVar, Literal

from pydantic import Field
from torch import nn

from clray.models.classifier import Classifier, ModelConfig


class Config(ModelConfig):
    """Knobs of the fully connected network."""

    takes_features: ClassVar[bool] = True

    hidden: tuple[Annotated[int, Field(ge=1)], ...] = (256, 256)
    """Width of each hidden layer; empty: a linear classifier."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Share of each hidden layer's units that is dropped while training."""
    norm: Literal["none", "layer"] = "none"
    """Normalisation of the features before the head: layer, with a scale and a shift that learn."""

    @property
    def learns_encoder(self) -> bool:
        """Without hidden layers or a norm, features are the inputs themselves."""
        return bool(self.hidden) or self.norm != "none"

    def build(
        self, variant: str, image_shape: tuple[int, int, int], num_classes: int
    ) -> Classifier:
        """The network for images (C, H, W)."""
        width = math.prod(image_shape)
        layers: list[nn.Module] = [nn.Flatten()]
        for size in self.hidden:
            layers += [nn.Linear(width, size), nn.ReLU()]
            if self.dropout:
                layers.append(nn.Dropout(self.dropout))
            width = size
        if self.norm == "layer":
            layers.append(nn.LayerNorm(width))
        return Classifier(nn.Sequential(*layers), nn.Linear(width, num_classes))
