"""Rows of old classes stay, whatever optimizer moves the others."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterable

import pytest
import torch
from torch import Tensor, nn

from clray.models.frozen_rows import FrozenRows, RowsWithoutGradient

FROZEN = torch.tensor([True, True, False, True, False])
Optimizer = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]
OPTIMIZERS: list[Optimizer] = [
    lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, weight_decay=0.1),
    lambda p: torch.optim.Adam(p, 0.01, weight_decay=0.1),
    lambda p: torch.optim.AdamW(p, 0.01, weight_decay=0.1),
]


def head() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(4, 5)


def learn(network: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> Tensor:
    """Steps on all classes; the gradient at the features of the last one."""
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        x = torch.randn(12, 4, generator=generator, requires_grad=True)
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(x), torch.arange(12) % 5).backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(network.parameters(), 0.5)
        optimizer.step()
    assert x.grad is not None
    return x.grad


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_old_rows_stay_to_the_bit(optimizer: Optimizer) -> None:
    plain = head()
    weight, bias = plain.weight.detach().clone(), plain.bias.detach().clone()
    frozen = FrozenRows(plain, FROZEN)
    assert [tuple(p.shape) for p in frozen.parameters()] == [(2, 4), (2,)]
    x = torch.randn(3, 4)
    assert torch.equal(frozen(x), plain(x))
    gradients = learn(frozen, optimizer(frozen.parameters()), 30)
    assert gradients[torch.arange(12) % 5 == 0].any()  # features of old examples learn
    answers = frozen(x)
    assert frozen.plain() is plain
    assert torch.equal(answers, plain(x))
    assert torch.equal(plain.weight[FROZEN], weight[FROZEN])
    assert torch.equal(plain.bias[FROZEN], bias[FROZEN])
    assert (plain.weight[~FROZEN] != weight[~FROZEN]).all()
    assert (plain.bias[~FROZEN] != bias[~FROZEN]).all()


def test_new_rows_learn_as_in_a_plain_head() -> None:
    """But for old rows, which would move: one step."""
    rows, without, plain = head(), head(), head()
    frozen, masked = FrozenRows(rows, FROZEN), RowsWithoutGradient(without, FROZEN)
    for network in (frozen, masked, plain):
        learn(network, torch.optim.AdamW(network.parameters(), 0.01), 1)
    for mine in (frozen.plain(), masked.plain()):
        torch.testing.assert_close(mine.weight[~FROZEN], plain.weight[~FROZEN])
        torch.testing.assert_close(mine.bias[~FROZEN], plain.bias[~FROZEN])


def test_without_gradient_decay_still_shrinks_old_rows() -> None:
    """By the product of (1 - lr * decay): 0.9555 with the constants of the released code."""
    plain, steps, decay = head(), 1200, 0.05
    weight = plain.weight.detach().clone()
    masked = RowsWithoutGradient(plain, FROZEN)
    optimizer = torch.optim.AdamW(masked.parameters(), 1.5e-3, weight_decay=decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1.5e-3, steps)
    product = 1.0
    generator = torch.Generator().manual_seed(1)
    for step in range(steps):
        product *= 1 - optimizer.param_groups[0]["lr"] * decay
        optimizer.zero_grad()
        x = torch.randn(5, 4, generator=generator)
        nn.functional.cross_entropy(masked(x), torch.arange(5)).backward()  # type: ignore[no-untyped-call]
        assert plain.weight.grad is not None
        assert plain.bias.grad is not None
        assert not plain.weight.grad[FROZEN].any()
        assert not plain.bias.grad[FROZEN].any()
        optimizer.step()
        if step < steps - 1:
            schedule.step()
    assert math.isclose(product, 0.9555, abs_tol=2e-4)
    torch.testing.assert_close(plain.weight[FROZEN], product * weight[FROZEN])
    assert masked.plain() is plain


@pytest.mark.parametrize("kind", [FrozenRows, RowsWithoutGradient])
@pytest.mark.parametrize("bias", [True, False])
def test_is_stored_and_goes_on(kind: type[FrozenRows | RowsWithoutGradient], bias: bool) -> None:
    network = kind(nn.Linear(4, 5, bias=bias), FROZEN)
    optimizer = torch.optim.AdamW(network.parameters(), 0.01)
    learn(network, optimizer, 2)
    stored = io.BytesIO()
    torch.save((network, optimizer), stored)
    stored.seek(0)
    other, its_optimizer = torch.load(stored, weights_only=False)
    learn(network, optimizer, 3)
    learn(other, its_optimizer, 3)
    one, two = network.plain(), other.plain()
    assert type(two) is nn.Linear
    assert all(map(torch.equal, one.state_dict().values(), two.state_dict().values()))
