"""Targets that follow the network: their closed forms, and what they keep of what was answered."""

from __future__ import annotations

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from clray.distributed import Distributed
from clray.models.soft_targets import Softened, SoftTargets, soft_cross_entropy

C = 6
OLD = torch.tensor([True, True, True, False, False, False])
"""Classes 0 to 2 are old, the others new."""


def make(
    softened: Softened = "both",
    dtype: torch.dtype = torch.float64,
    distributed: Distributed | None = None,
) -> SoftTargets:
    return SoftTargets(C, torch.device("cpu"), distributed or Distributed(), softened, dtype)


def answering(*rows: list[float]) -> Tensor:
    """Logits that are answered with these probabilities."""
    return torch.tensor(rows, dtype=torch.float64).log()


RIGHT = [0.1, 0.1, 0.05, 0.6, 0.1, 0.05]  # for class 3
WRONG = [0.5, 0.1, 0.05, 0.2, 0.1, 0.05]
close = partial(torch.testing.assert_close, rtol=0, atol=1e-12)


def test_they_are_distributions_whose_mode_is_the_label() -> None:
    torch.manual_seed(0)
    soft = make(dtype=torch.float32)
    for _ in range(20):
        y = torch.randint(C, (30,))
        logits = (torch.randn(30, C) * 5).requires_grad_()
        targets = soft(logits, y, OLD, None)
        assert not targets.requires_grad
        assert (targets >= 0).all()
        torch.testing.assert_close(targets.sum(1), torch.ones(30), rtol=0, atol=1e-6)
        assert torch.equal(targets.argmax(1), y)


def test_a_new_class_is_to_be_answered_as_it_is_now() -> None:
    right, wrong = make()(answering(RIGHT, WRONG), torch.tensor([3, 3]), OLD, None)
    expected = torch.tensor(RIGHT, dtype=torch.float64)
    expected[3] = 1
    close(right, expected / (2 - 0.6))
    total = 2 - 0.5 - 0.2 + 1 / C
    expected = torch.tensor(WRONG, dtype=torch.float64)
    expected[0], expected[3] = 1 / C, 1
    close(wrong, expected / total)


def test_an_old_class_is_to_be_answered_as_it_was_on_average_until_this_step() -> None:
    soft = make()
    q = [0.8, 0.1, 0.04, 0.03, 0.02, 0.01]
    y = torch.tensor([0])
    first = soft(answering(q), y, OLD, None)[0]
    never = torch.full((C,), 1 / C, dtype=torch.float64)
    never[0] = 1
    close(first, never / (1 + (C - 1) / C))
    other = [0.6, 0.1, 0.1, 0.1, 0.05, 0.05]
    second = soft(answering(other), y, OLD, None)[0]  # of what was answered before
    expected = torch.tensor(q, dtype=torch.float64)
    expected[0] = 1
    close(second, expected / (2 - 0.8))
    mean = (torch.tensor(q) + torch.tensor(other)).double() / 2
    wrongly = soft(answering([0.1, 0.7, 0.05, 0.05, 0.05, 0.05]), y, OLD, None)[0]
    mean[1], mean[0] = 1 / C, 1
    torch.testing.assert_close(wrongly, mean / mean.sum(), rtol=0, atol=1e-7)
    assert soft.counts.tolist() == [2, 0, 0, 0, 0, 0]  # what was wrong is not counted


def test_what_is_kept_does_not_depend_on_the_order() -> None:
    torch.manual_seed(0)
    logits, y = torch.randn(40, C).double(), torch.randint(C - 1, (40,))
    one, other, filled = make(), make(), make()
    for part in range(4):
        one(logits[part::4], y[part::4], OLD, None)
    mixed = torch.randperm(40)
    other(logits[mixed], y[mixed], OLD, None)
    filled.fill(logits, y, None)
    for soft in (other, filled):
        close(one.sums, soft.sums)
        assert torch.equal(one.counts, soft.counts)
    never = one(logits[:1], torch.tensor([C - 1]), torch.ones(C).bool(), None)[0]
    assert never.isfinite().all()
    assert one.sums[C - 1].count_nonzero() == (one.counts[C - 1] > 0) * C


def test_the_gradient_of_a_new_example_answered_rightly_shrinks() -> None:
    logits = answering(RIGHT).requires_grad_()
    y, p = torch.tensor([3]), 0.6
    targets = make()(logits, y, OLD, None)
    loss = soft_cross_entropy(logits, targets, None, Distributed())
    (soft,) = torch.autograd.grad(loss, logits)
    (hard,) = torch.autograd.grad(F.cross_entropy(logits, y), logits)
    torch.testing.assert_close(soft, logits.softmax(1).detach() - targets, rtol=0, atol=1e-10)
    ratio = (soft / hard)[0, 3].item()
    assert ratio == pytest.approx((1 - p) / (2 - p), abs=1e-10)


@pytest.mark.parametrize("softened", ["old", "new"])
def test_the_other_classes_keep_hard_labels(softened: Softened) -> None:
    logits, y = answering(WRONG, WRONG), torch.tensor([0, 3])
    both = make()(logits, y, OLD, None)
    found = make(softened)(logits, y, OLD, None)
    hard = F.one_hot(y, C).double()
    expected = [both[0], hard[1]] if softened == "old" else [hard[0], both[1]]
    assert torch.equal(found, torch.stack(expected))


def test_units_that_do_not_compete_have_no_part() -> None:
    """As if they were not there, for targets, loss and gradient."""
    torch.manual_seed(1)
    rivals = torch.zeros(C, C, dtype=torch.bool)
    rivals[:4, :4] = True
    rivals[4:] = True
    small = SoftTargets(4, torch.device("cpu"), Distributed(), dtype=torch.float64)
    large = make()
    for _ in range(3):
        logits = torch.randn(12, C).double().requires_grad_()
        y = torch.randint(4, (12,))
        expected = small(logits[:, :4], y, OLD[:4], None)
        targets = large(logits, y, OLD, rivals)
        close(targets[:, :4], expected)
        assert not targets[:, 4:].any()
        loss = soft_cross_entropy(logits, targets, rivals[y], Distributed())
        whole = soft_cross_entropy(logits[:, :4], expected, None, Distributed())
        close(loss, whole)
        (gradient,) = torch.autograd.grad(loss, logits)
        assert gradient.isfinite().all()
        assert not gradient[:, 4:].any()


def test_half_precision_is_left() -> None:
    soft = make(dtype=torch.float32)
    logits = torch.randn(8, C, dtype=torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        targets = soft(logits, torch.arange(8) % C, OLD, None)
        loss = soft_cross_entropy(logits, targets, None, Distributed())
    assert targets.dtype == soft.sums.dtype == loss.dtype == torch.float32


class Pair(Distributed):
    """Worker 0 of two that see the same."""

    @property
    def world(self) -> int:
        return 2

    def sum(self, value: Tensor) -> Tensor:
        return 2 * value


def test_workers_keep_what_all_of_them_saw() -> None:
    torch.manual_seed(0)
    logits, y = torch.randn(10, C).double(), torch.randint(C, (10,))
    one, two = make(), make(distributed=Pair())
    for _ in range(3):
        one(torch.cat([logits, logits]), torch.cat([y, y]), OLD, None)
        two(logits, y, OLD, None)
    close(one.sums, two.sums)
    assert torch.equal(one.counts, two.counts)
