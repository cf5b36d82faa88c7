"""Linear and convolution layers whose tasks each use some of the same weights.

What a layer computes with depends on what it is doing: searching a mask by its scores (the weights
stand still), training the weights of a mask, or answering for a task with weights that were put
together once. The search passes the mask's gradient straight through to the scores (edge-popup,
Ramanujan et al. 2020, arXiv 1911.13299): every weight's score learns, selected or not.

Off the mask weights are left out by selection, not by a product with 0, so that an infinite weight
of another task does no harm.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clray.models.bitmask import Selection, pack, unpack


class MaskedLayer(nn.Module):
    """Weights, one mask for each task, and the union of these.

    Args:
        weight: float [outputs, inputs, ...].
        bias: float [outputs], which no mask touches; None: there is none.

    Attributes:
        weight: shared by all tasks; changed by ``keep`` and ``prune`` alone.
        claimed: uint8 bits, the union of all masks that were kept.
        scores: of the weights, while a mask is searched.
        trained: the weights that learn, while they do.
    """

    weight: nn.Parameter
    bias: nn.Parameter | None
    claimed: Tensor
    scores: nn.Parameter | None
    trained: nn.Parameter | None

    def __init__(self, weight: Tensor, bias: nn.Parameter | None = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.detach().clone(), requires_grad=False)
        self.register_parameter("bias", bias)
        self.register_buffer("claimed", pack(torch.zeros_like(weight, dtype=torch.bool)))
        self.register_parameter("scores", None)
        self.register_parameter("trained", None)
        self.selection: Selection | None = None
        self.mask: Tensor | None = None
        self.learns: Tensor | None = None
        self.places: Tensor | None = None
        self.beneath: Tensor | None = None
        self.put_together: Tensor | None = None

    @property
    def fan_in(self) -> int:
        """How many inputs each output is made of."""
        return self.weight[0].numel()

    @property
    def effective(self) -> Tensor:
        """The weights that the layer computes with now."""
        if self.put_together is not None:
            return self.put_together
        if self.scores is not None:
            assert self.selection is not None
            selected: Tensor = _Selected.apply(self.weight, self.scores, self.selection)
            return selected
        if self.trained is not None:
            return self._with_trained(self.trained)
        return self.weight

    def _with_trained(self, trained: Tensor) -> Tensor:
        if self.beneath is not None:
            assert self.places is not None
            return self.beneath.index_copy(0, self.places, trained).view_as(self.weight)
        assert self.mask is not None
        assert self.learns is not None
        whole = torch.where(self.learns, trained, trained.detach())
        return torch.where(self.mask, whole, 0)

    # One task's way through the layer.

    def search(self, scores: Tensor, selection: Selection) -> nn.Parameter:
        """Begin to search a mask.

        Args:
            scores: to begin from, of the weights' shape.
            selection: makes a mask of them.

        Returns:
            The scores, to be optimized.
        """
        self.rest()
        self.selection = selection
        self.scores = nn.Parameter(scores)
        return self.scores

    def found(self) -> Tensor:
        """The mask as the scores have it now, or as it was settled; bool."""
        if self.scores is not None:
            assert self.selection is not None
            return self.selection(self.scores)
        assert self.mask is not None
        return self.mask

    def settle(self) -> None:
        """End the search: the mask stays as the scores have it."""
        self.mask, self.scores, self.selection = self.found(), None, None
        self.put_together = None

    def use(self, mask: Tensor) -> None:
        """Begin with a mask, bool, that is known: nothing is searched."""
        self.rest()
        self.mask = mask

    def train_weights(self, learns: Tensor, compact: bool = True) -> nn.Parameter:
        """Begin to train weights of the mask.

        Args:
            learns: bool, which ones; none off the mask.
            compact: optimize a vector of these alone, so that no optimizer can reach another
                weight; else all weights, with a gradient of 0 for those that must not learn, as the
                authors' code does. Then weight decay, or an optimizer that remembers another task,
                changes the others all the same.

        Returns:
            What is to be optimized.
        """
        assert self.mask is not None
        self.put_together = None
        if compact:
            self.places = learns.flatten().nonzero().squeeze(1)
            self.beneath = on_mask(self.weight.detach(), self.mask).flatten()
            self.trained = nn.Parameter(self.weight.detach().flatten()[self.places])
        else:
            self.learns = learns
            self.trained = nn.Parameter(self.weight.detach().clone())
        return self.trained

    def put_together_now(self) -> None:
        """Answer with the weights as they are, without putting them together for each batch."""
        self.put_together = self.effective.detach()

    def take_apart(self) -> None:
        """Go on learning after ``put_together_now``."""
        self.put_together = None

    def keep(self, name: str, mask: Tensor, trained: Tensor | None) -> None:
        """End a task: its mask is claimed, and its trained weights are written.

        Args:
            name: of the mask, among the layer's.
            mask: bool.
            trained: as ``train_weights`` returned them; None: the weights stay as they were.
        """
        if trained is not None:
            self._write(trained)
        bits = pack(mask)
        self.register_buffer(f"mask_{name}", bits)
        self.claimed |= bits
        self.rest()

    def prune(self, mask: Tensor) -> None:
        """Go on from the trained weights as they are, with those of them off a mask at 0.

        Args:
            mask: bool; what was not being trained stays as it is.
        """
        assert self.trained is not None
        assert self.places is not None
        on = mask.flatten()[self.places]
        self._write(torch.where(on, self.trained.detach(), 0))
        self.use(mask)

    def _write(self, trained: Tensor) -> None:
        """Into the weights."""
        if self.places is not None:
            self.weight.data.flatten()[self.places] = trained
        else:
            self.weight.data.copy_(trained)

    def rest(self) -> None:
        """Leave off learning; what was not kept is lost."""
        self.scores = self.trained = None
        self.selection = self.mask = self.put_together = None
        self.learns = self.places = self.beneath = None

    def show(self, name: str) -> None:
        """Answer as a task whose mask was kept."""
        self.put_together = on_mask(self.weight.detach(), self.mask_of(name))

    def mask_of(self, name: str) -> Tensor:
        """The mask that was kept under a name; bool."""
        return unpack(self.get_buffer(f"mask_{name}"), self.weight.shape)

    def is_claimed(self) -> Tensor:
        """The union of all masks that were kept; bool."""
        return unpack(self.claimed, self.weight.shape)


class MaskedLinear(MaskedLayer):
    """A fully connected layer: float [..., inputs] to [..., outputs]."""

    def forward(self, x: Tensor) -> Tensor:
        """See above."""
        return F.linear(x, self.effective, self.bias)


class MaskedConvolution(MaskedLayer):
    """A convolution over one, two or three dimensions, padded with zeros.

    Args:
        weight: float [outputs, inputs / groups, ...].
        stride, padding, dilation, groups: as torch's, of each dimension.
    """

    def __init__(
        self,
        weight: Tensor,
        stride: tuple[int, ...],
        padding: tuple[int, ...],
        dilation: tuple[int, ...],
        groups: int,
        bias: nn.Parameter | None = None,
    ) -> None:
        super().__init__(weight, bias)
        self.geometry = stride, padding, dilation, groups

    def forward(self, x: Tensor) -> Tensor:
        """Float [B, C, ...] to [B, C', ...]."""
        stride, padding, dilation, groups = self.geometry
        zeros = (0,) * len(stride)
        effective = self.effective
        return torch.convolution(
            x, effective, self.bias, stride, padding, dilation, False, zeros, groups
        )


class _Selected(torch.autograd.Function):
    """Weights on the mask of their scores, 0 elsewhere."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, scores: Tensor, selection: Selection) -> Tensor:
        ctx.save_for_backward(weight, scores)
        ctx.selection = selection
        return on_mask(weight, selection(scores))

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[None, Tensor, None]:
        weight, scores = ctx.saved_tensors
        return None, ctx.selection.through(gradients[0] * weight, scores), None


def on_mask(weight: Tensor, mask: Tensor) -> Tensor:
    """Weights where the mask is set and 0 elsewhere, whatever they are there; without gradients.

    Args:
        weight: float32, of any shape.
        mask: bool, of the same shape.
    """
    if weight.dtype != torch.float32:
        return torch.where(mask, weight, 0)
    # Bit by bit, a fifth of the time of torch.where on CPUs.
    all_or_none = mask.view(torch.int8).to(torch.int32).neg_()
    return all_or_none.bitwise_and_(weight.view(torch.int32)).view(torch.float32)


def signed_constant(weight: Tensor) -> Tensor:
    """The signs of some weights times sqrt(2 / fan_in), as SupSup begins (arXiv 2006.14769)."""
    size = math.sqrt(2 / weight[0].numel())
    return torch.where(weight < 0, -size, size)


def draw_scores(layer: MaskedLayer, generator: torch.Generator) -> Tensor:
    """Uniform in +-1 / sqrt(fan_in), of the weights' shape: Kaiming's with a = sqrt(5)."""
    bound = 1 / math.sqrt(layer.fan_in)
    drawn = torch.rand(layer.weight.shape, generator=generator)
    return drawn.mul_(2 * bound).sub_(bound).to(layer.weight.device)
