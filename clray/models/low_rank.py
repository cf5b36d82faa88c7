"""Linear and convolution layers that later tasks perturb by low rank (HALRP, arXiv 2311.15161).

The weights of the first task are shared by all. A later task rescales their rows and columns and
adds a product of two thin factors: ``R * W * S + U V``. While it is learned that weight is not
built, and no gradient of the shared one is computed; what answers is put together once.

A convolution's factors either add the same value to a whole window of the kernel, as in the
authors' code (``window-mean``), or are a convolution into as many channels as the rank and a 1x1
convolution after it, which can express any kernel (``reshape``). Of the latter, ranks above about a
third of the outputs cost more than the whole weight, which is then built at each step.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clray.models.bitmask import pack, unpack
from clray.models.low_rank_fit import Convolutions

POOLS = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}
"""Of so many dimensions."""


@dataclass
class Dense:
    """A weight as it is.

    Attributes:
        weight: float [outputs, inputs, ...window].
        bias: float [outputs], or None.
    """

    weight: Tensor
    bias: Tensor | None


@dataclass
class Factored:
    """What a later task makes of the shared weight.

    Attributes:
        rows: R, float [outputs].
        columns: S, float [inputs].
        left: U, float [outputs, rank]; the rank may be 0.
        right: V, float [rank, inputs], or [rank, inputs * window] for ``reshape``.
        bias: float [outputs], or None.
    """

    rows: Tensor
    columns: Tensor
    left: Tensor
    right: Tensor
    bias: Tensor | None


class LowRankLayer(nn.Module):
    """A layer with the first task's weight, and a form that it takes for another.

    Args:
        weight: [outputs, inputs, ...window].
        bias: [outputs], or None.

    Attributes:
        form: what the layer computes with now; None: the first task's weight.
    """

    weight: nn.Parameter
    bias: nn.Parameter | None

    def __init__(self, weight: nn.Parameter, bias: nn.Parameter | None) -> None:
        super().__init__()
        self.weight = weight
        self.register_parameter("bias", bias)
        self.form: Dense | Factored | None = None

    @property
    def window(self) -> int:
        """Entries of the kernel's window; 1 for a linear layer."""
        return math.prod(self.weight.shape[2:])

    @property
    def width(self) -> int:
        """How long a row of the right factor is."""
        return self.weight.shape[1]

    def forward(self, x: Tensor) -> Tensor:
        """Float [B, inputs, ...] to [B, outputs, ...]."""
        if isinstance(self.form, Factored):
            return self._factored(x, self.form)
        form = self.form or Dense(self.weight, self.bias)
        return self._dense(x, form.weight, form.bias)

    def put_together(self, form: Factored) -> Dense:
        """The weight that a form stands for."""
        product = self._as_weight(form.left @ form.right)
        rows, columns = (self._over_window(v) for v in (form.rows[:, None], form.columns[None]))
        return Dense(rows * self.weight * columns + product, form.bias)

    def _dense(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        raise NotImplementedError

    def _factored(self, x: Tensor, form: Factored) -> Tensor:
        raise NotImplementedError

    def _as_weight(self, product: Tensor) -> Tensor:
        """The factors' product [outputs, width], to be added to the weight."""
        return product

    def _over_window(self, scales: Tensor) -> Tensor:
        return scales.view(*scales.shape, *(1,) * (self.weight.ndim - 2))


class LowRankLinear(LowRankLayer):
    """A fully connected layer: float [..., inputs] to [..., outputs]."""

    def _dense(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.linear(x, weight, bias)

    def _factored(self, x: Tensor, form: Factored) -> Tensor:
        shared = F.linear(x * form.columns, self.weight)
        return _joined(shared, form.rows, self._added(x, form))

    def _added(self, x: Tensor, form: Factored) -> Tensor | None:
        if not len(form.right):
            return form.bias
        return F.linear(F.linear(x, form.right), form.left, form.bias)


class LowRankConvolution(LowRankLayer):
    """A convolution over one, two or three dimensions, padded with zeros, in one group.

    Args:
        weight, bias: see above.
        stride, padding, dilation: as torch's, of each dimension.
        convolutions: what its factors are.
    """

    def __init__(
        self,
        weight: nn.Parameter,
        bias: nn.Parameter | None,
        stride: tuple[int, ...],
        padding: tuple[int, ...],
        dilation: tuple[int, ...],
        convolutions: Convolutions,
    ) -> None:
        super().__init__(weight, bias)
        self.stride, self.padding, self.dilation = stride, padding, dilation
        self.exact = convolutions == "reshape"

    @property
    def width(self) -> int:
        """How long a row of the right factor is."""
        return self.weight.shape[1] * (self.window if self.exact else 1)

    def _as_weight(self, product: Tensor) -> Tensor:
        return product.view_as(self.weight) if self.exact else self._over_window(product)

    def _dense(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return self._convolve(x, weight, bias)

    def _convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None, groups: int = 1) -> Tensor:
        zeros = (0,) * len(self.stride)
        geometry = self.stride, self.padding, self.dilation
        return torch.convolution(x, weight, bias, *geometry, False, zeros, groups)

    def _factored(self, x: Tensor, form: Factored) -> Tensor:
        if self.exact and self._is_cheaper_whole(len(form.right)):
            whole = self.put_together(form)
            return self._dense(x, whole.weight, whole.bias)
        columns, rows = (self._over_window(v) for v in (form.columns, form.rows))
        added = self._added(x, form)
        if added is not None and not len(form.right):
            added = self._over_window(added)
        return _joined(self._convolve(x * columns, self.weight, None), rows, added)

    def _added(self, x: Tensor, form: Factored) -> Tensor | None:
        if not len(form.right):
            return form.bias
        if self.exact:
            thin = self._convolve(x, form.right.view(-1, *self.weight.shape[1:]), None)
        else:
            thin = self._summed(_pointwise(x, form.right * self._pool_scale(), None))
        return _pointwise(thin, form.left, form.bias)

    def _is_cheaper_whole(self, rank: int) -> bool:
        """Whether a step takes fewer products for each place of the output with the whole weight:
        forth, back, and its gradient, where only the factors' would be needed."""
        outputs = self.weight.shape[0]
        return 3 * rank * (self.width + outputs) > outputs * self.width

    def _pools(self) -> bool:
        """Whether torch's pooling can sum over the window."""
        sides = zip(self.padding, self.weight.shape[2:], strict=True)
        return set(self.dilation) == {1} and all(2 * pad <= side for pad, side in sides)

    def _pool_scale(self) -> int:
        """Turns the mean that pooling takes into a sum."""
        return self.window if self._pools() else 1

    def _summed(self, x: Tensor) -> Tensor:
        """Each channel's sum over the window; zeros that pad count."""
        sides = self.weight.shape[2:]
        if self.window == 1 and set(self.stride) == {1} and not any(self.padding):
            return x
        if self._pools():
            return POOLS[len(sides)](x, tuple(sides), self.stride, self.padding)
        ones = x.new_ones(x.shape[1], 1, *sides)
        return self._convolve(x, ones, None, groups=x.shape[1])


def _pointwise(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """A 1x1 convolution by [outputs, inputs]."""
    sides = (1,) * (x.ndim - 2)
    zeros = (0,) * len(sides)
    kernel = weight.view(*weight.shape, *sides)
    return torch.convolution(x, kernel, bias, sides, zeros, sides, False, zeros, 1)


def _joined(shared: Tensor, rows: Tensor, added: Tensor | None) -> Tensor:
    return shared * rows if added is None else torch.addcmul(added, shared, rows)


# What is kept of factors.


def stored(left: Tensor, right: Tensor, drops: bool = True) -> dict[str, Tensor]:
    """Two factors in as few bytes as it takes, without loss.

    Args:
        left: [outputs, rank].
        right: [rank, width].
        drops: whether directions are left out whose column or row is all zeros.

    Returns:
        ``pairs`` [rank, outputs + width], each direction's column and row; or, where zeros are many
        enough, ``values`` [n], those that are not zero, and ``bits`` uint8 [rank, bytes].
    """
    if drops:
        alive = (left != 0).any(0) & (right != 0).any(1)
        left, right = left[:, alive], right[alive]
    pairs = torch.cat([left.T, right], 1)
    mask = pairs != 0
    padded = F.pad(mask, (0, -pairs.shape[1] % 8))
    bits = pack(padded).view(len(pairs), -1) if len(pairs) else mask.new_zeros(0, 1).byte()
    values = pairs[mask]
    if values.numel() * values.element_size() + bits.numel() < pairs.numel() * pairs.element_size():
        return {"values": values, "bits": bits}
    return {"pairs": pairs}


def restored(kept: Mapping[str, Tensor], outputs: int, width: int) -> tuple[Tensor, Tensor]:
    """The factors [outputs, rank] and [rank, width] as they were ``stored``."""
    pairs = kept.get("pairs")
    if pairs is None:
        bits, values = kept["bits"], kept["values"]
        shape = torch.Size([len(bits), 8 * bits.shape[1]])
        mask = unpack(bits.flatten(), shape)[:, : outputs + width]
        pairs = values.new_zeros(len(bits), outputs + width).masked_scatter_(mask, values)
    return pairs[:, :outputs].T.contiguous(), pairs[:, outputs:].contiguous()
