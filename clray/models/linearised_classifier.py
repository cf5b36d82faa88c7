"""A classifier whose encoder, or all of which, is linearised around its first weights."""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor, nn

from clray.models.captured import capture
from clray.models.classifier import Classifier
from clray.models.linearised import Linearised
from clray.models.matrix_layers import own_matrices

HeadMode = Literal["bilinear", "linearised"]


class LinearisedClassifier(nn.Module):
    """Logits of a classifier that learns steps from its weights.

    Args:
        classifier: what is linearised; in evaluation mode from now on.
        mode: ``bilinear``: the encoder is linearised, and the head learns as it is, on what comes
            out; ``linearised``: the head is linearised as well.
        x: an input, by which is seen which layers can be.

    Attributes:
        linear: the part that is linearised.
        head: the part that is not, in ``bilinear`` mode.
        layers: the layers that have a step, by name in what is linearised.
    """

    def __init__(self, classifier: Classifier, mode: HeadMode, x: Any) -> None:
        super().__init__()
        if mode == "linearised" and not classifier.head.weight.any():
            raise ValueError("a head of zeros lets nothing before it learn, to first order")
        network: nn.Module = classifier if mode == "linearised" else classifier.encoder
        network.eval()
        self.layers = tuple(matrix_layers(network, x))
        names = [
            f"{name}.{key}".lstrip(".")
            for name in self.layers
            for key, _ in network.get_submodule(name).named_parameters(recurse=False)
        ]
        self.linear = Linearised(network, names)
        self.head = classifier.head if mode == "bilinear" else None

    def forward(self, x: Any) -> Tensor:
        """Logits [B, num_classes]."""
        found: Tensor = self.linear(x)
        return found if self.head is None else self.head(found)

    def steps_of(self, name: str) -> tuple[nn.Parameter, ...]:
        """The steps of a layer: of its weight and, if it has one, of its bias."""
        own = self.linear.network.get_submodule(name).named_parameters(recurse=False)
        return tuple(self.linear.step(f"{name}.{key}".lstrip(".")) for key, _ in own)


def matrix_layers(network: nn.Module, x: Any) -> dict[str, nn.Module]:
    """The Linear and convolution layers of a network that learn, by name: those that are used just
    once in a pass, on examples side by side, and share no parameter with another."""
    found = own_matrices(network)
    captured = capture(network, x, found)
    return {name: found[name] for name, inputs in captured.inputs.items() if len(inputs) == len(x)}
