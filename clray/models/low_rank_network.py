"""One network learned on the first task, and of each later task what differs from it.

A classifier's learnable linear and convolution layers become layers that take another form for each
task (``low_rank``). Its normalisations, with running statistics or without, its biases and the rows
of its head belong to each task alone. What is frozen stays as it is.

The network's own parameters and buffers are always the first task's: forms are put in place for as
long as they are needed. What tasks have of their own is told by their names, and lies in buffers of
``model.learned``, so that the whole is in ``model.state_dict()``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from clray.errors import BadSpec
from clray.models.classifier import Classifier
from clray.models.growth import Sizes, Taken
from clray.models.low_rank import (
    Dense,
    Factored,
    LowRankConvolution,
    LowRankLayer,
    LowRankLinear,
    restored,
    stored,
)
from clray.models.low_rank_fit import Convolutions
from clray.models.low_rank_form import (
    AFFINE,
    COUNTER,
    Form,
    Head,
    Tensors,
    copied_norm,
    drawn_head,
    learning,
    norm_tensors,
    still_norm,
    under,
)

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


@dataclass
class LowRankNetwork:
    """The layers and normalisations of a network, and what each task has of them.

    Args:
        model: becomes a network of low-rank layers.
        convolutions: what factors of convolutions are.

    Raises:
        BadSpec: a network with other parameters that learn, or with none beneath its head.

    Attributes:
        layers: by name, in the order of the network's modules.
        norms: that learn, or keep running statistics beside what learns; by name.
        sizes: how many numbers it has.
        working: what the task that is being learned computes with.
    """

    model: Classifier
    convolutions: Convolutions = "window-mean"
    layers: dict[str, LowRankLayer] = field(default_factory=dict, init=False)
    norms: dict[str, nn.Module] = field(default_factory=dict, init=False)
    working: Form | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        if any(isinstance(module, LowRankLayer) for module in self.model.modules()):
            raise BadSpec("model", "low-rank layers", "a network that no other method has made")
        if not self.model.head.weight.requires_grad:
            raise BadSpec("model: head", "frozen", "a head that learns")
        head = Head(self.model.head.in_features)
        head.rows = Dense(self.model.head.weight.detach()[:0], None)
        self._convert(self.model, "")
        if not self.layers:
            accepted = "a network with layers that learn beneath its head"
            raise BadSpec("model", type(self.model).__name__, accepted)
        self.model.head = head  # type: ignore[assignment]
        self.model.add_module("learned", nn.Module())
        self._original = {path: norm_tensors(norm) for path, norm in self.norms.items()}
        self._now = self._base(head.rows)
        self._shown: tuple[str, Form] | None = None
        shapes = [layer.weight.shape for layer in self.layers.values()]
        biases = [layer.bias for layer in self.layers.values() if layer.bias is not None]
        self.sizes = Sizes(
            weights=sum(shape.numel() for shape in shapes),
            biases=sum(bias.numel() for bias in biases),
            scales=sum(shape[0] + shape[1] for shape in shapes),
            norms=sum(
                n[part].numel() for n in self._original.values() for part in AFFINE if part in n
            ),
            features=head.in_features,
        )

    def __getstate__(self) -> dict[str, Any]:
        # Whole weights can be put together again.
        return {**vars(self), "_shown": None}

    def _convert(self, module: nn.Module, prefix: str) -> None:
        for name, child in list(module.named_children()):
            path = prefix + name
            own = list(child.parameters(recurse=False))
            learns = any(parameter.requires_grad for parameter in own)
            if child is self.model.head:
                continue
            if isinstance(child, _NormBase):
                if learns or not child.affine:
                    self.norms[path] = child
            elif not learns:
                self._convert(child, f"{path}.")
            elif isinstance(child, nn.LayerNorm | nn.GroupNorm):
                self.norms[path] = child
            else:
                self.layers[path] = _low_rank(child, path, self.convolutions)
                setattr(module, name, self.layers[path])

    # The forms that it takes.

    @contextmanager
    def using(self, form: Form) -> Iterator[None]:
        """Compute with a form, within."""
        before = self._now
        self._put(form)
        try:
            yield
        finally:
            self._put(before)

    def _put(self, form: Form) -> None:
        for path, layer in self.layers.items():
            layer.form = form.layers[path]
        for path, norm in self.norms.items():
            for name, value in form.norms[path].items():
                setattr(norm, name, value)
        assert isinstance(self.model.head, Head)
        self.model.head.rows = form.head
        self._now = form

    def _base(self, head: Dense) -> Form:
        return Form(dict.fromkeys(self.layers), self._original, head)

    def drawn_head(self, classes: int, seed: int) -> Dense:
        """Rows of a head for so many classes, drawn from a seed."""
        like = next(iter(self.layers.values())).weight
        return drawn_head(classes, like, self.sizes.features, seed)

    def first(self, head: Dense) -> Form:
        """The network itself, to learn the first task with."""
        return self._base(learning(head))

    def free(self, head: Dense) -> Form:
        """A copy of the first task's network in which everything learns."""
        layers: dict[str, Dense | Factored | None] = {
            path: learning(Dense(layer.weight, layer.bias)) for path, layer in self.layers.items()
        }
        norms = {path: copied_norm(tensors) for path, tensors in self._original.items()}
        return Form(layers, norms, learning(head))

    def freeze(self) -> None:
        """Nothing of the first task's learns any more."""
        for parameter in self.model.parameters():
            parameter.requires_grad_(False)
            parameter.grad = None

    # What tasks have of their own.

    def keep(self, name: str, form: Form, drops: bool = True) -> None:
        """End a task with a form, factored or the first task's.

        Args:
            name: of the task.
            form: of which the task's own tensors are copied.
            drops: whether directions that are all zeros are left out.
        """
        tensors: Tensors = {}
        for path, one in form.layers.items():
            if isinstance(one, Factored):
                own = {"rows": one.rows, "columns": one.columns}
                own |= {} if one.bias is None else {"bias": one.bias}
                own |= stored(one.left.detach(), one.right.detach(), drops)
                tensors |= {f"{path}.{part}": value for part, value in own.items()}
        if tensors:
            for path, norm in form.norms.items():
                parts = (p for p in norm if p != COUNTER)
                tensors |= {f"{path}.{part}": norm[part] for part in parts}
        tensors["head.weight"] = form.head.weight
        if form.head.bias is not None:
            tensors["head.bias"] = form.head.bias
        self.adopt(name, {place: value.detach().clone() for place, value in tensors.items()})

    def adopt(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        """Take what another network like this one has ``kept`` of a task, for this one's."""
        like = next(iter(self.layers.values())).weight
        task = nn.Module()
        for place, value in tensors.items():
            task.register_buffer(place.replace(".", "/"), value.to(like.device))
        self.model.get_submodule("learned").add_module(_key(name), task)
        self._shown = None

    def has(self, name: str) -> bool:
        """Whether the task was learned or adopted."""
        return _key(name) in self._tasks()

    def kept(self, name: str) -> Tensors:
        """All tensors that a task has of its own, by place."""
        task = self._tasks()[_key(name)]
        return {place.replace("/", "."): value for place, value in task.named_buffers()}

    def _tasks(self) -> dict[str, nn.Module]:
        return dict(self.model.get_submodule("learned").named_children())

    def form_of(self, tensors: Mapping[str, Tensor]) -> Form:
        """The form that kept tensors stand for."""
        layers: dict[str, Dense | Factored | None] = dict.fromkeys(self.layers)
        norms = dict(self._original)
        for path, layer in self.layers.items():
            own = under(path, tensors)
            if own:
                left, right = restored(own, layer.weight.shape[0], layer.width)
                layers[path] = Factored(own["rows"], own["columns"], left, right, own.get("bias"))
        for path in self.norms:
            own = under(path, tensors)
            if own:
                norms[path] = still_norm(own)
        return Form(layers, norms, Dense(tensors["head.weight"], tensors.get("head.bias")))

    @torch.no_grad()
    def answering(self, name: str) -> Form:
        """A learned task's form to answer with; whole weights, of one task at a time."""
        if self._shown is None or self._shown[0] != name:
            self._shown = None
            form = self.form_of(self.kept(name))
            for path, one in form.layers.items():
                if isinstance(one, Factored):
                    form.layers[path] = self.layers[path].put_together(one)
            self._shown = name, form
        return self._shown[1]

    def unlearned(self, head: Dense) -> Form:
        """The first task's network, with other rows in its head."""
        return self._base(head)

    def rest(self) -> None:
        """Leave off learning and answering."""
        self.working = self._shown = None

    # What they take.

    def taken(self, name: str) -> Taken:
        """What a task has of its own, counted."""
        return Taken.of(self.kept(name), self.layers)

    def base_bytes(self) -> int:
        """Of the network itself, without any head: parameters and buffers, the frozen ones too."""
        own = {id(value) for value in self.model.get_submodule("learned").buffers()}
        tensors = [*self.model.parameters(), *self.model.buffers()]
        return sum(t.numel() * t.element_size() for t in tensors if id(t) not in own)


def _key(name: str) -> str:
    """A task's name as a module may have it, and none of torch's own attributes."""
    return "task " + quote(name, safe=" ").replace(".", "%2E")


def _low_rank(module: nn.Module, path: str, convolutions: Convolutions) -> LowRankLayer:
    """The low-rank layer in place of one that learns, around the same parameters.

    Raises:
        BadSpec: neither a linear layer nor a convolution in one group, padded with zeros.
    """
    kind, problem = type(module), ""
    accepted = "linear layers, convolutions in one group padded with zeros, normalisations, and "
    accepted += "what is frozen, for a method that changes layers task by task"
    if kind not in (nn.Linear, *CONVOLUTIONS):
        raise BadSpec(f"model: {path}", kind.__name__, accepted)
    weight, bias = module.get_parameter("weight"), getattr(module, "bias", None)
    if not all(part is None or part.requires_grad for part in (weight, bias)):
        problem = "frozen in part"
    if isinstance(module, CONVOLUTIONS):
        if module.groups != 1:
            problem = f"in {module.groups} groups"
        elif module.padding_mode != "zeros" or isinstance(module.padding, str):
            problem = f"with padding {module.padding!r}, {module.padding_mode}"
    if problem:
        raise BadSpec(f"model: {path}", f"{kind.__name__} {problem}", accepted)
    if isinstance(module, nn.Linear):
        return LowRankLinear(weight, bias)
    assert isinstance(module, CONVOLUTIONS)
    assert not isinstance(module.padding, str)
    geometry = module.stride, module.padding, module.dilation
    return LowRankConvolution(weight, bias, *geometry, convolutions)
