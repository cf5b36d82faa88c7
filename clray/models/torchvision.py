"""A classification network of torchvision with a linear head of its own: ``torchvision/<name>``.

Takes float [B, C, H, W] in [0, 1], RGB or grey (repeated to three channels), resizes it and
normalises it as ImageNet's: a benchmark should not normalise as well. Weights come at random, or
from a local safetensors file, which executes nothing when loaded; torchvision's own are made one by

    save_file(torchvision.models.resnet18(weights="IMAGENET1K_V1").state_dict(), path)

(``from safetensors.torch import save_file``); the classifier in it is passed over. The head takes
the place of the last linear layer; what is before that in a classifier, such as VGG's, is part of
the encoder.
"""

from __future__ import annotations

from typing import Any, ClassVar

from torch import nn

from clray.errors import BadSpec, UnknownName
from clray.models import weights_file
from clray.models.image_encoder import EncoderConfig, Loaded

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
CLASSES = 1000
"""Of ImageNet, by which a network's classifier is known."""


class Config(EncoderConfig):
    """Knobs of a torchvision network."""

    package: ClassVar[str] = "torchvision"

    weights: str = "none"
    """``none`` (random), or the path of a .safetensors file in torchvision's names, with or
    without the classifier."""
    options: dict[str, bool | int | float | str | None] = {}
    """Passed to what makes the network, such as ``{zero_init_residual: true}``."""

    def check(self, variant: str) -> None:
        """Refuse a name that torchvision does not know, and a file that cannot be weights.

        Raises:
            UnknownName: torchvision has no such network, or none that ends in a linear layer.
            BadSpec: weights that are no file, or knobs that contradict one another.
            BadData: the weights file is missing, no safetensors file, or damaged.
        """
        super().check(variant)
        from torchvision import models

        known = [n for n in models.list_models(module=models) if not n.startswith("squeezenet")]
        if variant not in known:
            raise UnknownName("model torchvision", variant, known)
        if self.path is not None:
            weights_file.check(self.path, self.where)
        elif self.weights != "none":
            accepted = "none, or the path of a .safetensors file: nothing is downloaded"
            raise BadSpec(self.where, self.weights, accepted)

    def describe_encoder(self, variant: str) -> dict[str, Any] | None:
        """See ``ModelConfig.describe_encoder``; weights are the hash of their file."""
        if not self.can_be_stored:
            return None
        return self.described(variant, self.weights, MEAN, STD)

    def load(self, variant: str) -> Loaded:
        """See ``EncoderConfig.load``."""
        from torchvision import models

        with self.refused(variant):
            network: nn.Module = models.get_model(
                variant, weights=None, num_classes=CLASSES, **self.options
            )
        name = self._classifier_name(variant, network)
        network.set_submodule(name, nn.Identity())
        classifier = None
        if self.path is not None:
            unused = (f"{name}.weight", f"{name}.bias")
            weights_file.load(network, self.path, variant, self.where, unused)
            if self.classifier:
                classifier = weights_file.linear(self.path, name, self.where)
        return Loaded(network, MEAN, STD, classifier)

    def _classifier_name(self, variant: str, network: nn.Module) -> str:
        """The name of the linear layer that gives the classes.

        Raises:
            BadSpec: there are more of them, in branches that help training.
        """
        found: list[str] = [
            name
            for name, module in network.named_modules()
            if isinstance(module, nn.Linear) and module.out_features == CLASSES
        ]
        if len(found) != 1:
            accepted = f"one classifier, not {', '.join(found)}: {{aux_logits: false}}"
            raise BadSpec(f"model torchvision/{variant}: options", self.options, accepted)
        return found[0]
