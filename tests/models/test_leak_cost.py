"""What rectifiers that leak do to features."""

from __future__ import annotations

import torch

from clray.models.leak_cost import probe_accuracy


def test_a_probe_knows_classes_that_lie_apart_and_guesses_others() -> None:
    generator = torch.Generator().manual_seed(0)
    y = torch.randint(4, (400,), generator=generator)
    noise = torch.randn(400, 8, generator=generator)
    apart = noise + 20 * torch.eye(4, 8)[y]
    assert probe_accuracy(apart, y + 3) == 1.0
    assert probe_accuracy(noise, y) < 0.4


def test_one_example_is_known() -> None:
    assert probe_accuracy(torch.ones(1, 8), torch.tensor([2])) == 1.0
