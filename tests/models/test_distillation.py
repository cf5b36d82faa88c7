"""The old network, and how far a new one's answers are from its own."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import Tensor, nn

from clray.models.distillation import OldNetwork, divergence, with_units_of
from tests.methods.conftest import small_learner
from tests.methods.rehearsed import stream


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.Dropout(0.5), nn.Linear(5, 2))


def test_a_copy_stays_as_it_was_and_shares_what_is_frozen() -> None:
    model = network()
    frozen: Tensor = model[0].weight  # type: ignore[assignment]
    frozen.requires_grad_(False)
    old = OldNetwork(model)
    x = torch.randn(4, 3)
    model.eval()
    before = model(x).detach()
    model.train()
    model(x)  # moves the running statistics
    with torch.no_grad():
        model[3].weight.add_(1)  # type: ignore[operator]
    assert torch.equal(old(x), before)
    assert not old(x).requires_grad
    assert next(old.network.parameters()) is frozen
    own = [p for p in model.parameters() if p is not frozen]
    assert old.num_bytes == sum(t.numel() * t.element_size() for t in (*own, *model.buffers()))


@pytest.mark.parametrize(
    ("scenario", "groups"),
    [
        ("task-incremental", [[1, 3], [0, 2]]),
        ("class-incremental", [[0, 1, 2, 3]]),
        ("domain-incremental", [[0, 1, 2, 3]]),
    ],
)
def test_units_are_grouped_by_the_scenario(scenario: str, groups: list[list[int]]) -> None:
    setup = dataclasses.replace(small_learner("finetune").setup, scenario=scenario)
    found: list[Tensor] = []
    for task, classes in zip(stream()[:2], [(3, 1), (0, 2)], strict=True):
        found = with_units_of(dataclasses.replace(task, classes=classes), found, setup)
    assert [units.tolist() for units in found] == groups


def test_divergence_of_a_case_by_hand() -> None:
    """Old answers 1/2, 1/2 and new ones 3/4, 1/4 at temperature 2; the second group agrees."""
    old = torch.tensor([[5.0, 1.0, 5.0, 1.0, 9.0]])
    new = torch.tensor([[2 * math.log(3), 7.0, 0.0, 7.0, -9.0]])
    groups = [torch.tensor([0, 2]), torch.tensor([1, 3])]
    expected = torch.tensor([math.log(2 / math.sqrt(3))])
    torch.testing.assert_close(divergence(new, old, groups, 2), expected)
