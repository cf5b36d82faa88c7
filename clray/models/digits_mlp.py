"""A fully connected network that has seen a quarter of scikit-learn's digits before the stream.

It stands for a pretrained encoder, needs no download, and is made in less than a second: one hidden
layer that is frozen, two that learn, and a head. That quarter is no part of the dataset
``digits-rest``; on ``digits`` the network has seen some of the test set.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, field_validator
from torch import Tensor, nn

from clray.errors import BadSpec
from clray.models.classifier import Classifier, ModelConfig
from clray.streams import digits

SHAPE = (1, 8, 8)
WIDTH = 128
STEPS, BATCH, LR = 300, 64, 2e-3
"""Of the pre-training, by Adam."""


class Config(ModelConfig):
    """Knobs of the network that has seen digits."""

    norm: Literal["none", "layer"] = "layer"
    """Normalisation of the features before the head: layer, with a scale and a shift that learn."""
    classes: tuple[Annotated[int, Field(ge=0, le=9)], ...] | None = Field(None, min_length=2)
    """Digits that it has seen; fewer than ten make features that transfer less. None: all."""

    @field_validator("classes")
    @classmethod
    def _distinct(cls, classes: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if classes is not None and len(set(classes)) < len(classes):
            raise ValueError("different digits")
        return classes

    @property
    def is_pretrained(self) -> bool:
        """See ``ModelConfig.is_pretrained``."""
        return True

    def build(
        self, variant: str, image_shape: tuple[int, int, int], num_classes: int
    ) -> Classifier:
        """The network for images (1, 8, 8), trained on the reserved digits; the head is new.

        Raises:
            BadSpec: images of another shape.
        """
        if tuple(image_shape) != SHAPE:
            accepted = "(1, 8, 8): it has seen scikit-learn's digits"
            raise BadSpec("model digits_mlp: images", tuple(image_shape), accepted)
        lower = nn.Sequential(nn.Flatten(), nn.Linear(64, WIDTH), nn.ReLU())
        upper = [nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH), nn.ReLU()]
        encoder = nn.Sequential(lower, *upper)
        if self.norm == "layer":
            encoder.append(nn.LayerNorm(WIDTH))
        _train(encoder, *self._seen())
        lower.requires_grad_(False)
        return Classifier(encoder, nn.Linear(WIDTH, num_classes))

    def _seen(self) -> tuple[Tensor, Tensor]:
        """Reserved images, float [N, 1, 8, 8] in [0, 1], and their digits, int64 [N]."""
        x, y = digits.whole()
        chosen = digits.reserved()
        if self.classes is not None:
            chosen &= torch.isin(y, torch.tensor(self.classes))
        return x[chosen].float() / 255, y[chosen]


@torch.enable_grad()
def _train(encoder: nn.Module, x: Tensor, y: Tensor) -> None:
    """Train with a head that is thrown away; all draws are of torch's global generator."""
    model = nn.Sequential(encoder, nn.Linear(WIDTH, 10))
    optimizer = torch.optim.Adam(model.parameters(), lr=LR)
    for _ in range(STEPS):
        batch = torch.randint(len(x), (BATCH,))
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x[batch]), y[batch])
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    model.zero_grad()  # leaves nothing behind
