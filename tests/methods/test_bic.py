"""The two numbers, what they are fitted to, and how much the old answers weigh."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from clray.errors import BadSpec
from clray.methods.bic import Bic, fit_correction
from tests.methods.rehearsed import begin, learn, made, stream


def bic(memory: int = 24, **knobs: Any) -> Bic:
    learner: Bic = made("bic", memory=memory, **knobs)
    return learner


def rows(x: Tensor) -> set[bytes]:
    return {row.numpy().tobytes() for row in x}


def test_the_two_numbers_undo_a_planted_bias() -> None:
    """Each row of logits comes with labels as often as its softmax says, which no correction can
    better; then the logits of classes 1 and 3 are changed."""
    counts = torch.tensor([[1, 2, 3, 4], [5, 1, 2, 2], [1, 7, 1, 3]])
    logits = counts.double().log().repeat_interleave(counts.sum(1), 0)
    y = torch.cat([torch.arange(4).repeat_interleave(row) for row in counts])
    logits[:, [1, 3]] = (logits[:, [1, 3]] - 1.5) / 0.4
    found = fit_correction(logits, y, (1, 3), shrinkage=1e-9)
    torch.testing.assert_close(torch.tensor(found), torch.tensor([0.4, 1.5]), atol=1e-4, rtol=0)
    away = F.pad(logits, (0, 1), value=-torch.inf)  # a unit that does not compete
    assert fit_correction(away, y, (1, 3), shrinkage=1e-9) == pytest.approx(found)
    held = fit_correction(logits, y, (1, 3), shrinkage=1e9)
    assert held == pytest.approx((1, 0), abs=1e-6)


def test_new_classes_told_apart_without_a_mistake_have_a_finite_correction() -> None:
    logits = torch.tensor([[9.0, -9.0], [-9.0, 9.0]])
    scale, shift = fit_correction(logits, torch.tensor([0, 1]), (1,), shrinkage=0.1)
    assert 1 <= scale < 2
    assert abs(shift) < 1


def test_the_head_is_corrected_from_the_second_task_on() -> None:
    learner, tasks = bic(), stream()
    head: Any = learner.model.head
    for task in tasks[:2]:
        begin(learner, task)
        for x, y in task.train.batches(8, seed=3):
            learner.observe(x, y, task)
        weight, bias = head.weight.detach().clone(), head.bias.detach().clone()
        facts = learner.end_task(task)
        if task.index == 0:
            assert facts is None
        else:
            assert facts is not None
            scale, shift = facts["scale"], facts["shift"]
            assert scale != 1
            weight[2:4] *= scale
            bias[2:4] = scale * bias[2:4] + shift
        assert torch.equal(head.weight, weight)
        assert torch.equal(head.bias, bias)
    x = next(tasks[0].train.batches(5))[0]
    learner.train_mode(False)
    assert learner.old is not None  # what the next task is held to is corrected
    assert torch.equal(learner.old(x / 255), learner.forward(x))


def test_what_the_correction_is_fitted_to_trains_no_network() -> None:
    learner, tasks = bic(memory=40, held_out=0.3), stream()
    trained: list[Tensor] = []

    def note(module: Any, inputs: Any) -> None:
        if module.training:
            trained.append(inputs[0].detach().clone())

    learner.model.register_forward_pre_hook(note)
    assert learner.correction is not None
    ever: set[bytes] = set()
    for task in tasks:
        learn(learner, task)
        x, y, _ = learner.correction.examples.spread(40)
        ever |= rows(x / 255)
        assert y.bincount().tolist() == [12 // (2 * task.index + 2)] * (2 * task.index + 2)
        assert learner.footprint()["examples"] == len(learner.memory) + len(y) <= 40
        assert not rows(learner.memory.spread(40)[0] / 255) & ever
    seen = rows(torch.cat(trained))
    assert len(seen) > 200
    assert not seen & ever


@pytest.mark.parametrize("scenario", ["class-incremental", "task-incremental"])
def test_loss_weighs_the_old_answers_by_the_number_of_old_classes(scenario: str) -> None:
    learner = bic(memory_batch=5, temperature=3, setting={"scenario": scenario})
    own = torch.arange(6) // 2
    for task, weight in zip(stream(), (0, 1 / 2, 2 / 3), strict=True):
        begin(learner, task)
        if scenario == "task-incremental":
            learner.rivals[:] = own[:, None] == own
        for x, y in itertools.islice(task.train.batches(8, seed=3), 9):
            learner.train_mode(False)  # so that all batches are normalised alike
            state = learner.setup.generator.get_state()
            old_x, old_y, _ = learner.memory.draw(5)
            learner.setup.generator.set_state(state)
            kept = torch.ones(len(y), dtype=torch.bool)
            if learner.aside is not None:
                kept = ~learner.aside.holds(x, y)
            all_x, all_y = torch.cat([x[kept], old_x]), torch.cat([y[kept], old_y])
            logits = learner.forward(all_x)
            loss = (1 - weight) * learner.cross_entropy(logits, all_y)
            if learner.old is not None:
                old = learner.old(all_x / 255)
                groups = torch.arange(2 * task.index).view(-1, 2)
                groups = groups.view(1, -1) if scenario == "class-incremental" else groups
                parts = [
                    [(z[:, units] / 3).log_softmax(1) for z in (old, logits)] for units in groups
                ]
                apart = [(p.exp() * (p - q)).sum(1).mean() for p, q in parts]
                loss = loss + weight * torch.stack(apart).mean()
            out = learner.observe(x, y, task)
            torch.testing.assert_close(out["loss"], loss.detach())
        learner.end_task(task)


def test_a_batch_that_is_all_set_aside_teaches_nothing() -> None:
    learner, task = bic(held_out=0.5, memory=80), stream()[0]
    begin(learner, task)
    assert learner.aside is not None
    x, y = learner.aside.x, learner.aside.y
    assert len(y) > 10
    out = learner.observe(x, y, task)
    assert out["loss"] == 0


def test_nothing_is_set_aside_where_new_and_old_classes_never_compete() -> None:
    learner = bic(setting={"scenario": "task-incremental"})
    assert learn(learner, stream()[0]) is None
    assert learn(learner, stream()[1]) is None
    assert learner.footprint()["examples"] == 24


def test_refuses_a_memory_without_room_for_each_class() -> None:
    with pytest.raises(BadSpec, match=r"protocol\.memory.*at least 12"):
        bic(memory=11)
    assert len(bic(memory=12).memory) == 0
