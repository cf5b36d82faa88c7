"""What every network promises: a Config that builds an encoder with a linear head."""

from __future__ import annotations

from abc import ABC, abstractmethod

from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from clray.errors import UnknownName


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


class ModelConfig(BaseModel, ABC):
    """The knobs of a network; a model is a file in ``clray/models/`` with one such ``Config``."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True
    )

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
