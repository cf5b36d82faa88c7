"""An encoder of the timm library (Wightman 2019) with a linear head: ``timm/<name>``.

Takes float [B, C, H, W] in [0, 1], RGB or grey (repeated to three channels), resizes it and
normalises it as the encoder expects: a benchmark should not normalise as well. Weights come at
random, from timm's hub, or from a local safetensors file, which executes nothing when loaded.
"""

from __future__ import annotations

import difflib
from typing import Any, ClassVar

from torch import nn

from clray.errors import BadData, BadSpec, UnknownName
from clray.models import weights_file
from clray.models.image_encoder import EncoderConfig, Loaded, Positive, Triple

TRANSFORMERS = ("timm.models.vision_transformer", "timm.models.deit")
"""Timm's files whose networks are vision transformers."""


class Config(EncoderConfig):
    """Knobs of a timm encoder."""

    package: ClassVar[str] = "timm"

    weights: str = "none"
    """``none`` (random), ``pretrained`` (timm's default), a tag of timm's for this network, or
    the path of a .safetensors file in timm's names, with or without the classifier."""
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
            BadSpec: knobs that contradict one another.
            BadData: the weights file is missing, no safetensors file, or damaged.
        """
        super().check(variant)
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

    def is_vision_transformer(self, variant: str) -> bool:
        """See ``ModelConfig.is_vision_transformer``; told by timm's file that makes the network."""
        import timm

        return timm.models.model_entrypoint(variant).__module__ in TRANSFORMERS

    def describe_encoder(self, variant: str) -> dict[str, Any] | None:
        """See ``ModelConfig.describe_encoder``; weights are a tag, or the hash of a file."""
        if not self.can_be_stored:
            return None
        import timm

        tagged = self.path is None and self.weights != "pretrained"
        said = timm.get_pretrained_cfg(f"{variant}.{self.weights}" if tagged else variant)
        return self.described(variant, said.tag, said.mean, said.std)

    def load(self, variant: str) -> Loaded:
        """See ``EncoderConfig.load``."""
        return self._fetched(variant) if self._fetches else self._made(variant)

    @property
    def _fetches(self) -> bool:
        return self.path is None and self.weights != "none"

    def _made(self, variant: str) -> Loaded:
        """At random, or with weights from a file."""
        import timm

        with self.refused(variant):
            network: nn.Module = timm.create_model(variant, num_classes=0, **self.options)
        if self.path is None:
            return self._loaded(network)
        names = _classifiers(network)
        unused = [f"{name}.{part}" for name in names for part in ("weight", "bias")]
        weights_file.load(network, self.path, variant, self.where, unused)
        if not self.classifier:
            return self._loaded(network)
        if len(names) != 1:
            raise self._no_classifier(variant, f"{len(names)} classifiers")
        return self._loaded(network, weights_file.linear(self.path, names[0], self.where))

    def _fetched(self, variant: str) -> Loaded:
        """With weights from the hub."""
        import timm

        name = variant if self.weights == "pretrained" else f"{variant}.{self.weights}"
        size = {} if self.classifier else {"num_classes": 0}
        try:
            network: Any = timm.create_model(name, pretrained=True, **size, **self.options)
        except TypeError as error:
            raise self.bad_options(variant, error) from error
        except Exception as error:  # whatever the hub's client raises: it has many kinds
            problem = str(error).partition("\n")[0][:200]
            what = f"weights within reach; fetching them failed: {problem}"
            raise BadData(f"{self.where} of {name}", self.weights, what) from error
        if not self.classifier:
            return self._loaded(network)
        classifier = network.get_classifier()
        if not isinstance(classifier, nn.Linear):
            raise self._no_classifier(variant, type(classifier).__name__)
        network.reset_classifier(0)
        return self._loaded(network, classifier)

    def _loaded(self, network: Any, classifier: nn.Linear | None = None) -> Loaded:
        said: dict[str, Any] = network.pretrained_cfg
        return Loaded(network, said["mean"], said["std"], classifier)

    def _no_classifier(self, variant: str, given: str) -> BadSpec:
        accepted = "one linear classifier, or classifier: false"
        return BadSpec(f"model timm/{variant}: classifier", given, accepted)


def _classifiers(network: Any) -> list[str]:
    """The names of the classifiers that a network of timm's has by default; often one."""
    named = network.pretrained_cfg.get("classifier") or ()
    return [named] if isinstance(named, str) else list(named)
