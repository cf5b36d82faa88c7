"""A network in two: a lower one that is frozen, and an upper one that learns on what it gives.

Only a network whose modules run in a row can be cut: run one after the other, those up to the cut
give what the network has there, and the network without them goes on from it. Whether that is so
is tried out, on an input, before anything is taken apart.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Self

import torch
from torch import Tensor, nn

from clray.errors import BadSpec, UnknownName, nearest_name

TOLERANCE = 1e-5
"""By which both halves, one after the other, may differ from the network."""
TRIED = 24
"""Cuts that are tried to find some that an error can suggest."""
SUGGESTED = 3


class Upper(nn.Module):
    """The part of a network that learns; its batch normalisation keeps its statistics.

    Scale and shift of batch normalisation may learn, but it normalises with the statistics of the
    pre-training in training mode too, as does the lower part. Nothing works in place: what it is
    given may be examples that others read as well.

    Args:
        network: whose modules before the cut have become ``nn.Identity``.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        for module in network.modules():
            if getattr(module, "inplace", False):
                module.inplace = False  # type: ignore[assignment]

    def train(self, mode: bool = True) -> Self:
        """Set the mode; batch normalisation stays in evaluation mode."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Features [B, D] of what the lower part gives, such as maps [B, C, H, W]."""
        features: Tensor = self.network(x)
        return features


@dataclass(frozen=True)
class Cut:
    """The halves of a network.

    Attributes:
        lower: float [B, 3, H, W] to what the network has at the cut, [B, ...]; frozen.
        upper: from there to features [B, D].
        shape: of what one example has at the cut, such as (C, H, W).
    """

    lower: nn.Sequential
    upper: Upper
    shape: tuple[int, ...]


class CutNetwork(nn.Module):
    """Both halves, one after the other; the lower one stays in evaluation mode and as it is."""

    def __init__(self, cut: Cut) -> None:
        super().__init__()
        self.lower, self.upper = cut.lower, cut.upper

    def train(self, mode: bool = True) -> Self:
        """Set the mode of the upper half."""
        super().train(mode)
        self.lower.eval()
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Features [B, D] of float [B, 3, H, W]."""
        with torch.no_grad():
            found = self.lower(x)
        features: Tensor = self.upper(found)
        return features


@torch.no_grad()
def cut(network: nn.Module, name: str, x: Tensor, where: str) -> Cut:
    """Cut a network, which is taken apart, after one of its modules.

    Args:
        network: in evaluation mode, float [B, 3, H, W] to features [B, D].
        name: of the module that is the last of the lower half.
        x: an input that both ways are compared on.
        where: names the knob in an error.

    Raises:
        UnknownName: no module of that name.
        BadSpec: one after which the network cannot be cut.
    """
    names = [own for own, _ in network.named_modules() if own]
    if name not in names:
        blocks = [own for own in names if own.count(".") < 2][:TRIED]
        raise UnknownName(where, name, {nearest_name(name, names), *blocks} - {""})
    row, shape = _try(network, name, x)
    if shape is None:
        near = _near(network, name, x)
        accepted = "a module of a network whose modules run in a row"
        accepted += f", such as {', '.join(near)}" if near else "; this one's do not"
        raise BadSpec(where, name, accepted)
    parts = [(own.replace(".", "_"), network.get_submodule(own)) for own in row]
    for own in row:
        network.set_submodule(own, nn.Identity())
    lower = nn.Sequential(OrderedDict(parts)).requires_grad_(False).eval()
    return Cut(lower, Upper(network), shape)


@dataclass
class _Seen:
    """What is seen of a network that runs.

    Attributes:
        finished: names of its modules in the order in which they finish.
        there: what the module at the cut gives.
        features: what the network gives.
    """

    finished: list[str]
    there: Any
    features: Tensor


def _run(network: nn.Module, name: str, x: Tensor) -> _Seen:
    seen = _Seen([], None, x)

    def note(own: str, module: nn.Module, given: Any, found: Any) -> None:
        seen.finished.append(own)
        if own == name and isinstance(found, Tensor):
            seen.there = found.clone()  # what comes next may work in place

    hooks = [
        module.register_forward_hook(partial(note, own))
        for own, module in network.named_modules()
        if own
    ]
    try:
        seen.features = network(x)
    finally:
        for hook in hooks:
            hook.remove()
    return seen


def _row(finished: Sequence[str], name: str) -> list[str]:
    """The largest modules that are done once ``name`` is, in the order in which they finish."""
    if name not in finished:  # it is not in use
        return []
    done = list(dict.fromkeys(finished[: finished.index(name) + 1]))
    within = set(done)
    return [own for own in done if not any(parent in within for parent in _parents(own))]


def _parents(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[:count]) for count in range(1, len(parts))]


def _try(network: nn.Module, name: str, x: Tensor) -> tuple[list[str], tuple[int, ...] | None]:
    """The modules of the lower half, and the shape of what it gives; None: no cut is possible."""
    seen = _run(network, name, x)
    row = _row(seen.finished, name)
    if not row or seen.there is None:
        return row, None
    try:
        for own in row:
            x = network.get_submodule(own)(x)
        if not _equal(x, seen.there):
            return row, None
        with _without(network, row):
            found = network(x)
    except Exception:  # whatever a network raises that is given what it does not expect
        return row, None
    return row, tuple(seen.there.shape[1:]) if _equal(found, seen.features) else None


def _equal(found: Tensor, expected: Tensor) -> bool:
    same = found.shape == expected.shape
    return same and torch.allclose(found, expected, rtol=TOLERANCE, atol=TOLERANCE)


@contextmanager
def _without(network: nn.Module, row: Sequence[str]) -> Iterator[None]:
    """The network without those modules, for a while."""
    modules = {name: network.get_submodule(name) for name in row}
    for name in row:
        network.set_submodule(name, nn.Identity())
    try:
        yield
    finally:
        for name, module in modules.items():
            network.set_submodule(name, module)


def _near(network: nn.Module, name: str, x: Tensor) -> list[str]:
    """Some modules after which the network can be cut, those first that run nearest to ``name``."""
    order = list(dict.fromkeys(_run(network, name, x).finished))
    place = order.index(name) if name in order else 0
    outer = [own for own in order if own.count(".") <= min(1, name.count("."))]
    near = sorted(outer, key=lambda own: abs(order.index(own) - place))
    found: list[str] = []
    for own in near[:TRIED]:
        if _try(network, own, x)[1] is not None:
            found.append(own)
        if len(found) == SUGGESTED:
            break
    return found
