"""A network that tasks fill one after another, each with the weights that those before left free.

Its layers are masked ones (``clray/models/masked.py``): a task's mask holds the weights of all
tasks up to it. What is neither a layer's weight nor the head, biases and normalisations with their
running statistics, learns on the first task and then stays. The head is the learner's business.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from clray.errors import BadSpec
from clray.models.bitmask import kept, largest
from clray.models.classifier import Classifier
from clray.models.masked import MaskedLayer
from clray.models.subnetworks import learning_parts, masked_layer


class PrunedNetwork:
    """The masked layers of an encoder, and what is shared beside their weights.

    Args:
        model: its encoder's layers become masked ones, with the weights that they have.

    Raises:
        BadSpec: an encoder with other parameters that learn, or none.

    Attributes:
        layers: by name, in the order of the network's modules.
        shared: biases, and scales and shifts of normalisations.
        learned: names of the tasks that were kept.
        shown: the one that answers; None: the one that is being learned.
    """

    def __init__(self, model: Classifier) -> None:
        self.layers: dict[str, MaskedLayer] = {}
        self.shared: list[nn.Parameter] = []
        self.norms: list[_NormBase] = []
        self.learned: list[str] = []
        self.shown: str | None = None
        for parent, name, path, child in learning_parts(model):
            if child is model.head:
                continue
            if isinstance(child, _NormBase):
                self._take_norm(child)
            elif isinstance(child, nn.LayerNorm | nn.GroupNorm):
                self.shared += child.parameters()
            else:
                layer = self.layers[path] = masked_layer(child, path, biased=True)
                self.shared += [] if layer.bias is None else [layer.bias]
                setattr(parent, name, layer)
        if not self.layers:
            accepted = "one with layers that learn, whose weights tasks can share out"
            raise BadSpec("model: encoder", type(model.encoder).__name__, accepted)

    def _take_norm(self, norm: _NormBase) -> None:
        learned = [p for p in norm.parameters() if p.requires_grad]
        self.shared += learned
        if learned or not norm.affine:  # a frozen encoder's statistics stay as they are
            self.norms.append(norm)

    def freeze_statistics(self) -> None:
        """Put the normalisations in evaluation mode, once a task was kept."""
        if self.learned:
            for norm in self.norms:
                norm.eval()

    # One task's way through the network.

    def begin(self) -> list[nn.Parameter]:
        """Begin to train all weights that are free; what is to be optimized."""
        for layer in self.layers.values():
            layer.use(torch.ones_like(layer.weight, dtype=torch.bool))
        return self._train()

    def prune(self, share: float) -> list[nn.Parameter]:
        """Set the smallest of each layer's trained weights to 0, and go on with the others.

        Args:
            share: of the weights that are being trained, in [0, 1); to the nearest number of them,
                but one of each layer stays where there is one.

        Returns:
            What is to be optimized from here on.
        """
        for layer in self.layers.values():
            assert layer.trained is not None
            mask = layer.is_claimed()
            if len(layer.trained):
                chosen = largest(layer.trained, kept(1 - share, len(layer.trained)))
                mask = mask.masked_scatter(~mask, chosen)
            layer.prune(mask)
        return self._train()

    def keep(self, name: str) -> None:
        """End a task: its weights, as they are, are its own from here on."""
        for layer in self.layers.values():
            assert layer.trained is not None
            layer.keep(name, layer.found(), layer.trained.detach())
        for parameter in self.shared:
            parameter.requires_grad_(False)
        self.learned.append(name)

    def _train(self) -> list[nn.Parameter]:
        parameters = [
            layer.train_weights(layer.found() & ~layer.is_claimed())
            for layer in self.layers.values()
        ]
        return parameters + [p for p in self.shared if p.requires_grad]

    # Answers.

    def show(self, name: str) -> None:
        """Answer as a task that was kept, until another is shown, or ``learn``."""
        if name == self.shown:
            return
        self.shown = name
        for layer in self.layers.values():
            layer.show(name)

    def learn(self) -> None:
        """Go on with the task that is being learned, or the weights as they are."""
        self.shown = None
        for layer in self.layers.values():
            layer.take_apart()

    # How much there is.

    @property
    def num_weights(self) -> int:
        """Weights of all layers."""
        return sum(layer.weight.numel() for layer in self.layers.values())

    @property
    def num_claimed(self) -> int:
        """How many of them belong to tasks."""
        return sum(int(layer.is_claimed().sum()) for layer in self.layers.values())
