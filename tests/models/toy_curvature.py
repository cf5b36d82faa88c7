"""Small networks with layers of each kind, and their exact curvature by all derivatives."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.func import functional_call, jacrev, vmap

from clray.distributed import Distributed
from clray.models.curvature import Block
from clray.models.curvature_fit import Cotangents, Kind, fit_curvature
from clray.models.matrix_layers import as_matrix, is_matrix, num_groups
from clray.models.squared_loss import Noise, output_noise


def mlp() -> tuple[nn.Module, Tensor]:
    """Three linear layers, and 25 inputs."""
    layers = nn.Linear(6, 7), nn.LeakyReLU(), nn.Linear(7, 7), nn.LeakyReLU(), nn.Linear(7, 4)
    return nn.Sequential(*layers), torch.randn(25, 6)


def convolutions() -> tuple[nn.Module, Tensor]:
    """A strided convolution, a grouped one and one over time, each at several places."""
    layers = (
        nn.Conv2d(2, 4, 3, stride=2, padding=1),
        nn.Tanh(),
        nn.Conv2d(4, 6, (3, 1), groups=2, padding="same"),
        nn.ReLU(inplace=True),
        nn.Flatten(2),
        nn.Conv1d(6, 3, 3, stride=3, bias=False),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(15, 3),
    )
    return nn.Sequential(*layers), torch.randn(9, 2, 7, 7)


def tokens() -> tuple[nn.Module, Tensor]:
    """A linear layer at both of two tokens: fewer places than inputs or outputs."""
    layers = nn.Linear(5, 6), nn.Tanh(), nn.Flatten(), nn.Linear(12, 3)
    return nn.Sequential(*layers), torch.randn(8, 2, 5)


NETWORKS = (mlp, convolutions, tokens)


def layers_of(network: nn.Module) -> dict[str, nn.Module]:
    """By name, in their order."""
    return {name: module for name, module in network.named_modules() if is_matrix(module)}


def derivatives(network: nn.Module, name: str, x: Tensor) -> Tensor:
    """Of each output by a layer's weights, as matrices: [B, D, G, O, I]."""
    layer = network.get_submodule(name)
    own = {f"{name}.{key}": p.detach() for key, p in layer.named_parameters()}

    def output(weights: dict[str, Tensor]) -> Tensor:
        found: Tensor = functional_call(network, weights, (x,))
        return found

    found = list(jacrev(output)(own).values())

    def matrix(*tensors: Tensor) -> Tensor:
        return as_matrix(tensors[0], (*tensors, None)[1], num_groups(layer))

    both: Tensor = vmap(vmap(matrix))(*found)
    return both.detach()


def exact(network: nn.Module, name: str, x: Tensor) -> Tensor:
    """The mean of J'J over examples in each group of a layer: [G, O * I, O * I]."""
    rows = derivatives(network, name, x).flatten(3)
    return torch.einsum("bdgi,bdgj->gij", rows, rows) / len(x)


def dense(block: Block, shape: torch.Size) -> Tensor:
    """A block for weights [G, O, I] as matrices [G, O * I, O * I], from its products."""
    size = shape[1] * shape[2]
    each = torch.eye(size).view(size, 1, *shape[1:]).expand(size, *shape)
    return torch.stack([block.times(step) for step in each]).flatten(2).transpose(0, 1).mT


def fit(
    kind: Kind,
    network: nn.Module,
    x: Tensor,
    *,
    noise: Noise = "exact",
    seed: int = 0,
    batch: int = 4,
    count: int | None = None,
    distributed: Distributed | None = None,
) -> dict[str, Block]:
    """The curvature of all layers by the squared loss of all outputs."""
    generator = torch.Generator().manual_seed(seed)

    def cotangents(out: Tensor) -> list[Tensor]:
        competing = torch.ones(out.shape, dtype=torch.bool)
        return output_noise(noise, len(out), slice(0, len(out)), competing, generator)

    def batches() -> Iterator[tuple[Tensor, Cotangents]]:
        for part in torch.split(x, batch):
            yield part, cotangents

    return fit_curvature(
        kind, network, layers_of(network), batches, count or len(x), distributed or Distributed()
    )
