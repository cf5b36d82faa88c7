"""A task's curvature, layer by layer, from one or two passes over its examples.

Of a loss whose second derivative by the network's output is R R', the curvature is the mean over
examples of J' R R' J, J being the derivative of the output by the weights. The gradients J' r of
columns r of R, or of random r with mean(r r') = R R', are all that is needed of it: they are taken
at each layer's output, and never formed for the weights where a product of factors does.

Inputs are averaged over examples and places, output gradients over examples and summed over places
(Grosse & Martens 2016, arXiv 1602.01407). Traces and moments are those of each example's gradient,
exactly, in place of the paper's estimate for places that are alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn

from clray.distributed import Distributed
from clray.models.captured import capture
from clray.models.curvature import Block, Diagonal, Kronecker, Rotated
from clray.models.matrix_layers import inputs_of, num_groups, outputs_of, with_ones

Kind = Literal["diag", "kfac", "tkfac", "ekfac"]
Cotangents = Callable[[Tensor], list[Tensor]]
"""From the network's output [B, D] to gradients there [B, D], whose squares are added up."""
Batches = Callable[[], Iterator[tuple[Tensor, Cotangents]]]
"""A pass: this worker's inputs [B, ...] of the network, and what is propagated back from them."""
CHUNK = 1 << 21
"""Numbers laid out at once: 8 MiB of float32, which stay in the cache."""


def fit_curvature(
    kind: Kind,
    network: nn.Module,
    layers: dict[str, nn.Module],
    batches: Batches,
    count: int,
    distributed: Distributed,
) -> dict[str, Block]:
    """The curvature of each layer, by name.

    Args:
        network: in evaluation mode; its weights need not require gradients.
        layers: some of its Linear and convolution layers, each used once in a pass.
        batches: the same at each call.
        count: examples in all workers' batches.
        distributed: the workers that share them.
    """
    sums = {name: _Sums(kind, module) for name, module in layers.items()}
    for last in [True] if kind != "ekfac" else [False, True]:
        for x, cotangents in batches():
            if not len(x):
                continue
            captured = capture(network, x, layers)
            for name, found in captured.inputs.items():
                sums[name].see(found)
            pulled = cotangents(captured.output)
            for i, cotangent in enumerate(pulled):
                for name, gradient in captured.gradients(cotangent, i + 1 < len(pulled)).items():
                    sums[name].add(captured.inputs[name], gradient)
        if not last:
            for one in sums.values():
                one.rotate(count, distributed)
    return {name: one.block(count, distributed) for name, one in sums.items()}


class _Sums:
    """What one layer's block is made of, summed over examples."""

    def __init__(self, kind: Kind, module: nn.Module) -> None:
        self.kind, self.module = kind, module
        self.has_bias = module.bias is not None
        weight: Tensor = module.weight  # type: ignore[assignment]
        self.overlap = weight.shape[2:].numel()  # patches that an input is part of, at most
        groups, rows = num_groups(module), len(weight) // num_groups(module)
        columns = weight[0].numel() + self.has_bias
        self.values = weight.new_zeros(groups, rows, columns)
        self.trace = weight.new_zeros(groups)
        if kind == "diag":
            rows = columns = 0
        self.inputs = weight.new_zeros(groups, columns, columns)
        self.outputs = weight.new_zeros(groups, rows, rows)
        self.rotated: Rotated | None = None

    def see(self, x: Tensor) -> None:
        """Add the inputs of a batch."""
        if self.kind == "diag" or self.rotated is not None:
            return
        for part in torch.split(x, self._at_once(x)):
            columns = self._columns(part)
            laid = columns.permute(1, 2, 0, 3).flatten(2)
            self.inputs += laid @ laid.mT / columns.shape[3]

    def add(self, x: Tensor, gradient: Tensor) -> None:
        """Add the gradients at the outputs of a batch, for inputs that were seen."""
        if self.kind != "diag" and self.rotated is None:
            rows = outputs_of(self.module, gradient).permute(1, 2, 0, 3).flatten(2)
            self.outputs += rows @ rows.mT
        if self.kind == "kfac" or (self.kind == "ekfac" and self.rotated is None):
            return
        # Where there is one place, no example's product is formed.
        size = self._at_once(x, self.values.numel() if gradient.dim() > 2 else 0)
        for part, pulled in zip(torch.split(x, size), torch.split(gradient, size), strict=True):
            columns, rows = self._columns(part), outputs_of(self.module, pulled)
            if self.kind == "tkfac":
                self.trace += _squares(rows, columns)
                continue
            if self.rotated is not None:
                rows = self.rotated.outputs.mT @ rows
                columns = self.rotated.inputs.mT @ columns
            self.values += _squared_sum(rows, columns)

    def rotate(self, count: int, distributed: Distributed) -> None:
        """From now on, take moments along the eigenvectors of the factors so far."""
        self.rotated = Rotated.of(self._factors(count, distributed))

    def block(self, count: int, distributed: Distributed) -> Block:
        """The means over all workers' examples."""
        if self.kind == "diag":
            return Diagonal(distributed.sum(self.values) / count)
        if self.rotated is not None:
            return replace(self.rotated, moments=distributed.sum(self.values) / count)
        return self._factors(count, distributed)

    def _factors(self, count: int, distributed: Distributed) -> Kronecker:
        inputs, outputs = distributed.sum(self.inputs), distributed.sum(self.outputs)
        trace = distributed.sum(self.trace) / count if self.kind == "tkfac" else None
        return Kronecker(outputs / count, inputs / count, trace)

    def _columns(self, x: Tensor) -> Tensor:
        found = inputs_of(self.module, x)
        return with_ones(found) if self.has_bias else found

    def _at_once(self, x: Tensor, products: int = 0) -> int:
        """How many examples of a batch to lay out, of each so many products as well."""
        return max(1, CHUNK // max(1, x[0].numel() * self.overlap, products))


def _squared_sum(rows: Tensor, columns: Tensor) -> Tensor:
    """The sum over examples of the squares of rows [B, G, O, P] times columns [B, G, I, P]."""
    if rows.shape[3] == 1:  # the square of an outer product is that of the squares
        rows, columns = rows[..., 0].square(), columns[..., 0].square()
        return rows.permute(1, 2, 0) @ columns.permute(1, 0, 2)
    return (rows @ columns.mT).square_().sum(0)


def _squares(rows: Tensor, columns: Tensor) -> Tensor:
    """The sum of these squares in each group, [G], by the cheaper of two ways."""
    outputs, places, inputs = rows.shape[2], rows.shape[3], columns.shape[2]
    if places * (outputs + inputs) < outputs * inputs:
        return ((rows.mT @ rows) * (columns.mT @ columns)).sum((0, 2, 3))
    return (rows @ columns.mT).square_().sum((0, 2, 3))
