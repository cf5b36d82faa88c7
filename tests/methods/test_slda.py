"""The scatter, and the discriminant that follows from it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from torch import Tensor

from clray.methods.slda import Discriminant, Slda
from clray.task import Task

Build = Callable[..., Slda]
SHRINKAGE = 0.02


@pytest.fixture
def data() -> tuple[Tensor, Tensor]:
    """Correlated features [120, 5] far from zero, of three classes of 40."""
    torch.manual_seed(3)
    y = torch.arange(3).repeat(40)
    return torch.randn(120, 5) @ torch.randn(5, 5) + torch.randn(3, 5)[y] + 7, y


def fitted(x: Tensor, y: Tensor, batches: list[Tensor]) -> Discriminant:
    found = Discriminant(5, 3, SHRINKAGE)
    for rows in batches:
        found.add(x[rows], y[rows])
    return found


def test_is_sklearn_s_with_the_same_shrinkage(data: tuple[Tensor, Tensor]) -> None:
    """Which shrinks towards the identity times the mean variance, and so by another share."""
    x, y = data
    ours = fitted(x, y, [torch.arange(120)])
    by_mean = SHRINKAGE / (1 - SHRINKAGE) / (ours.covariance.trace() / 5)
    share = float(by_mean / (1 + by_mean))
    theirs = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=share, priors=[1 / 3] * 3)
    wanted = torch.from_numpy(theirs.fit(x.double(), y).decision_function(x.double()))
    wanted = (wanted - wanted.amax(1, keepdim=True)) * (1 - share) / (1 - SHRINKAGE)
    torch.testing.assert_close(ours(x), wanted.float(), rtol=1e-5, atol=1e-5)
    assert (ours(x).argmax(1) == y).float().mean() > 0.6


def test_order_and_batches_do_not_matter(data: tuple[Tensor, Tensor]) -> None:
    x, y = data
    whole = fitted(x, y, [torch.arange(120)])
    cuts = [*torch.split(torch.randperm(120), 7)]
    sorted_singly = [*torch.split(y.argsort(), 1)]
    for batches in (cuts, sorted_singly):
        parts = fitted(x, y, batches)
        torch.testing.assert_close(parts.scatter, whole.scatter, rtol=1e-11, atol=1e-11)
        torch.testing.assert_close(parts(x), whole(x))
    gaps = x.double() - torch.stack([x[y == k].double().mean(0) for k in range(3)])[y]
    torch.testing.assert_close(whole.scatter, gaps.T @ gaps, rtol=1e-11, atol=1e-11)


def test_differs_from_the_paper_s_recursion_by_its_counts_alone(
    data: tuple[Tensor, Tensor],
) -> None:
    """Example by example: theirs weighs each gap by the total count, ours by the class's own."""
    x, y = data
    for own_count in (False, True):
        means, counts = torch.zeros(3, 5, dtype=torch.float64), [0, 0, 0]
        covariance = torch.zeros(5, 5, dtype=torch.float64)
        for t, (z, k) in enumerate(zip(x.double(), y.tolist(), strict=True)):
            before = counts[k] if own_count else t
            gap = z - means[k]
            delta = before / (before + 1) * torch.outer(gap, gap)
            covariance = (t * covariance + delta) / (t + 1)
            means[k] += gap / (counts[k] + 1)
            counts[k] += 1
        ours = fitted(x, y, [torch.arange(120)])
        torch.testing.assert_close(ours.classes.means, means)
        equal = torch.allclose(ours.covariance, covariance, rtol=1e-11, atol=1e-11)
        assert equal == own_count


def test_the_discriminant_is_solved_anew_after_a_change(data: tuple[Tensor, Tensor]) -> None:
    x, y = data
    first, second = torch.arange(60), torch.arange(60, 120)
    looked = fitted(x, y, [first])
    early = looked(x)
    looked.add(x[second], y[second])
    assert not torch.equal(looked(x), early)
    assert torch.equal(looked(x), fitted(x, y, [first, second])(x))
    looked.load_state_dict(fitted(x, y, [first]).state_dict())
    assert torch.equal(looked(x), early)


def test_needs_no_task_boundary_and_one_epoch(build: Build, tasks: list[Task]) -> None:
    told, untold = (build("slda", linear=True) for _ in range(2))
    untold.begin_epoch(tasks[0], 0, 1)
    for task in tasks:
        told.begin_task(task)
        for epoch in range(2):
            told.begin_epoch(task, epoch, 2)
            for x, y in task.train.batches(8, seed=0):
                told.observe(x, y, task)
                if epoch == 0:
                    untold.observe(x, y, tasks[0])
        told.end_task(task)
        assert torch.equal(told.predict(x, None), untold.predict(x, None))
    assert torch.equal(told.discriminant.scatter, untold.discriminant.scatter)
