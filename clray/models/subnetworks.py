"""One network of random weights, and for each task a subnetwork of it.

A classifier's learnable linear and convolution layers become masked ones without biases, its
normalisations lose their scale and shift and keep running statistics of their own for each task,
and its head gets as many outputs as the largest task has classes, shared by all. What is frozen
stays as it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from clray.errors import BadSpec
from clray.models.bitmask import Selection, pack, unpack
from clray.models.classifier import Classifier
from clray.models.masked import (
    MaskedConvolution,
    MaskedLayer,
    MaskedLinear,
    draw_scores,
    signed_constant,
)
from clray.models.task_statistics import Statistics, TaskStatistics

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


@dataclass(frozen=True)
class Snapshot:
    """A subnetwork while it is learned, as it was at some moment.

    Attributes:
        masks: bits of each layer.
        trained: the weights that learn, by layer; None: none did yet.
        statistics: of the normalisations.
        scores: that the masks were found by, by layer, where they are remembered.
    """

    masks: dict[str, Tensor]
    trained: dict[str, Tensor] | None
    statistics: Statistics
    scores: dict[str, Tensor] | None = None


class Subnetworks:
    """The masked layers and the normalisations of a network, and what each task has of them.

    Args:
        model: becomes a network of masked layers.
        outputs: units of its head.
        signed: whether weights become signed constants; else they stay as they are, but for the
            head's.
        remembers_scores: whether the scores of each task's mask are kept beside it.

    Raises:
        BadSpec: a network that has other parameters that learn, or none.

    Attributes:
        layers: by name, in the order of the network's modules.
        norms: normalisations that keep running statistics, by name.
    """

    def __init__(
        self, model: Classifier, outputs: int, signed: bool = True, remembers_scores: bool = False
    ) -> None:
        if any(isinstance(module, MaskedLayer) for module in model.modules()):
            raise BadSpec("model", "masked layers", "a network that no other method has masked")
        if outputs != model.head.out_features:
            model.head = nn.Linear(model.head.in_features, outputs).to(model.head.weight.device)
        self.layers: dict[str, MaskedLayer] = {}
        self.norms: dict[str, _NormBase] = {}
        self.statistics = TaskStatistics(self.norms)
        self._convert(model, signed)
        if not self.layers:
            raise BadSpec("model", type(model).__name__, "a network with layers that learn")
        self.remembers_scores = remembers_scores
        self._settled: dict[str, Tensor] | None = None
        self.shown: str | None = None

    def _convert(self, model: Classifier, signed: bool) -> None:
        for parent, name, path, child in learning_parts(model):
            if isinstance(child, _NormBase):
                self._take_norm(child, path)
            elif isinstance(child, nn.LayerNorm | nn.GroupNorm):
                _drop(child, "weight", "bias")
            else:
                self.layers[path] = masked_layer(child, path, signed=signed)
                setattr(parent, name, self.layers[path])

    def _take_norm(self, norm: _NormBase, path: str) -> None:
        learns = norm.weight is not None and norm.weight.requires_grad
        if learns:
            _drop(norm, "weight", "bias")
            norm.affine = False
        # A frozen encoder's statistics stay for all tasks; those of one that learns do not.
        if norm.track_running_stats and (learns or not norm.affine):
            self.norms[path] = norm

    # One task's way through the network.

    def draw(self, seed: int) -> dict[str, Tensor]:
        """Scores to begin a task from, by layer."""
        generator = torch.Generator().manual_seed(seed)
        return {name: draw_scores(layer, generator) for name, layer in self.layers.items()}

    def search(
        self, scores: Mapping[str, Tensor], selections: Mapping[str, Selection]
    ) -> list[nn.Parameter]:
        """Begin to search a task's mask; the scores that are to be optimized."""
        self.learn()
        self.statistics.reset()
        layers = self.layers.items()
        return [layer.search(scores[name], selections[name]) for name, layer in layers]

    def settle(self) -> None:
        """The mask stays as the scores have it now."""
        self._settled = self._scores()
        for layer in self.layers.values():
            layer.settle()

    def train_weights(self, exclusive: bool, compact: bool = True) -> list[nn.Parameter]:
        """Begin to train the weights of the mask; what is to be optimized.

        Args:
            exclusive: those alone that no mask before has claimed.
            compact: see ``MaskedLayer.train_weights``.
        """
        parameters = []
        for layer in self.layers.values():
            learns = layer.found()
            if exclusive:
                learns = learns & ~layer.is_claimed()
            parameters.append(layer.train_weights(learns, compact))
        return parameters

    def capture(self) -> Snapshot:
        """The subnetwork that is being learned, copied."""
        masks = {name: pack(layer.found()) for name, layer in self.layers.items()}
        trained = {
            name: layer.trained.detach().clone()
            for name, layer in self.layers.items()
            if layer.trained is not None
        }
        scores = self._scores() or self._settled
        return Snapshot(masks, trained or None, self.statistics.now(), scores)

    def _scores(self) -> dict[str, Tensor] | None:
        scores = {name: layer.scores for name, layer in self.layers.items()}
        if not self.remembers_scores:
            return None
        return {n: s.detach().clone() for n, s in scores.items() if s is not None} or None

    def keep(self, name: str, snapshot: Snapshot) -> None:
        """End a task with the subnetwork as it was at that moment."""
        self.learn()
        for path, layer in self.layers.items():
            trained = snapshot.trained[path] if snapshot.trained is not None else None
            layer.keep(name, unpack(snapshot.masks[path], layer.weight.shape), trained)
            if snapshot.scores is not None:
                layer.register_buffer(f"scores_{name}", snapshot.scores[path])
        self._settled = None
        self.statistics.keep(name, snapshot.statistics)

    # Answers.

    def put_together(self) -> None:
        """Answer with the subnetwork that is being learned, until ``learn``."""
        for layer in self.layers.values():
            layer.put_together_now()

    def learn(self) -> None:
        """Go on with the subnetwork that is being learned."""
        self.statistics.learn()
        self.shown = None
        for layer in self.layers.values():
            layer.take_apart()

    def show(self, name: str) -> None:
        """Answer with a subnetwork that was kept, until another is shown, or ``learn``."""
        if name == self.shown:
            return
        self.shown = name
        self.statistics.show(name)
        for layer in self.layers.values():
            layer.show(name)


def learning_parts(
    module: nn.Module, prefix: str = ""
) -> Iterator[tuple[nn.Module, str, str, nn.Module]]:
    """Layers and normalisations that learn, and normalisations that keep running statistics.

    Yields:
        The module that holds it, its name there, its full name, and itself.
    """
    for name, child in list(module.named_children()):
        path = prefix + name
        learns = any(parameter.requires_grad for parameter in child.parameters(recurse=False))
        if learns or isinstance(child, _NormBase):
            yield module, name, path, child
        else:
            yield from learning_parts(child, f"{path}.")


def _drop(module: nn.Module, *names: str) -> None:
    for name in names:
        module.register_parameter(name, None)


def masked_layer(
    module: nn.Module, path: str, signed: bool = False, biased: bool = False
) -> MaskedLayer:
    """The masked layer in place of one that learns.

    Args:
        path: the module's name, for an error.
        signed: whether its weights become signed constants.
        biased: whether it keeps its bias, which all tasks share.

    Raises:
        BadSpec: neither a linear layer nor a convolution padded with zeros.
    """
    kind = type(module)
    if (
        kind not in (nn.Linear, *CONVOLUTIONS)
        or getattr(module, "padding_mode", "zeros") != "zeros"
    ):
        accepted = "linear layers, convolutions padded with zeros, normalisations, and what is "
        raise BadSpec(f"model: {path}", kind.__name__, f"{accepted}frozen, for a method that masks")
    weight = module.get_parameter("weight").detach()
    if signed:
        weight = signed_constant(weight)
    bias = module.bias if biased else None
    assert bias is None or isinstance(bias, nn.Parameter)
    if isinstance(module, nn.Linear):
        return MaskedLinear(weight, bias)
    assert isinstance(module, CONVOLUTIONS)
    if isinstance(module.padding, str):
        raise BadSpec(f"model: {path}", f"padding {module.padding!r}", "padding in numbers")
    geometry = module.stride, module.padding, module.dilation, module.groups
    return MaskedConvolution(weight, *geometry, bias)
