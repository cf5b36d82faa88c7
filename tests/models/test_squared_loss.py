from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.func import hessian

from clray.models.squared_loss import Noise, output_noise, squared_losses

pytestmark = pytest.mark.usefixtures("float64")

NOISES: tuple[Noise, ...] = ("rademacher", "gaussian", "exact")


def some(size: int, classes: int) -> Tensor:
    """Which outputs compete, of each example."""
    return torch.rand(size, classes, generator=torch.Generator().manual_seed(0)) < 0.6


def noise(kind: Noise, size: int, competing: Tensor, seed: int, part: slice) -> list[Tensor]:
    return output_noise(kind, size, part, competing[part], torch.Generator().manual_seed(seed))


def test_the_loss_is_half_the_squared_distance_to_the_scaled_class() -> None:
    logits = torch.tensor([[1.0, 2.0, 4.0], [0.0, -1.0, 9.0]])
    competing = torch.tensor([[True, True, True], [True, True, False]])
    found = squared_losses(logits, torch.tensor([2, 0]), competing, 15.0)
    assert found.tolist() == [(1 + 4 + 11**2) / 2, (15**2 + 1) / 2]


def test_its_second_derivative_is_the_identity_of_the_outputs_that_compete() -> None:
    logits, y, competing = torch.randn(3, 4), torch.tensor([0, 3, 2]), some(3, 4)
    found = hessian(lambda out: squared_losses(out, y, competing, 15.0).sum())(logits)
    expected = competing.flatten().double().diag().view(3, 4, 3, 4)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_exact_noise_adds_up_to_the_identity_without_passes_for_nothing() -> None:
    competing = some(6, 5)
    competing[:, 2] = False
    found = torch.stack(noise("exact", 6, competing, 0, slice(0, 6)))
    assert len(found) == 4
    torch.testing.assert_close(
        torch.einsum("kbi,kbj->bij", found, found), competing.double().diag_embed()
    )


@pytest.mark.parametrize("kind", ["rademacher", "gaussian"])
def test_random_noise_has_the_identity_as_its_mean_product(kind: Noise) -> None:
    size = 20_000
    competing = torch.tensor([True, False, True, True]).expand(size, 4)
    (found,) = noise(kind, size, competing, 0, slice(0, size))
    assert (kind == "rademacher") == bool(found[:, 0].abs().eq(1).all())
    expected = torch.tensor([1.0, 0.0, 1.0, 1.0]).diag()
    torch.testing.assert_close(found.T @ found / size, expected, rtol=0, atol=0.04)
    torch.testing.assert_close(found.mean(0), torch.zeros(4), rtol=0, atol=0.03)


@pytest.mark.parametrize("kind", NOISES)
def test_workers_draw_their_parts_of_what_one_draws(kind: Noise) -> None:
    competing = some(7, 5)
    whole = noise(kind, 7, competing, 3, slice(0, 7))
    parts = zip(*(noise(kind, 7, competing, 3, s) for s in (slice(0, 3), slice(3, 7))), strict=True)
    for one, cut in zip(whole, parts, strict=True):
        assert torch.equal(one, torch.cat(cut))
    other = noise(kind, 7, competing, 4, slice(0, 7))
    assert torch.equal(whole[0], other[0]) == (kind == "exact")
