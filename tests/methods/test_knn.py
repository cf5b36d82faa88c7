"""What is kept, who votes, and how."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from sklearn.neighbors import KNeighborsClassifier, NearestNeighbors
from torch import Tensor

from clray.methods import knn
from clray.methods.knn import Knn
from clray.task import Task

Build = Callable[..., Knn]


def learn(learner: Knn, tasks: list[Task]) -> tuple[Tensor, Tensor]:
    """All features and labels [150] that were learned, in their order."""
    seen = []
    for task in tasks:
        for epoch in range(2):
            learner.begin_epoch(task, epoch, 2)
            for x, y in task.train.batches(8, seed=0):
                learner.observe(x, y, task)
                if epoch == 0:
                    seen.append((learner.features(x), y))
    features, labels = zip(*seen, strict=True)
    return torch.cat(features), torch.cat(labels)


def queries() -> Tensor:
    torch.manual_seed(5)
    return torch.randint(256, (40, 1, 6, 6), dtype=torch.uint8)


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("vote", ["uniform", "weighted"])
def test_with_room_for_the_stream_it_is_sklearn_s(
    build: Build, tasks: list[Task], vote: str, metric: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the search goes through queries and memory in small pieces."""
    learner = build("knn", linear=True, memory=1000, k=7, vote=vote, metric=metric)
    x, y = learn(learner, tasks)
    q = queries()

    def votes(distances: Any) -> Any:
        found = torch.from_numpy(distances)
        if metric == "cosine":
            return ((1 - found) / 0.07).softmax(1).numpy()
        squares = found.square()
        return (-squares / squares.mean(1, keepdim=True) / 0.07).softmax(1).numpy()

    weights = votes if vote == "weighted" else "uniform"
    theirs = KNeighborsClassifier(7, weights=weights, metric=metric).fit(x.double(), y)
    wanted = torch.from_numpy(theirs.predict_proba(learner.features(q).double()))
    whole = learner.predict(q, None)
    monkeypatch.setattr(knn, "MOST_QUERIES", 9)
    monkeypatch.setattr(knn, "MOST_SCORES", 9 * 4)
    torch.testing.assert_close(learner.predict(q, None), whole, rtol=1e-4, atol=1e-4)
    if vote == "weighted":
        torch.testing.assert_close(whole.exp(), wanted.float(), rtol=1e-3, atol=1e-5)
    else:  # less than half a vote goes to those who are near
        votes_found = (whole.exp() * 7 - 1e-4).ceil() - 1
        assert torch.equal(votes_found.clamp_min(0), (wanted * 7).round().float())


def test_of_equal_votes_the_nearer_neighbour_wins(build: Build) -> None:
    head = build("knn", linear=True, memory=10, k=4).neighbours
    features = torch.eye(36)[:4] * torch.tensor([[1.3], [1.1], [1.2], [1.4]])
    head.add(features, torch.tensor([3, 1, 3, 1]), 0)
    logits = head(torch.zeros(1, 36))
    assert logits.argmax(1).tolist() == [1]
    assert (logits == -torch.inf).tolist() == [[True, False, True, False]]
    head.add(torch.zeros(1, 36), torch.tensor([0]), 1)
    assert head(torch.zeros(1, 36)).argmax(1).tolist() == [3]  # two votes against one and one


def test_no_scores_beyond_the_bound_are_held(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    head = build("knn", linear=True, memory=1000).neighbours
    largest = 0
    topk = torch.Tensor.topk

    def watched(scores: Tensor, *others: Any, **named: Any) -> Any:
        nonlocal largest
        largest = max(largest, scores.numel())
        return topk(scores, *others, **named)

    monkeypatch.setattr(torch.Tensor, "topk", watched)
    monkeypatch.setattr(knn, "MOST_SCORES", 2000)
    stored, asked = torch.randn(900, 36), torch.randn(50, 36)
    near, rows = head.nearest(asked, stored)
    assert 0 < largest <= 2000
    theirs = NearestNeighbors(n_neighbors=10).fit(stored.double())
    assert rows.tolist() == theirs.kneighbors(asked.double(), return_distance=False).tolist()
    assert (near.diff(dim=1) <= 0).all()


def test_keeps_a_uniform_sample_within_its_memory(build: Build, tasks: list[Task]) -> None:
    learner = build("knn", linear=True, memory=36)
    x, y = learn(learner, tasks)
    kept = learner.footprint()
    assert kept["examples"] == 36
    assert kept["bytes"] == 36 * (4 * 36 + 8 + 8)
    known = {tuple(row): label for row, label in zip(x.tolist(), y.tolist(), strict=True)}
    head = learner.neighbours
    rows = [tuple(row) for row in head.stored.tolist()]
    assert len(set(rows)) == 36
    assert [known[row] for row in rows] == head.labels.tolist()
    places = {tuple(row): place // 50 for place, row in enumerate(x.tolist())}
    assert [places[row] for row in rows] == learner.memory.tasks.tolist()
    assert set(places.values()) == {0, 1, 2}


def test_a_task_s_own_classes_vote_where_it_is_given(build: Build, tasks: list[Task]) -> None:
    learner = build("knn", linear=True, memory=200, k=3)
    x, y = learn(learner, tasks)
    task = Task(0, "0", (1, 3), tasks[0].train, tasks[0].eval)
    logits = learner.predict(queries(), task)
    assert (logits[:, [0, 2]] == -torch.inf).all()
    own = (y == 1) | (y == 3)
    theirs = KNeighborsClassifier(3).fit(x[own].double(), y[own])
    wanted = theirs.predict(learner.features(queries()).double())
    assert logits.argmax(1).tolist() == wanted.tolist()


def test_what_is_held_out_of_the_memory_has_no_vote(build: Build, tasks: list[Task]) -> None:
    learner = build("knn", linear=True, memory=200, k=1)
    learn(learner, tasks)
    features, labels, _ = learner.memory.hold_out(0.3, seed=1)
    assert (learner.predict(features, None).argmax(1) == labels).float().mean() < 0.6
    learner.memory.give_back()
    assert torch.equal(learner.predict(features, None).argmax(1), labels)
    assert F.one_hot(labels).sum(0).min() > 5
