"""Convolutions over time on a frozen encoder's token states (Kim 2014, and ExSSNeT).

Parallel convolutions of widths 3, 4 and 5, ReLU, the maximum over all positions, and a linear head.
Takes token ids, float [B, 3, L, 1] as bytes / 255, through ``encoder``; or token states (D, L, 1)
that ``clray data features`` has stored. Padded positions, hidden from the encoder's attention,
enter the convolutions as in ExSSNeT's release; unlike there, the encoder's dropout is off.

The convolutions and the head are initialised from a seed that is drawn before the encoder is
loaded, so that they are the same where a trial reads states and loads no encoder.
"""

from __future__ import annotations

from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn

from clray.errors import BadSpec, UnknownName
from clray.events import Watch, ignore
from clray.models import text_encoder
from clray.models.classifier import Classifier, ModelConfig

Width = Annotated[int, Field(ge=1, le=64)]


class Config(ModelConfig):
    """Knobs of the convolutions, and the encoder below them."""

    encoder: str | None = None
    """A folder with config.json and safetensors files, or a name on the Hugging Face hub, such as
    bert-base-uncased; none, for streams of token states."""
    widths: tuple[Width, ...] = Field((3, 4, 5), min_length=1)
    """How many neighbouring tokens each group of filters sees; there is no padding."""
    filters: int = Field(200, ge=1)
    """Filters of each width."""

    def check(self, variant: str) -> None:
        """Refuse an encoder that cannot be found or loaded.

        Raises:
            UnknownName: a variant: this model has none.
            BadSpec: transformers are not installed, or equal widths.
            BadData: no such encoder, or one without safetensors weights.
        """
        if variant:
            accepted = f"text_cnn alone, with encoder={variant}"
            raise UnknownName("model text_cnn", variant, accepted)
        if len(set(self.widths)) < len(self.widths):
            raise BadSpec("model text_cnn: widths", list(self.widths), "different widths")
        if self.encoder is not None:
            text_encoder.find(self.encoder)

    def build(
        self, variant: str, image_shape: tuple[int, int, int], num_classes: int
    ) -> Classifier:
        """The encoder, the convolutions and the head for token ids (3, L, 1).

        Raises:
            BadSpec: images, texts shorter than the widest filter, or no encoder.
            BadData: an encoder that cannot be loaded.
        """
        seed = _draw()
        encoder = self.build_encoder(variant, image_shape)
        cnn, head = self._top(encoder.width, num_classes, seed)
        return Classifier(nn.Sequential(encoder, cnn), head)

    def build_on_features(
        self, variant: str, shape: tuple[int, int, int], num_classes: int
    ) -> Classifier:
        """The convolutions and the head for token states (D, L, 1).

        Raises:
            BadSpec: features without a length, or texts shorter than the widest filter.
        """
        self._check_length(shape, "token states (D, L, 1)")
        return Classifier(*self._top(shape[0], num_classes, _draw()))

    def build_encoder(
        self, variant: str, image_shape: tuple[int, int, int], watch: Watch = ignore
    ) -> text_encoder.TokenStates:
        """See ``ModelConfig.build_encoder``: float [B, 3, L, 1] to states [B, D, L, 1]."""
        self.check(variant)
        if image_shape[0] != 3 or image_shape[2] != 1:
            raise BadSpec("model text_cnn: examples", image_shape, "texts, token ids as (3, L, 1)")
        self._check_length(image_shape, "token ids (3, L, 1)")
        if self.encoder is None:
            accepted = "a folder or a name on the hub, for token ids"
            raise BadSpec(text_encoder.WHERE, self.encoder, accepted)
        return text_encoder.load(self.encoder, image_shape[1])

    def describe_encoder(self, variant: str) -> dict[str, Any] | None:
        """See ``ModelConfig.describe_encoder``: the kind of network, and the hash of its files."""
        if self.encoder is None:
            return None
        folder = text_encoder.find(self.encoder)
        name = f"transformers/{text_encoder.kind(self.encoder)}"
        return {"name": name, "weights": f"sha256:{text_encoder.content_of(folder)}"}

    def check_features(self, variant: str, encoder: str) -> None:
        """See ``ModelConfig.check_features``; without an encoder, states of any will do."""
        if self.encoder is not None:
            super().check_features(variant, encoder)

    def _top(self, width: int, num_classes: int, seed: int) -> tuple[TextCNN, nn.Linear]:
        torch.manual_seed(seed)
        cnn = TextCNN(width, self.widths, self.filters)
        return cnn, nn.Linear(len(self.widths) * self.filters, num_classes)

    def _check_length(self, shape: tuple[int, int, int], what: str) -> None:
        if shape[1] < max(self.widths) or shape[2] != 1:
            accepted = f"{what} with L of {max(self.widths)} or more, the widest filter"
            raise BadSpec("model text_cnn: examples", shape, accepted)


class TextCNN(nn.Module):
    """Filters of several widths over the states of L tokens, and the largest answer of each.

    Args:
        width: D, of the states.
        widths: of the filters.
        filters: of each width.
    """

    def __init__(self, width: int, widths: tuple[int, ...], filters: int) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(nn.Conv1d(width, filters, own) for own in widths)
        self.activation = nn.ReLU()

    def forward(self, states: Tensor) -> Tensor:
        """Features [B, len(widths) * filters] of states [B, D, L, 1]."""
        x = states.squeeze(3)
        found = [self.activation(convolution(x)).amax(2) for convolution in self.convolutions]
        return torch.cat(found, 1)


def _draw() -> int:
    """A seed from torch's global generator."""
    return int(torch.randint(2**62, ()))
