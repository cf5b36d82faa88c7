"""What makes a bottleneck's codes before any trial, so that they can be stored."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from clray.errors import BadSpec
from clray.events import Progressed, Watch, ignore
from clray.models import codebook_source
from clray.models.codebook_config import CodebookConfig
from clray.models.codebooks import Codebooks
from clray.models.key_fit import Batches, fit_keys
from clray.spec import PIN, derive_seed
from clray.streams.manifest import digest, read_manifest


class CodebookCoder:
    """Projections and keys as a coder (``clray.learner.Coder``).

    Args:
        config: the knobs of keys.
        stored: whether codes are all that a trial needs.
    """

    def __init__(self, config: CodebookConfig, stored: bool) -> None:
        self.config, self.stored = config, stored

    def check(self, variant: str) -> None:
        """See ``Coder.check``.

        Raises:
            BadSpec: keys that depend on the trial, or trials that need more than codes.
        """
        config = self.config
        if config.key_seed is None:
            raise BadSpec("method.key_seed", None, "a number, the same in trials: 0 or above")
        if config.key_source == codebook_source.FIRST_TASK:
            accepted = "the address of a stream of features, such as this one"
            raise BadSpec("method.key_source", config.key_source, accepted)
        if not self.stored:
            accepted = "mask_unused: false and top: 1, here and in trials; the others need features"
            raise BadSpec("method", "mask_unused: true or top above 1", accepted)

    def describe_encoder(self, variant: str) -> dict[str, Any] | None:
        """See ``Coder.describe_encoder``."""
        config = self.config
        if (
            config.key_seed is None
            or config.key_source == codebook_source.FIRST_TASK
            or not self.stored
        ):
            return None
        knobs = {name: getattr(config, name) for name in CodebookConfig.model_fields}
        source = config.key_source
        return {"name": "codebooks", **knobs, "key_source": source[source.find(PIN) :]}

    def encoder_key(self, variant: str) -> str | None:
        """See ``Coder.encoder_key``."""
        described = self.describe_encoder(variant)
        return None if described is None else digest(described)

    def build_encoder(
        self, variant: str, image_shape: tuple[int, int, int], watch: Watch = ignore
    ) -> nn.Module:
        """See ``Coder.build_encoder``: learns the keys, as a trial's learner would."""
        config = self.config
        assert config.key_seed is not None
        generator = torch.Generator().manual_seed(derive_seed(config.key_seed, "keys"))
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        codebooks = config.build(image_shape[0], generator).to(device)
        batches = codebook_source.passes(config, image_shape[0], _flat, generator, device)
        fit_keys(codebooks, config, self._watched(batches, watch), generator)
        return _Coding(codebooks).cpu()

    def _watched(self, batches: Batches, watch: Watch) -> Batches:
        """The same batches, and their examples told as they are asked for."""
        rows = self.config.key_batch
        if codebook_source.is_address(self.config.key_source):
            rows = read_manifest(self.config.key_source).num_rows(["train"])
        total = rows * max(1, self.config.key_epochs)

        def watched(epoch: int) -> Iterator[Tensor]:
            done = epoch * rows
            for features in batches(epoch):
                watch(Progressed("examples for keys", done, total))
                yield features
                done += len(features)
            watch(Progressed("examples for keys", done, total))

        return watched


class _Coding(nn.Module):
    """Features float [B, D, 1, 1] to codes int16 [B, C]."""

    def __init__(self, codebooks: Codebooks) -> None:
        super().__init__()
        self.codebooks = codebooks

    def forward(self, x: Tensor) -> Tensor:
        """Codes int16 [B, C] of features float [B, D, 1, 1]."""
        codes: Tensor = self.codebooks(_flat(x))
        return codes.to(torch.int16)


def _flat(x: Tensor) -> Tensor:
    return x.flatten(1).float()
