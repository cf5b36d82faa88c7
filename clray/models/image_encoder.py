"""A library's image network as an encoder with a linear head: what timm's and torchvision's share.

Takes float [B, C, H, W] in [0, 1], RGB or grey (repeated to three channels), resizes it and
normalises it as the encoder expects: a benchmark should not normalise as well.

The head is initialised from a seed that is drawn before the encoder is built, so that it is the
same where a trial reads features and builds no encoder.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from clray.errors import BadSpec
from clray.events import Watch, ignore
from clray.models import weights_file
from clray.models.classifier import Classifier, ModelConfig

Positive = Annotated[float, Field(gt=0)]
Triple = tuple[float, float, float]
"""Of three channels."""


class EncoderConfig(ModelConfig):
    """Knobs of a library's encoder; each library's file fills in how its networks are had."""

    package: ClassVar[str]
    """The model's name, before the slash."""

    weights: str = "none"
    """``none`` (random), or the path of a .safetensors file."""
    frozen: bool = False
    """Whether only the head learns; the encoder then stays in evaluation mode."""
    image_size: int | None = Field(None, ge=8)
    """Side in pixels that images are resized to (bilinear, on the device); none: as they come."""
    mean: Triple | None = None
    """Subtracted per channel, in [0, 1] units; none: what the network expects."""
    std: tuple[Positive, Positive, Positive] | None = None
    """Divided by per channel, in [0, 1] units; none: what the network expects."""
    options: dict[str, bool | int | float | str | None] = {}
    """Passed to what makes the network."""

    @abstractmethod
    def network(self, variant: str) -> tuple[nn.Module, Triple, Triple]:
        """The network without its classifier, and the mean and deviation that it expects.

        Raises:
            BadSpec: ``options`` that the network refuses.
            BadData: weights that cannot be read or fetched, or that are another network's.
        """

    @property
    def is_pretrained(self) -> bool:
        """See ``ModelConfig.is_pretrained``."""
        return self.weights != "none"

    @property
    def learns_encoder(self) -> bool:
        """See ``ModelConfig.learns_encoder``."""
        return not self.frozen

    def build(
        self, variant: str, image_shape: tuple[int, int, int], num_classes: int
    ) -> Classifier:
        """The encoder and its head for images (C, H, W) with 1 or 3 channels.

        Raises:
            BadSpec: ``options`` that the network refuses, or images that do not fit it.
            BadData: weights that cannot be read or fetched, or that are another network's.
        """
        seed = _draw()
        encoder = self.build_encoder(variant, image_shape)
        return Classifier(encoder.train(), _head(encoder.width, num_classes, seed))

    def build_on_features(
        self, variant: str, shape: tuple[int, int, int], num_classes: int
    ) -> Classifier:
        """See ``ModelConfig.build_on_features``."""
        return Classifier(nn.Flatten(), _head(shape[0], num_classes, _draw()))

    def build_encoder(
        self, variant: str, image_shape: tuple[int, int, int], watch: Watch = ignore
    ) -> Encoder:
        """See ``ModelConfig.build_encoder``."""
        self.check(variant)
        if image_shape[0] not in (1, 3):
            raise BadSpec(f"model {self.package}: image channels", image_shape[0], "1 or 3")
        encoder = Encoder(*self.network(variant), self)
        encoder.eval()
        with torch.no_grad(), self.refused(variant):
            features = encoder(torch.zeros(1, *image_shape)).shape
        if len(features) != 2:
            where = f"model {self.package}/{variant}: features"
            raise BadSpec(where, tuple(features), "one row an image")
        encoder.width = features[1]
        return encoder

    def described(self, variant: str, weights: str, mean: Triple, std: Triple) -> dict[str, Any]:
        """What features depend on, with the weights as a tag unless they come from a file."""
        return {
            "name": f"{self.package}/{variant}",
            "weights": weights
            if self.path is None
            else f"sha256:{weights_file.hash_of(self.path)}",
            "transform": {
                "image_size": self.image_size,
                "mean": list(self.mean or mean),
                "std": list(self.std or std),
            },
            "options": self.options,
        }

    @property
    def path(self) -> Path | None:
        """Of the weights file, if they come from one."""
        return weights_file.path_of(self.weights)

    @property
    def where(self) -> str:
        """Names the weights in an error."""
        return f"model {self.package}: weights"

    @contextmanager
    def refused(self, variant: str) -> Iterator[None]:
        """Turns what a network raises into an error about its knobs.

        Raises:
            BadSpec: it raised.
        """
        try:
            yield
        except (TypeError, ValueError, RuntimeError, AssertionError) as error:
            raise self.bad_options(variant, error) from error

    def bad_options(self, variant: str, error: Exception) -> BadSpec:
        """An error about the knobs that the network was made with."""
        given = {"image_size": self.image_size, "options": self.options}
        where = f"model {self.package}/{variant}"
        return BadSpec(where, given, f"what the network takes: {error}")


class Encoder(nn.Module):
    """Resizing, normalisation and a network without its classifier.

    Args:
        network: float [B, 3, H, W] to features [B, D].
        mean, std: that it expects.
        config: may say otherwise.

    Attributes:
        width: D, how many features it gives.
    """

    mean: Tensor
    std: Tensor
    width: int

    def __init__(
        self, network: nn.Module, mean: Triple, std: Triple, config: EncoderConfig
    ) -> None:
        super().__init__()
        mean, std = config.mean or mean, config.std or std
        self.network = network
        self.frozen, self.image_size = config.frozen, config.image_size
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1), persistent=False)
        if self.frozen:
            network.requires_grad_(False)

    def train(self, mode: bool = True) -> Self:
        """Set the mode; a frozen network stays in evaluation mode."""
        super().train(mode)
        if self.frozen:
            self.network.eval()
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Features [B, D] of float [B, 1 or 3, H, W] in [0, 1]."""
        size = self.image_size
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            if size is not None and x.shape[-2:] != (size, size):
                shrinking = min(x.shape[-2:]) > size
                x = F.interpolate(x, (size, size), mode="bilinear", antialias=shrinking)
            features: Tensor = self.network(((x - self.mean) / self.std).expand(-1, 3, -1, -1))
            return features


def _draw() -> int:
    """A seed from torch's global generator."""
    return int(torch.randint(2**62, ()))


def _head(width: int, num_classes: int, seed: int) -> nn.Linear:
    torch.manual_seed(seed)
    return nn.Linear(width, num_classes)
