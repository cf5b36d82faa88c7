"""The importance, the penalty and how they add up over tasks."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from clray.methods.ewc import Ewc
from clray.models import task_sample
from clray.models.quadratic import Quadratic
from clray.task import Task

Build = Callable[..., Ewc]


def learn(learner: Ewc, task: Task) -> dict[str, Tensor]:
    learner.begin_task(task)
    learner.train_mode(True)
    out: dict[str, Tensor] = {}
    for x, y in task.train.batches(8, seed=0):
        out = learner.observe(x, y, task)
    learner.end_task(task)
    return out


def weights(learner: Ewc) -> Tensor:
    return torch.cat([p.detach().reshape(-1) for p in learner.model.parameters()])


@pytest.mark.parametrize("labels", ["empirical", "sampled", "exact"])
def test_importance_does_not_depend_on_batches(
    build: Build, tasks: list[Task], labels: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for size in (1, 7, 64):
        monkeypatch.setattr(task_sample, "BATCH", size)
        found.append(build("ewc", importance=labels).importance_for(tasks[0]))
    for name, value in found[0].items():
        assert float(value.max()) > 0, name
        for other in found[1:]:
            torch.testing.assert_close(value, other[name], rtol=1e-5, atol=1e-9)


def test_exact_importance_is_the_fisher_diagonal_of_a_linear_softmax(
    build: Build, tasks: list[Task]
) -> None:
    """d/dW_ci of -log p(k) is (p_c - [c = k]) x_i: a mean square of p_c (1 - p_c) x_i^2 under p."""
    learner = build("ewc", linear=True, importance="exact")
    learner.rivals[:, 3] = False  # among the first three units only
    learner.rivals[:3, :3] = True
    x, _ = next(tasks[0].train.batches(50))
    with torch.no_grad():
        p = learner.forward(x)[:, :3].softmax(1)
    p = torch.cat([p, torch.zeros(50, 1)], 1)
    variance = p * (1 - p)
    found = learner.importance_for(tasks[0])
    pixels = x.flatten(1) / 255
    torch.testing.assert_close(found["head.weight"], variance.T @ pixels.square() / 50)
    torch.testing.assert_close(found["head.bias"], variance.mean(0))


def test_sampled_importance_tends_to_the_exact_one(build: Build, tasks: list[Task]) -> None:
    exact = build("ewc", linear=True, importance="exact").importance_for(tasks[0])
    learner = build("ewc", linear=True, importance="sampled")
    draws = [learner.importance_for(tasks[0])["head.bias"] for _ in range(60)]
    torch.testing.assert_close(torch.stack(draws).mean(0), exact["head.bias"], rtol=0.1, atol=0)


def test_a_subset_of_the_examples(build: Build, tasks: list[Task]) -> None:
    whole = build("ewc", examples=50).importance_for(tasks[0])
    everything = build("ewc").importance_for(tasks[0])
    part = build("ewc", examples=10).importance_for(tasks[0])
    for name, value in whole.items():
        torch.testing.assert_close(value, everything[name])
        assert not torch.allclose(value, part[name])


@pytest.mark.parametrize("mode", ["online", "offline"])
def test_penalty_and_its_gradient(build: Build, tasks: list[Task], mode: str) -> None:
    """Equal to separate penalties written out: around each task's weights, or around the last."""
    learner = build("ewc", mode=mode, decay=0.5, strength=3)
    importances, centres = [], []
    for task in tasks[:2]:
        assert ("penalty" in learn(learner, task)) == (task.index > 0)
        importance = learner.importance_for(task)
        importances.append(torch.cat([value.reshape(-1) for value in importance.values()]))
        centres.append(weights(learner))
    if mode == "online":
        importances[0] = importances[0] * 0.5
        centres[0] = centres[1]
    x, y = next(tasks[2].train.batches(8))
    before = weights(learner)
    plain = F.cross_entropy(learner.forward(x), y)
    parameters = list(learner.model.parameters())
    gradients = torch.autograd.grad(plain, parameters)
    expected = torch.cat([g.reshape(-1) for g in gradients])
    penalty = torch.zeros(())
    for fisher, centre in zip(importances, centres, strict=True):
        gap = before - centre
        penalty += 3 / (2 * 5) * (fisher * gap**2).sum()
        expected += 3 / 5 * fisher * gap
    out = learner.observe(x, y, tasks[2])
    torch.testing.assert_close(out["penalty"], penalty, rtol=1e-4, atol=1e-9)
    torch.testing.assert_close(out["loss"], plain.detach() + penalty)
    torch.testing.assert_close((before - weights(learner)) / 0.1, expected, rtol=1e-3, atol=1e-6)


def test_keeps_importances_and_weights_beside_the_model(build: Build, tasks: list[Task]) -> None:
    learner = build("ewc")
    learn(learner, tasks[0])
    assert learner.footprint()["bytes"] > 2.9 * build("ewc").footprint()["bytes"]


def test_a_sum_of_quadratics_is_kept_exactly() -> None:
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 2)
    quadratic = Quadratic()
    parts = []
    for _ in range(4):
        torch.nn.init.normal_(model.weight)
        importance = {"weight": torch.rand(2, 3), "bias": torch.zeros(2)}  # zero: left free
        quadratic.add(model, importance)
        parts.append((importance["weight"], model.weight.detach().clone()))
    torch.nn.init.normal_(model.weight)
    expected = sum(((f * (model.weight - w).square()).sum() for f, w in parts), torch.zeros(()))
    torch.testing.assert_close(quadratic(model), expected)
    found = torch.autograd.grad(quadratic(model), model.weight)
    torch.testing.assert_close(found, torch.autograd.grad(expected, model.weight))
