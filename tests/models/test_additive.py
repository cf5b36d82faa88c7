"""Masked shares and adaptive numbers: by hand, stacked as one by one, and stored without loss."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from clray.models.additive import Held, Parts, SparseStack


def drawn(tasks: int, *shape: int) -> tuple[Tensor, Parts, Tensor]:
    """Shared weights, stacked parts and a target, in double."""
    torch.manual_seed(0)
    shared = nn.Parameter(torch.randn(*shape, dtype=torch.float64))
    scores, adaptive = torch.randn(tasks, shape[0]), torch.randn(tasks, *shape)
    parts = Parts(nn.Parameter(scores.double()), nn.Parameter(adaptive.double()))
    return shared, parts, torch.randn(tasks, *shape, dtype=torch.float64)


def test_a_weight_is_the_masked_share_and_the_adaptive_numbers() -> None:
    shared = torch.tensor([[1.0, 2.0], [4.0, 8.0]])
    parts = Parts(torch.tensor([0.0, math.log(3)]), torch.tensor([[0.0, 1.0], [-1.0, 0.0]]))
    weight = parts.weight(shared)  # masks of 1/2 and 3/4, of outputs
    assert torch.allclose(weight, torch.tensor([[0.5, 2.0], [2.0, 6.0]]))


def test_drift_and_its_gradients_by_hand() -> None:
    shared = nn.Parameter(torch.tensor([[2.0]]))
    parts = Parts(nn.Parameter(torch.zeros(2, 1)), nn.Parameter(torch.tensor([[[1.0]], [[3.0]]])))
    value = parts.drift(shared, torch.tensor([[[1.0]], [[1.0]]]))  # weights of 2 and 4
    assert value == (1 + 9) / 2
    (3 * value).backward()  # type: ignore[no-untyped-call]
    assert shared.grad == 3 * (1 * 0.5 + 3 * 0.5)
    assert parts.adaptive.grad is not None
    assert parts.adaptive.grad.flatten().tolist() == [3, 9]
    assert parts.scores.grad is not None
    assert parts.scores.grad.flatten().tolist() == [3 * 1 * 2 / 4, 3 * 3 * 2 / 4]


@pytest.mark.parametrize("shape", [(5, 7), (4, 3, 2, 2)])
def test_stacked_drift_equals_a_loop_over_the_tasks(shape: tuple[int, ...]) -> None:
    shared, parts, target = drawn(3, *shape)
    learn = (shared, parts.scores, parts.adaptive)
    stacked = parts.drift(shared, target)
    loop = torch.zeros((), dtype=torch.float64)
    for scores, adaptive, goal in zip(parts.scores, parts.adaptive, target, strict=True):
        mask = scores.sigmoid().view(-1, *(1,) * (len(shape) - 1))
        loop = loop + (shared * mask + adaptive - goal).square().sum() / 2
    assert torch.allclose(stacked, loop)
    gradients = torch.autograd.grad(stacked, learn), torch.autograd.grad(loop, learn)
    assert all(map(torch.allclose, *gradients))


def test_sparse_tensors_are_stored_without_loss_and_without_zeros() -> None:
    tensors = torch.randn(3, 5, 3) * (torch.rand(3, 5, 3) < 0.3)
    tensors[1] = 0
    stack = SparseStack(tensors)
    assert all(torch.equal(stack.one(i), tensors[i]) for i in range(3))
    assert stack.counts == [int(tensor.count_nonzero()) for tensor in tensors]
    sizes = {name: b.numel() for name, b in stack.named_buffers() if name.startswith("bits")}
    assert set(sizes.values()) == {2}  # of 15 places


def test_what_is_held_is_pruned_up_to_the_threshold() -> None:
    held = Held(torch.ones(1, 4), threshold=0.5)
    held.keep(Parts(torch.zeros(1, 1), torch.tensor([[[0.5, -0.5, 0.51, -2.0]]])))
    assert torch.equal(held.parts().adaptive, torch.tensor([[[0.0, 0.0, 0.51, -2.0]]]))


def test_consolidating_keeps_once_what_tasks_have_in_common() -> None:
    common = torch.tensor([[[3.0, -3.0, 0.0]], [[0.0, 0.0, 9.0]]])
    own = torch.tensor([[[0.0, 0.0, 1.0]], [[0.0, 0.0, 0.0]]])
    whole = torch.stack([common[0] + own[0], common[1], common[0], common[1]])
    held = Held(torch.ones(1, 3), threshold=0.0)
    held.keep(Parts(torch.zeros(4, 1), whole))
    for _ in range(2):  # again, from the groups that there are
        held.consolidate(2, 0.0, torch.Generator().manual_seed(0))
        labels = held.labels.tolist()
        assert labels[0] == labels[2] != labels[1] == labels[3]
        assert sum(held.adaptive.counts) == 1
        assert sorted(held.common.counts) == [1, 2]
        for i in range(4):
            assert torch.equal(held.adaptive.one(i) + held.added(i), whole[i])
