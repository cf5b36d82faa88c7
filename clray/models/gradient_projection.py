"""Steps without what would undo old tasks: the part of a gradient that has to go is taken from it.

- ``remove_conflict`` takes away what points against another gradient (A-GEM);
- an ``InputSpace`` holds directions among the inputs of a layer, and takes away what would change
  the layer's answer to them (GPM). Of a layer whose output is W x, a step D of the weights changes
  it by D x, which is zero for every x in the space if the rows of D are at right angles to it.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from clray.distributed import Distributed
from clray.models.captured import capture
from clray.models.matrix_layers import as_matrix, from_matrix, inputs_of, num_groups, with_ones

ROUNDING = 1e-10
"""A direction with a smaller share of the inputs' squared length is none: bases are float32."""
CHUNK = 1 << 21
"""Numbers laid out at once."""


def remove_conflict(gradients: list[Tensor], reference: list[Tensor]) -> Tensor:
    """Take from a gradient, in place, what points against the reference.

    The gradient g becomes g - min(0, g . r) / (r . r) * r, all its tensors taken together: where
    g . r < 0 the nearest one at right angles to r, and elsewhere g to the bit. Nothing waits for
    the device.

    Args:
        gradients: g, tensors of any shapes.
        reference: r, of the same shapes.

    Returns:
        bool, 0-d: whether g . r < 0.
    """
    flat = torch.cat([r.flatten() for r in reference])
    dot = torch.dot(torch.cat([g.flatten() for g in gradients]), flat)
    square = torch.dot(flat, flat).clamp(min=torch.finfo(flat.dtype).tiny)
    torch._foreach_sub_(gradients, torch._foreach_mul(reference, dot.clamp(max=0) / square))
    return dot < 0


class InputSpace:
    """Directions among the inputs of a layer, as G matrices [O, I], along which it may not change.

    Args:
        groups: G.
        width: I, with the bias's one if the space has it.
        like: gives dtype and device.

    Attributes:
        basis: [G, I, K], columns at right angles and of length 1; where a group has fewer than
            another, columns of zeros come after them.
        sizes: how many directions each group has.
    """

    def __init__(self, groups: int, width: int, like: Tensor) -> None:
        self.basis = like.new_zeros(groups, width, 0)
        self.sizes = [0] * groups

    @property
    def share(self) -> float:
        """How much of all directions it holds."""
        return sum(self.sizes) / self.basis.shape[:2].numel()

    @property
    def full(self) -> bool:
        """Whether nothing may change."""
        return min(self.sizes) == self.basis.shape[1]

    @property
    def num_bytes(self) -> int:
        """What is kept."""
        return self.basis.numel() * self.basis.element_size()

    @torch.no_grad()
    def grow(self, moments: Tensor, threshold: float) -> None:
        """Add the fewest directions with which a share of the inputs' squared length lies within.

        Inputs that are no numbers add none.

        Args:
            moments: float64 [G, I, I], the sum of x x' over the inputs x.
            threshold: the share, in [0, 1].
        """
        if not moments.isfinite().all():
            return
        known = self.basis.double()
        left = moments - known @ (known.mT @ moments)
        left = left - (left @ known) @ known.mT
        total = _trace(moments)
        lengths, directions = _spectrum((left + left.mT) / 2)
        before = (total - _trace(left))[:, None] + lengths.cumsum(1) - lengths
        wanted = (before < threshold * total[:, None]) & (lengths > ROUNDING * total[:, None])
        counts = wanted.sum(1).tolist()
        new = directions[:, :, : max(counts)]
        new = new - known @ (known.mT @ new)  # again, since float32 is not quite at right angles
        new = torch.linalg.qr(new).Q * wanted[:, None, : max(counts)]
        joined = torch.cat([self.basis, new.to(self.basis.dtype)], 2)
        self.sizes = [size + count for size, count in zip(self.sizes, counts, strict=True)]
        if len(self.sizes) > 1:  # zeros of a smaller group go to its end
            order = joined.any(1).long().argsort(dim=1, descending=True, stable=True)
            joined = joined.gather(2, order[:, None].expand_as(joined))
        self.basis = joined[:, :, : max(self.sizes)].contiguous()

    @torch.no_grad()
    def remove(self, weight: Tensor, bias: Tensor | None) -> None:
        """Take from a gradient, or a step, of a layer's weights what lies within; in place.

        Args:
            weight: of the shape of the layer's.
            bias: the bias's, or None where the space is without its one.
        """
        matrix = as_matrix(weight, bias, len(self.sizes))
        within = (matrix @ self.basis) @ self.basis.mT
        from_weight, from_bias = from_matrix(within, weight, bias)
        weight -= from_weight
        if bias is not None and from_bias is not None:
            bias -= from_bias


@torch.no_grad()
def input_moments(
    model: nn.Module,
    layers: dict[str, nn.Module],
    batches: Iterable[Tensor],
    ones: bool,
    distributed: Distributed,
) -> dict[str, Tensor]:
    """Sums of x x' over all that some layers of a network meet, by name: float64 [G, I, I].

    A convolution meets patches, one at each pixel of its output.

    Args:
        model: in evaluation mode.
        layers: Linear and convolution layers of it; zeros for one that is not used just once.
        batches: this worker's inputs [B, ...] of the network.
        ones: whether a bias's one is part of x.
        distributed: the workers that share them.
    """
    sums: dict[str, Tensor] = {}
    for name, module in layers.items():
        weight = _weight(module)
        width = weight[0].numel() + (ones and module.bias is not None)
        sums[name] = weight.new_zeros(num_groups(module), width, width, dtype=torch.float64)
    for x in batches:
        if not len(x):
            continue
        for name, found in capture(model, x, layers).inputs.items():
            module = layers[name]
            overlap = _weight(module).shape[2:].numel()
            size = max(1, CHUNK // max(1, found[0].numel() * overlap))
            for part in torch.split(found, size):
                columns = inputs_of(module, part)
                if ones and module.bias is not None:
                    columns = with_ones(columns)
                laid = columns.permute(1, 2, 0, 3).flatten(2).double()
                sums[name] += laid @ laid.mT
    return {name: distributed.sum(value) for name, value in sums.items()}


def _spectrum(matrices: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues [G, I], the largest first, and eigenvectors [G, I, I], columns, of matrices that
    are positive semi-definite; a search among what is zero in all of them may not end."""
    groups, width = matrices.shape[:2]
    seen = matrices.diagonal(dim1=1, dim2=2).any(0).nonzero()[:, 0]
    values, vectors = torch.linalg.eigh(matrices[:, seen][:, :, seen])
    lengths = matrices.new_zeros(groups, width)
    directions = torch.zeros_like(matrices)
    lengths[:, : len(seen)] = values.flip(1).clamp(min=0)
    directions[:, seen, : len(seen)] = vectors.flip(2)
    return lengths, directions


def _weight(module: nn.Module) -> Tensor:
    weight: Tensor = module.weight  # type: ignore[assignment]
    return weight


def _trace(matrices: Tensor) -> Tensor:
    return matrices.diagonal(dim1=1, dim2=2).sum(1)
