"""Ridge regression on a random expansion, and how its ridge is chosen."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import Ridge
from torch import Tensor

from clray.errors import BadSpec
from clray.methods.ranpac import RIDGES, Ranpac
from clray.task import Task

Build = Callable[..., Ranpac]


def learn(learner: Ranpac, task: Task, epochs: int = 2) -> tuple[Tensor, Tensor]:
    """One task; its expanded features and one-hot labels, in the order in which they came."""
    seen = []
    learner.begin_task(task)
    for epoch in range(epochs):
        learner.begin_epoch(task, epoch, epochs)
        for x, y in task.train.batches(8, seed=0, epoch=epoch):
            learner.observe(x, y, task)
            if epoch == 0:
                h = (learner.features(x) @ learner.regression.projection).relu()
                seen.append((h.double(), F.one_hot(y, 4).double()))
    expanded, targets = zip(*seen, strict=True)
    return torch.cat(expanded), torch.cat(targets)


@pytest.mark.parametrize("dimension", [20, 200])
def test_is_sklearn_s_ridge_regression(build: Build, tasks: list[Task], dimension: int) -> None:
    """With fewer and with more numbers than examples; each example counts once."""
    learner = build("ranpac", linear=True, dimension=dimension, ridge=30)
    seen = []
    for task in tasks:
        seen.append(learn(learner, task))
        assert learner.end_task(task) is None
    h, target = (torch.cat(part) for part in zip(*seen, strict=True))
    wanted = torch.from_numpy(Ridge(30, fit_intercept=False).fit(h, target).predict(h))
    x = torch.cat([x for task in tasks for x, _ in task.train.batches(8, seed=0)])
    gaps = wanted - wanted.amax(1, keepdim=True)
    torch.testing.assert_close(learner.predict(x, None), gaps.float(), rtol=1e-4, atol=1e-5)


def test_the_ridge_is_the_best_on_a_fifth_of_the_task(build: Build, tasks: list[Task]) -> None:
    learner = build("ranpac", linear=True, dimension=60)
    before = torch.empty(0, 60, dtype=torch.float64), torch.empty(0, 4, dtype=torch.float64)
    for task in tasks:
        h, target = learn(learner, task)
        held = torch.arange(len(h)) % 5 == 4
        fit_h, fit_target = torch.cat([before[0], h[~held]]), torch.cat([before[1], target[~held]])
        errors = {}
        for ridge in RIDGES[6:]:  # below, sklearn warns that the matrix is ill-conditioned
            found = Ridge(ridge, fit_intercept=False).fit(fit_h, fit_target).predict(h[held])
            errors[ridge] = float((torch.from_numpy(found) - target[held]).square().mean())
        best = min(errors, key=errors.__getitem__)
        ours = learner.regression.errors(*map(torch.cat, zip(*learner.held_out, strict=True)))
        assert {r: ours[r] for r in errors} == pytest.approx(errors, rel=1e-6)
        assert RIDGES[6] < best < RIDGES[-1]
        assert learner.end_task(task) == {"ridge": best}
        assert float(learner.regression.ridge) == best
        before = torch.cat([before[0], h]), torch.cat([before[1], target])
        torch.testing.assert_close(learner.regression.G, before[0].T @ before[0])


def test_a_given_ridge_needs_no_task_boundary(build: Build, tasks: list[Task]) -> None:
    told, untold = (build("ranpac", linear=True, dimension=50, ridge=10) for _ in range(2))
    untold.begin_epoch(tasks[0], 0, 1)
    for task in tasks:
        learn(told, task, epochs=3)
        told.end_task(task)
        for x, y in task.train.batches(8, seed=0):
            untold.observe(x, y, tasks[0])
        assert torch.equal(told.predict(x, None), untold.predict(x, None))
    for name, value in told.regression.state_dict().items():
        assert torch.equal(value, untold.regression.state_dict()[name]), name


def test_answers_before_the_first_task_has_ended(build: Build, tasks: list[Task]) -> None:
    learner = build("ranpac", linear=True, dimension=50)
    x, y = next(tasks[0].train.batches(50))
    assert (learner.predict(x, None) == -torch.inf).all()
    learn(learner, tasks[0])
    assert (learner.predict(x, None).argmax(1) == y).float().mean() > 0.8


def test_a_ridge_below_rounding_is_refused(build: Build, tasks: list[Task]) -> None:
    learner = build("ranpac", linear=True, dimension=300, ridge=1e-200)
    learn(learner, tasks[0])
    with pytest.raises(BadSpec, match=r"method\.ridge: got 1e-200"):
        learner.predict(next(tasks[0].train.batches(50))[0], None)
