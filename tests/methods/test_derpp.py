"""The second draw of DER++."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from clray.methods.derpp import Derpp
from clray.task import Task

Build = Callable[..., Derpp]


def go(learner: Any, task: Task) -> None:
    learner.begin_epoch(task, 0, 1)
    for x, y in task.train.batches(8, seed=0):
        learner.observe(x, y, task)
    learner.end_task(task)


def weights(learner: Any) -> Tensor:
    return torch.cat([p.flatten() for p in learner.model.parameters()]).detach()


def test_labels_are_those_of_a_second_draw(build: Build, tasks: list[Task]) -> None:
    learner = build("derpp", alpha=0.3, beta=0.6, memory_batch=5)
    go(learner, tasks[0])
    x, y = next(iter(tasks[1].train.batches(8)))
    state = learner.setup.generator.get_state()
    first_x, _, old = learner.memory.draw_with_logits(5)
    second_x, second_y, _ = learner.memory.draw(5)
    learner.setup.generator.set_state(state)
    assert not torch.equal(first_x, second_x)
    logits = learner.forward(torch.cat([x, first_x, second_x])).detach()
    current, first, second = torch.split(logits, [len(x), 5, 5])
    penalty = 0.3 * F.mse_loss(first, old) + 0.6 * F.cross_entropy(second, second_y)
    drawn = learner.memory.drawn
    learner.begin_epoch(tasks[1], 0, 1)
    out = learner.observe(x, y, tasks[1])
    assert learner.memory.drawn == drawn + 10
    torch.testing.assert_close(out["penalty"], penalty)
    torch.testing.assert_close(out["loss"], F.cross_entropy(current, y) + penalty)


def test_without_beta_it_is_der_and_without_both_fine_tuning(
    build: Build, tasks: list[Task]
) -> None:
    pairs = [
        (build("derpp", beta=0, alpha=0.4), build("der", alpha=0.4)),
        (build("derpp", beta=0, alpha=0), build("finetune")),
    ]
    for learners in pairs:
        for task in tasks:
            for learner in learners:
                go(learner, task)
        assert torch.equal(*map(weights, learners))
    assert not torch.equal(*(weights(one) for one, _ in pairs))


def test_without_alpha_no_logits_are_drawn(build: Build, tasks: list[Task]) -> None:
    learner = build("derpp", alpha=0, beta=1, memory_batch=5)
    go(learner, tasks[0])
    go(learner, tasks[1])
    assert learner.memory.drawn == 5 * (6 + 7)  # from the second step on
