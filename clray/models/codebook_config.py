"""The knobs of codebooks: how many, of what, and how their keys come about.

``clray.models.codebooks`` says what they are, ``clray.models.key_fit`` how keys are placed.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field

from clray.errors import Infeasible
from clray.learner import MethodConfig
from clray.models.codebooks import Codebooks

MOST_PAIRS = 32768
"""Codes are stored as int16."""


class CodebookConfig(MethodConfig):
    """Knobs of codebooks and of the placing of their keys. All act before anything is learned."""

    codebooks: int = Field(256, ge=1)
    """How many there are: each looks at the features in its own way, and has a vote."""
    pairs: int = Field(4096, ge=1, le=MOST_PAIRS)
    """Keys, and values, of each codebook."""
    key_dim: int = Field(14, ge=1)
    """Numbers in a key. With projection: chunk it is the features' width over the codebooks, and
    this is not used."""
    projection: Literal["random", "linear", "chunk"] = "random"
    """What each codebook sees of the features: their products with random unit vectors; with
    vectors drawn as a linear layer's are; or its own slice of them."""
    key_source: str = Field("first-task", min_length=1)
    """What keys are placed on: the first task's training examples, without labels; points drawn
    uniformly from the unit cube (unit-cube); or the stored stream of this address."""
    keys: Literal["clean", "released", "kmeans", "samples"] = "clean"
    """How keys are placed: moving averages that begin at random examples; the released code's,
    which begin at random and are thrown about at first; k-means on the first batch, then moving
    averages; or random examples as they are."""
    key_epochs: int = Field(10, ge=0)
    """Passes over the source that move the keys; of unit-cube, batches."""
    key_batch: int = Field(256, ge=1)
    """Examples that keys are moved by at once."""
    key_decay: float = Field(0.95, gt=0, lt=1)
    """What the weight of earlier examples is multiplied by at each batch."""
    dead_share: float = Field(0.1, ge=0, lt=1)
    """Share of the uniform use (key_batch / pairs) below which a key is put onto a random example;
    0: no key ever is."""
    key_seed: int | None = Field(None, ge=0)
    """Of projection and keys; none: drawn from the trial's seed."""

    @property
    def dead_below(self) -> float:
        """Average number of examples in a batch below which a key is dead; the last batch of a
        pass may be smaller, the threshold stays."""
        return self.dead_share * self.key_batch / self.pairs

    def key_width(self, width: int) -> int:
        """Numbers in a key, for features of that width.

        Raises:
            Infeasible: chunk, and a number of codebooks that does not divide the width.
        """
        if self.projection != "chunk":
            return self.key_dim
        if width % self.codebooks:
            accepted = f"with projection: chunk, a divisor of the {width} features"
            raise Infeasible("method.codebooks", self.codebooks, accepted)
        return width // self.codebooks

    def build(self, width: int, generator: torch.Generator) -> Codebooks:
        """Codebooks for features of that width, on the CPU, with keys drawn from N(0, 1).

        Args:
            width: D of features [B, D].
            generator: of projection and keys, on the CPU.

        Raises:
            Infeasible: see ``key_width``.
        """
        projection, key_dim = None, self.key_width(width)
        if self.projection == "random":
            projection = torch.randn(width, self.codebooks * key_dim, generator=generator)
            projection /= torch.linalg.vector_norm(projection, dim=0)
        elif self.projection == "linear":
            # torch's own start of a linear layer: uniform, up to the root of 1 / width
            projection = torch.rand(width, self.codebooks * key_dim, generator=generator)
            projection = (2 * projection - 1) / width**0.5
        keys = torch.randn(self.codebooks, self.pairs, key_dim, generator=generator)
        return Codebooks(projection, keys)
