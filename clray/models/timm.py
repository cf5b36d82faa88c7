"""An encoder of the timm library (Wightman 2019) with a linear head: ``timm/<name>``.

Takes float [B, C, H, W] in [0, 1], RGB or grey (repeated to three channels), resizes it and
normalises it as the encoder expects: a benchmark should not normalise as well. Weights come at
random, from timm's hub, or from a local safetensors file, which executes nothing when loaded.
"""

from __future__ import annotations

import difflib
from typing import Any, ClassVar

from torch import nn

from clray.errors import BadData, UnknownName
from clray.models import weights_file
from clray.models.image_encoder import EncoderConfig, Positive, Triple


class Config(EncoderConfig):
    """Knobs of a timm encoder."""

    package: ClassVar[str] = "timm"

    weights: str = "none"
    """``none`` (random), ``pretrained`` (timm's default), a tag of timm's for this network, or
    the path of a .safetensors file in timm's names, without a classifier."""
    mean: Triple | None = None
    """Subtracted per channel, in [0, 1] units; none: what timm says."""
    std: tuple[Positive, Positive, Positive] | None = None
    """Divided by per channel, in [0, 1] units; none: what timm says."""
    options: dict[str, bool | int | float | str | None] = {}
    """Passed to ``timm.create_model``, such as ``{pad_type: same}``."""

    def check(self, variant: str) -> None:
        """Refuse a name or a tag that timm does not know, and a file that cannot be weights.

        Raises:
            UnknownName: timm has no such network, or no such weights for it.
            BadData: the weights file is missing, no safetensors file, or damaged.
        """
        import timm

        if "." in variant or not timm.is_model(variant):
            known = timm.list_models()
            close = difflib.get_close_matches(variant, known, n=5, cutoff=0.4)
            what = f"the name of one of timm's {len(known)} networks, e.g. timm/resnet18"
            raise UnknownName("model timm", variant, close or what)
        if self.path is not None:
            weights_file.check(self.path, self.where)
        elif self.weights != "none":
            tags = [name.partition(".")[2] for name in timm.list_pretrained(f"{variant}.*")]
            if self.weights not in ["pretrained", *tags] or not tags:
                raise UnknownName(f"{self.where} of {variant}", self.weights, ["none", *tags])

    def describe_encoder(self, variant: str) -> dict[str, Any] | None:
        """See ``ModelConfig.describe_encoder``; weights are a tag, or the hash of a file."""
        if not self.frozen or self.weights == "none":
            return None
        import timm

        tagged = self.path is None and self.weights != "pretrained"
        said = timm.get_pretrained_cfg(f"{variant}.{self.weights}" if tagged else variant)
        return self.described(variant, said.tag, said.mean, said.std)

    def network(self, variant: str) -> tuple[nn.Module, Triple, Triple]:
        """See ``EncoderConfig.network``."""
        made = self._fetched(variant) if self._fetches else self._made(variant)
        said: dict[str, Any] = made.pretrained_cfg  # type: ignore[assignment]
        return made, said["mean"], said["std"]

    @property
    def _fetches(self) -> bool:
        return self.path is None and self.weights != "none"

    def _made(self, variant: str) -> nn.Module:
        """At random, or with weights from a file."""
        import timm

        with self.refused(variant):
            network: nn.Module = timm.create_model(variant, num_classes=0, **self.options)
        if self.path is not None:
            weights_file.load(network, self.path, variant, self.where)
        return network

    def _fetched(self, variant: str) -> nn.Module:
        """With weights from the hub."""
        import timm

        name = variant if self.weights == "pretrained" else f"{variant}.{self.weights}"
        try:
            network: nn.Module = timm.create_model(
                name, pretrained=True, num_classes=0, **self.options
            )
        except TypeError as error:
            raise self.bad_options(variant, error) from error
        except Exception as error:  # whatever the hub's client raises: it has many kinds
            problem = str(error).partition("\n")[0][:200]
            what = f"weights within reach; fetching them failed: {problem}"
            raise BadData(f"{self.where} of {name}", self.weights, what) from error
        return network
