"""A network in its first-order expansion around fixed weights, of which the step alone is learned.

    f(x; w0) + J(x) d,    J(x) = the derivative of f by its weights, at w0

is linear in the step d: with a squared loss, each task's loss is a quadratic in d, the same
everywhere. Forward-mode differentiation gives both terms in one pass (about three times the
network's), and the backward pass meets d alone.

DLCFT (Shon et al. 2022, arXiv 2208.08112) and LQF (Achille et al. 2021, arXiv 2012.11140).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.func import functional_call, jvp
from torch.nn.attention import SDPBackend, sdpa_kernel

# What forward mode says on its first use, of torch's own code.
warnings.filterwarnings("ignore", "`torch.jit.script` is deprecated", FutureWarning)


class Linearised(nn.Module):
    """What a network gives near its weights, to first order; always in evaluation mode.

    Args:
        network: stays as it is, and learns no more.
        names: of the parameters that have a step; all others stay at their values.

    Attributes:
        steps: d of each named parameter, zero at first; see ``step``.
    """

    def __init__(self, network: nn.Module, names: Iterable[str]) -> None:
        super().__init__()
        self.network = network.requires_grad_(False).eval()
        self.names = list(names)
        anchors = dict(network.named_parameters())
        steps = {_key(name): nn.Parameter(torch.zeros_like(anchors[name])) for name in self.names}
        self.steps = nn.ParameterDict(steps)

    def train(self, mode: bool = True) -> Self:
        """Set the mode; the network stays in evaluation mode, its statistics as they are."""
        super().train(mode)
        self.network.eval()
        return self

    @property
    def anchors(self) -> dict[str, Tensor]:
        """w0 of each parameter that has a step."""
        parameters = dict(self.network.named_parameters())
        return {name: parameters[name] for name in self.names}

    def step(self, name: str) -> nn.Parameter:
        """d of a parameter of the network, by its name there."""
        found: nn.Parameter = self.steps[_key(name)]
        return found

    def forward(self, x: Any) -> Tensor:
        """What the network gives for x, moved by the steps to first order."""
        anchors = self.anchors

        def at(weights: dict[str, Tensor]) -> Tensor:
            found: Tensor = functional_call(self.network, weights, (x,))
            return found

        if not anchors:
            return at({})
        steps = {name: self.step(name) for name in self.names}
        with _plain_attention():
            primal: Tensor
            tangent: Tensor
            primal, tangent = jvp(at, (anchors,), (steps,))  # type: ignore[misc]
        return primal + tangent


@contextmanager
def _plain_attention() -> Iterator[None]:
    """Without fused kernels, which have no forward mode."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def _key(name: str) -> str:
    """A name without dots, which torch keeps for modules."""
    return name.replace(".", "/")
