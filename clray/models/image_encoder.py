"""A library's image network as an encoder with a linear head: what timm's and torchvision's share.

Takes float [B, C, H, W] in [0, 1], RGB or grey (repeated to three channels), resizes it and
normalises it as the encoder expects: a benchmark should not normalise as well.

The head is initialised from a seed that is drawn before the encoder is built, so that it is the
same where a trial reads features and builds no encoder.

What is frozen is the encoder or, with ``lower``, the part of it up to a module of that name. What
the frozen part gives can be stored (``clray.streams.features``): features, or flattened maps.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from clray.errors import BadSpec
from clray.events import Watch, ignore
from clray.models import weights_file
from clray.models.classifier import Classifier, ModelConfig, seeded_head
from clray.models.cut_network import Cut, CutNetwork, cut

Positive = Annotated[float, Field(gt=0)]
Triple = tuple[float, float, float]
"""Of three channels."""


@dataclass(frozen=True)
class Loaded:
    """A network as its library gives it.

    Attributes:
        network: without its classifier, float [B, 3, H, W] to features [B, D].
        mean, std: that it expects.
        classifier: what was taken off, where the knobs ask for it.
    """

    network: nn.Module
    mean: Triple
    std: Triple
    classifier: nn.Linear | None = None


class EncoderConfig(ModelConfig):
    """Knobs of a library's encoder; each library's file fills in how its networks are had."""

    package: ClassVar[str]
    """The model's name, before the slash."""

    weights: str = "none"
    """``none`` (random), or the path of a .safetensors file."""
    frozen: bool = False
    """Whether only the head learns; the encoder then stays in evaluation mode."""
    lower: str | None = Field(None, min_length=1)
    """Name of the module that is the last of the frozen lower network, such as ``blocks.4`` or
    ``stages.1``; what comes after it learns, but keeps the statistics of batch normalisation. None:
    all learns, unless frozen."""
    norm: Literal["none", "layer"] = "none"
    """Normalisation of the features before the head: layer, with a scale and a shift that learn."""
    classifier: bool = False
    """Whether the network's own classifier becomes the head's first rows: unit i is class i of its
    pre-training."""
    image_size: int | None = Field(None, ge=8)
    """Side in pixels that images are resized to (bilinear, on the device); none: as they come."""
    mean: Triple | None = None
    """Subtracted per channel, in [0, 1] units; none: what the network expects."""
    std: tuple[Positive, Positive, Positive] | None = None
    """Divided by per channel, in [0, 1] units; none: what the network expects."""
    options: dict[str, bool | int | float | str | None] = {}
    """Passed to what makes the network."""

    @abstractmethod
    def load(self, variant: str) -> Loaded:
        """The network, with its classifier apart if the knobs ask for it.

        Raises:
            BadSpec: ``options`` that the network refuses, or it has no linear classifier.
            BadData: weights that cannot be read or fetched, that are another network's, or that
                lack the classifier.
        """

    def check(self, variant: str) -> None:
        """Refuse knobs that contradict one another.

        Raises:
            BadSpec: such knobs.
        """
        if self.lower is not None and self.frozen:
            accepted = "none: all of the encoder is frozen"
            raise BadSpec(f"model {self.package}: lower, with frozen", self.lower, accepted)
        if self.classifier and not self.is_pretrained:
            accepted = "false: at random it has learned no classes"
            raise BadSpec(f"model {self.package}: classifier, without weights", True, accepted)

    @property
    def is_pretrained(self) -> bool:
        """See ``ModelConfig.is_pretrained``."""
        return self.weights != "none"

    @property
    def learns_encoder(self) -> bool:
        """See ``ModelConfig.learns_encoder``."""
        return not self.frozen or self.norm != "none"

    @property
    def can_be_stored(self) -> bool:
        """Whether what the frozen part gives is the same in every trial and known by the knobs; of
        a lower network, the size of its maps must be known as well."""
        return self.is_pretrained and (
            self.frozen or (self.lower is not None and self.image_size is not None)
        )

    def build(
        self, variant: str, image_shape: tuple[int, int, int], num_classes: int
    ) -> Classifier:
        """The encoder and its head for images (C, H, W) with 1 or 3 channels.

        Raises:
            BadSpec: ``options`` that the network refuses, images that do not fit it, a module after
                which it cannot be cut, or a classifier that does not fit the head.
            BadData: weights that cannot be read or fetched, or that are another network's.
        """
        seed = _draw()
        encoder, classifier = self._whole(variant, image_shape)
        if self.lower is not None:
            encoder.network = CutNetwork(self._cut(variant, encoder, image_shape))
        if self.norm == "layer":
            encoder.norm = nn.LayerNorm(encoder.width)
        head = seeded_head(encoder.width, num_classes, seed, classifier, self._of_head)
        return Classifier(encoder.train(), head)

    def build_on_features(
        self, variant: str, shape: tuple[int, int, int], num_classes: int
    ) -> Classifier:
        """See ``ModelConfig.build_on_features``; on flattened maps, the upper network and the head.

        Raises:
            BadInput: as ``build``, and for flattened maps of another size.
        """
        seed, width, classifier = _draw(), shape[0], None
        layers: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
        if self.lower is not None:
            side = self.image_size
            if side is None:
                accepted = "the size that the features were computed with, for lower"
                raise BadSpec(f"model {self.package}: image_size, on features", None, accepted)
            encoder, classifier = self._whole(variant, (3, side, side))
            parts = self._cut(variant, encoder, (3, side, side))
            if math.prod(parts.shape) != width:
                accepted = f"{math.prod(parts.shape)}, flattened maps {parts.shape}"
                raise BadSpec(f"model {self.package}: width of features", width, accepted)
            layers["unflatten"] = nn.Unflatten(1, parts.shape)
            layers["network"] = parts.upper
            width = encoder.width
        elif self.classifier:
            classifier = self.load(variant).classifier
        if self.norm == "layer":
            layers["norm"] = nn.LayerNorm(width)
        head = seeded_head(width, num_classes, seed, classifier, self._of_head)
        return Classifier(nn.Sequential(layers).train(), head)

    def build_encoder(
        self, variant: str, image_shape: tuple[int, int, int], watch: Watch = ignore
    ) -> Encoder:
        """See ``ModelConfig.build_encoder``; of a lower network, flattened maps [B, C * H * W]."""
        encoder, _ = self._whole(variant, image_shape)
        if self.lower is not None:
            parts = self._cut(variant, encoder, image_shape)
            encoder.network = nn.Sequential(parts.lower, nn.Flatten())
            encoder.frozen, encoder.width = True, math.prod(parts.shape)
        return encoder

    def _whole(
        self, variant: str, image_shape: tuple[int, int, int]
    ) -> tuple[Encoder, nn.Linear | None]:
        """The encoder in evaluation mode, and the classifier that it lacks."""
        self.check(variant)
        if image_shape[0] not in (1, 3):
            raise BadSpec(f"model {self.package}: image channels", image_shape[0], "1 or 3")
        loaded = self.load(variant)
        encoder = Encoder(loaded.network, loaded.mean, loaded.std, self)
        encoder.eval()
        with torch.no_grad(), self.refused(variant):
            features = encoder(torch.zeros(1, *image_shape)).shape
        if len(features) != 2:
            where = f"model {self.package}/{variant}: features"
            raise BadSpec(where, tuple(features), "one row an image")
        encoder.width = features[1]
        return encoder, loaded.classifier

    def _cut(self, variant: str, encoder: Encoder, image_shape: tuple[int, int, int]) -> Cut:
        """The network of an encoder in two, which takes it apart."""
        assert self.lower is not None
        own = torch.Generator().manual_seed(0)  # the global one draws what is initialised
        with torch.no_grad():
            x = encoder.prepared(torch.rand(2, *image_shape, generator=own))
        where = f"model {self.package}/{variant}: lower"
        return cut(encoder.network, self.lower, x, where)

    def described(self, variant: str, weights: str, mean: Triple, std: Triple) -> dict[str, Any]:
        """What features depend on, with the weights as a tag unless they come from a file."""
        lower = {} if self.lower is None else {"lower": self.lower}
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
            **lower,
        }

    @property
    def path(self) -> Path | None:
        """Of the weights file, if they come from one."""
        return weights_file.path_of(self.weights)

    @property
    def where(self) -> str:
        """Names the weights in an error."""
        return f"model {self.package}: weights"

    @property
    def _of_head(self) -> str:
        return f"model {self.package}: classifier"

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
        norm: of the features, after a network that may be frozen; None: they stay as they are.
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
        self.norm: nn.Module | None = None
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
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            features: Tensor = self.network(self.prepared(x))
        return features if self.norm is None else self.norm(features)

    def prepared(self, x: Tensor) -> Tensor:
        """What the network takes, [B, 3, H, W], for float [B, 1 or 3, H, W] in [0, 1]."""
        size = self.image_size
        if size is not None and x.shape[-2:] != (size, size):
            shrinking = min(x.shape[-2:]) > size
            x = F.interpolate(x, (size, size), mode="bilinear", antialias=shrinking)
        return ((x - self.mean) / self.std).expand(-1, 3, -1, -1)


def _draw() -> int:
    """A seed from torch's global generator."""
    return int(torch.randint(2**62, ()))
