"""What every network promises: a Config that builds an encoder with a linear head."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from clray.errors import BadSpec, UnknownName
from clray.events import Watch, ignore
from clray.streams.manifest import digest


class Classifier(nn.Module):
    """An encoder and a linear head with one output unit for each class of the stream.

    In task-incremental streams each task owns units of its own, which makes the one head as many
    heads as there are tasks: rows of a linear layer share nothing.

    Args:
        encoder: float [B, C, H, W] to features [B, D].
        head: features to logits [B, num_classes].
    """

    def __init__(self, encoder: nn.Module, head: nn.Linear) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = head

    def forward(self, x: Tensor) -> Tensor:
        """Logits [B, num_classes] for float [B, C, H, W]."""
        logits: Tensor = self.head(self.encoder(x))
        return logits


def seeded_head(
    width: int, num_classes: int, seed: int, learned: nn.Linear | None, where: str
) -> nn.Linear:
    """A linear head that is drawn from a seed of torch's global generator.

    Args:
        width: how many features it takes.
        learned: a classifier whose rows become the first rows of the head.
        where: names the knob that asks for it, in an error.

    Raises:
        BadSpec: a classifier of other features, or of more classes than the stream has.
    """
    torch.manual_seed(seed)
    head = nn.Linear(width, num_classes)
    if learned is None:
        return head
    rows = learned.out_features
    if learned.in_features != width:
        accepted = f"one of the {width} features before the head, or classifier: false"
        raise BadSpec(where, f"one of {learned.in_features} features", accepted)
    if rows > num_classes:
        accepted = f"at most {num_classes}, as many as the stream has, or classifier: false"
        raise BadSpec(where, f"{rows} classes", accepted)
    with torch.no_grad():
        head.weight[:rows] = learned.weight
        head.bias[:rows] = 0 if learned.bias is None else learned.bias
    return head


class ModelConfig(BaseModel, ABC):
    """The knobs of a network; a model is a file in ``clray/models/`` with one such ``Config``."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True
    )

    takes_features: ClassVar[bool] = False
    """Whether the network can learn from features (D, 1, 1) of any encoder, which are no images."""

    @property
    def is_pretrained(self) -> bool:
        """Whether the encoder begins with weights that were learned elsewhere."""
        return False

    @property
    def learns_encoder(self) -> bool:
        """Whether anything before the head learns."""
        return True

    def is_vision_transformer(self, variant: str) -> bool:
        """Whether the encoder's network is a ``VisionTransformer`` of timm's."""
        return False

    def check(self, variant: str) -> None:
        """Refuse, cheaply and before anything starts, what cannot be built.

        Args:
            variant: what follows the slash in the name, or "".

        Raises:
            BadInput: an unknown variant, or a weights file that is missing.
        """
        if variant:
            raise UnknownName("model", variant, "a name without a variant: this model has none")

    @abstractmethod
    def build(
        self, variant: str, image_shape: tuple[int, int, int], num_classes: int
    ) -> Classifier:
        """The network for images (C, H, W), initialised from torch's global generator."""

    # Frozen encoders, whose features can be stored (``clray.streams.features``).

    def describe_encoder(self, variant: str) -> dict[str, Any] | None:
        """All that the features of this model's frozen encoder depend on beside the images, as
        plain JSON with a ``name``; None: it has none, or one that differs from trial to trial."""
        return None

    def encoder_key(self, variant: str) -> str | None:
        """Hash of ``describe_encoder``, 20 hexadecimal digits, or None."""
        described = self.describe_encoder(variant)
        return None if described is None else digest(described)

    def build_encoder(
        self, variant: str, image_shape: tuple[int, int, int], watch: Watch = ignore
    ) -> nn.Module:
        """The frozen encoder alone, in evaluation mode: float [B, C, H, W] to features [B, D].

        Raises:
            BadInput: as ``build``.
        """
        raise NotImplementedError(f"{type(self).__module__} describes an encoder and builds none")

    def check_features(self, variant: str, encoder: str) -> None:
        """Refuse features that this model cannot learn from.

        Args:
            variant: of this model.
            encoder: the key of the encoder that computed them.

        Raises:
            BadSpec: those of another encoder, for a model that takes images.
        """
        if not self.takes_features and self.encoder_key(variant) != encoder:
            accepted = "images; or, for features, a model such as mlp, or the very encoder that "
            accepted += "computed them (frozen or with lower, and with the same weights, "
            accepted += "image_size, mean, std and options)"
            raise BadSpec("model", f"features of the encoder {encoder}", accepted)

    def build_on_features(
        self, variant: str, shape: tuple[int, int, int], num_classes: int
    ) -> Classifier:
        """The network for features (D, 1, 1) that ``check_features`` lets pass; where they are
        those of its own encoder, the head alone, initialised as it would be on images."""
        return self.build(variant, shape, num_classes)
