"""What learning rates do within a task."""

from __future__ import annotations

import io

import pytest
import torch
from torch import nn

from clray.models.learning_schedule import LearningSchedule, Schedule


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))


def rates(schedule: LearningSchedule, optimizer: torch.optim.Optimizer, steps: int) -> list[float]:
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return found


def test_one_cycle_goes_up_and_down_over_just_the_task() -> None:
    optimizer = torch.optim.AdamW(network().parameters(), 1e-3)
    schedule = LearningSchedule(optimizer, "onecycle", 100, peak=1.5)
    found = rates(schedule, optimizer, 100)
    assert found[0] == pytest.approx(1.5e-3 / 25)
    assert max(found) == found[29] == pytest.approx(1.5e-3)
    assert found[-1] == pytest.approx(1.5e-3 / 25 / 1e4)
    assert rates(schedule, optimizer, 5) == [found[-1]] * 5  # never beyond


def test_a_cosine_falls_and_a_constant_stays() -> None:
    for kind in ("cosine", "constant"):
        optimizer = torch.optim.SGD(network().parameters(), 0.1)
        found = rates(LearningSchedule(optimizer, kind, 10, peak=2.0), optimizer, 10)
        assert found[0] == pytest.approx(0.2)
        if kind == "constant":
            assert found == [0.2] * 10
        else:
            assert found == sorted(found, reverse=True)
            assert found[5] == pytest.approx(0.1)
            assert found[-1] > 0


@pytest.mark.parametrize("num_steps", [1, 2, 3, 4])
@pytest.mark.parametrize("kind", ["constant", "onecycle", "cosine"])
def test_short_tasks_have_rates_as_well(kind: Schedule, num_steps: int) -> None:
    optimizer = torch.optim.SGD(network().parameters(), 0.1)
    found = rates(LearningSchedule(optimizer, kind, num_steps), optimizer, num_steps)
    assert all(0 < rate <= 0.1 + 1e-12 for rate in found)


def test_all_tensors_have_one_rate_or_each_a_share_of_the_next_ones() -> None:
    for decay in (1.0, 0.9):
        optimizer = torch.optim.AdamW(network().parameters(), 1e-3)
        schedule = LearningSchedule(optimizer, "onecycle", 20, layer_decay=decay)
        for _ in range(20):
            found = [g["lr"] for g in optimizer.param_groups for _ in g["params"]]
            last = found[-1]
            assert found == pytest.approx([last * decay**k for k in (3, 2, 1, 0)])
            optimizer.step()
            schedule.step()


def test_momentum_goes_the_other_way_where_there_is_any() -> None:
    for momentum in (0.0, 0.9):
        optimizer = torch.optim.SGD(network().parameters(), 0.1, momentum=momentum)
        schedule = LearningSchedule(optimizer, "onecycle", 20)
        found = []
        for _ in range(20):
            found.append(optimizer.param_groups[0]["momentum"])
            optimizer.step()
            schedule.step()
        assert (min(found), max(found)) == ((0.85, 0.95) if momentum else (0, 0))


@pytest.mark.parametrize("kind", ["onecycle", "cosine"])
def test_goes_on_bit_for_bit_where_it_was_stored(kind: Schedule) -> None:
    optimizer = torch.optim.SGD(network().parameters(), 0.1, momentum=0.9)
    schedule = LearningSchedule(optimizer, kind, 20, layer_decay=0.5)
    rates(schedule, optimizer, 7)
    stored = io.BytesIO()
    torch.save((optimizer, schedule), stored)
    stored.seek(0)
    other, its_schedule = torch.load(stored, weights_only=False)
    assert rates(its_schedule, other, 13) == rates(schedule, optimizer, 13)
