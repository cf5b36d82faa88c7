from __future__ import annotations

import pickle

import pytest
import torch
from torch import Tensor

from clray.streams.examples import Transform
from clray.streams.transforms import (
    PixelPermutations,
    Prepare,
    Rotations,
    permutation_tables,
)

CPU = torch.device("cpu")


def images(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


def test_permutations_are_those_of_the_reference_values() -> None:
    tables = permutation_tables(range(10), 784, 1000)
    assert torch.equal(tables[0], torch.arange(784))
    for t in range(1, 10):
        expected = torch.randperm(784, generator=torch.Generator().manual_seed(1000 + t))
        assert torch.equal(tables[t], expected)


def test_the_first_permutation_need_not_be_the_identity() -> None:
    tables = permutation_tables([0], 784, 1000, identity_first=False)
    assert torch.equal(
        tables[0], torch.randperm(784, generator=torch.Generator().manual_seed(1000))
    )


def test_all_channels_are_permuted_alike() -> None:
    x = images(5, 3, 4, 4)
    tables = permutation_tables(range(3), 16, 1000)
    permute = PixelPermutations(tables)
    assert permute(x, 0) is x
    assert torch.equal(permute(x, 2), x.flatten(2)[:, :, tables[2]].view(x.shape))


def test_channels_may_be_permuted_together() -> None:
    x = images(5, 3, 4, 4)
    tables = permutation_tables(range(3), 48, 1000)
    permute = PixelPermutations(tables, across_channels=True)
    assert permute(x, 0) is x
    assert torch.equal(permute(x, 2), x.flatten(1)[:, tables[2]].view(x.shape))


@pytest.mark.parametrize("angle", [0, 90, 180, 270, -90, 360, 450])
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 9, 9)])
def test_quarter_turns_are_exact(angle: int, shape: tuple[int, int, int]) -> None:
    x = images(6, *shape)
    rotate = Rotations([angle], shape, CPU)
    expected = torch.rot90(x, angle // 90, (2, 3))
    assert torch.equal(rotate(x, 0), expected)
    assert torch.equal(rotate(x, torch.zeros(6, dtype=torch.int64)), expected)


def test_half_a_turn_of_an_oblong_image_is_exact() -> None:
    x = images(4, 1, 6, 10)
    assert torch.equal(Rotations([180], (1, 6, 10), CPU)(x, 0), x.flip(2, 3))


def test_a_small_turn_keeps_the_middle_and_darkens_the_corners() -> None:
    x = torch.full((1, 1, 15, 15), 200, dtype=torch.uint8)
    turned = Rotations([45], (1, 15, 15), CPU)(x, 0)
    assert turned[0, 0, 7, 7] == 200
    assert turned[0, 0, 0, 0] == 0


@pytest.mark.parametrize("kind", ["permutations", "across channels", "rotations"])
def test_a_batch_of_several_domains_is_that_of_each(kind: str) -> None:
    x = images(12, 3, 8, 8)
    transforms: dict[str, Transform] = {
        "permutations": PixelPermutations(permutation_tables(range(4), 64, 1000)),
        "across channels": PixelPermutations(permutation_tables(range(4), 192, 1000), True),
        "rotations": Rotations([0, 17.5, 90, 200], (3, 8, 8), CPU),
    }
    transform = transforms[kind]
    domains = torch.arange(12) % 4
    mixed = transform(x, domains)
    for domain in range(4):
        own = domains == domain
        assert torch.equal(mixed[own], transform(x[own], domain))


@pytest.mark.parametrize("kind", ["permutations", "rotations"])
def test_an_empty_share_of_a_batch_stays_empty(kind: str) -> None:
    x = images(0, 1, 8, 8)
    transforms: dict[str, Transform] = {
        "permutations": PixelPermutations(permutation_tables(range(2), 64, 1000)),
        "rotations": Rotations([0, 17.5], (1, 8, 8), CPU),
    }
    transform = transforms[kind]
    assert transform(x, 1).shape == x.shape
    assert transform(x, torch.zeros(0, dtype=torch.int64)).shape == x.shape


def test_prepare_scales_and_normalises() -> None:
    x = images(4, 3, 5, 5)
    assert torch.equal(Prepare()(x), x.float() / 255)
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)
    prepare = pickle.loads(pickle.dumps(Prepare(mean, std)))
    expected = torch.stack([(x[:, c] / 255 - mean[c]) / std[c] for c in range(3)], 1)
    torch.testing.assert_close(prepare(x), expected)
    assert torch.equal(x, images(4, 3, 5, 5))
