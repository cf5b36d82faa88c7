"""Class means, whatever the order of examples."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from sklearn.neighbors import NearestCentroid
from torch import Tensor

from clray.methods.ncm import Ncm
from clray.task import Task

Build = Callable[..., Ncm]


def learn(learner: Ncm, tasks: list[Task], epochs: int = 1) -> None:
    for task in tasks:
        for epoch in range(epochs):
            learner.begin_epoch(task, epoch, epochs)
            for x, y in task.train.batches(8, seed=0, epoch=epoch):
                learner.observe(x, y, task)


def data(tasks: list[Task]) -> tuple[Tensor, Tensor]:
    x, y = zip(*(next(task.train.batches(50)) for task in tasks), strict=True)
    return torch.cat(x), torch.cat(y)


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_answers_as_sklearn_does(build: Build, tasks: list[Task], metric: str) -> None:
    learner = build("ncm", linear=True, metric=metric)
    learn(learner, tasks)
    x, y = data(tasks)
    features = learner.features(x).double()
    if metric == "cosine":
        features = torch.nn.functional.normalize(features)
    theirs = NearestCentroid().fit(features, y)
    found = learner.predict(x, None).argmax(1)
    if metric == "cosine":  # theirs are means, not yet of length 1
        means = torch.nn.functional.normalize(torch.from_numpy(theirs.centroids_))
        assert torch.equal(found, (features @ means.T).argmax(1))
    else:
        assert found.tolist() == theirs.predict(features).tolist()
        expected = -torch.cdist(features, torch.from_numpy(theirs.centroids_)).square()
        gaps = expected - expected.amax(1, keepdim=True)
        torch.testing.assert_close(learner.predict(x, None), gaps.float())


def test_order_and_epochs_do_not_matter(build: Build, tasks: list[Task]) -> None:
    forth, back = (build("ncm", linear=True) for _ in range(2))
    learn(forth, tasks)
    learn(back, tasks[::-1], epochs=3)
    assert torch.equal(forth.means.counts, back.means.counts)
    torch.testing.assert_close(forth.means.sums, back.means.sums, rtol=1e-14, atol=1e-13)
    assert int(forth.means.counts.sum()) == 150


def test_classes_that_were_not_seen_are_not_answered(build: Build, tasks: list[Task]) -> None:
    learner = build("ncm", linear=True)
    x, y = data(tasks)
    assert (learner.predict(x, None) == -torch.inf).all()
    learner.begin_epoch(tasks[0], 0, 1)
    learner.observe(x[y != 2], y[y != 2], tasks[0])
    logits = learner.predict(x, None)
    assert (logits[:, 2] == -torch.inf).all()
    assert logits[:, [0, 1, 3]].isfinite().all()
