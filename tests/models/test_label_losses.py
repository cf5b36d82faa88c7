"""Losses of labels: their gradients at the logits, and which labels are drawn."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from clray.models.label_losses import LabelLosses, Labels
from clray.models.per_example import cotangents_of
from clray.models.task_sample import Share

NUM, UNITS = 40, 5


def logits() -> Tensor:
    return torch.randn(NUM, UNITS, generator=torch.Generator().manual_seed(0)) * 2


def among(units: int) -> Tensor:
    """The first units compete, for every example."""
    rivals = torch.zeros(NUM, UNITS, dtype=torch.bool)
    rivals[:, :units] = True
    return rivals


def losses(labels: Labels, units: int = UNITS, draws: Tensor | None = None) -> LabelLosses:
    y = torch.arange(NUM) % units
    return LabelLosses(labels, among(units), y, torch.rand(NUM) if draws is None else draws)


@pytest.mark.parametrize("units", [2, UNITS])
def test_those_of_the_data(units: int) -> None:
    expected = F.cross_entropy(logits()[:, :units], torch.arange(NUM) % units, reduction="none")
    torch.testing.assert_close(losses("empirical", units)(logits()), expected)


@pytest.mark.parametrize("units", [2, UNITS])
def test_all_of_them_make_the_fisher_information(units: int) -> None:
    """Of the logits: diag(p) - p p'."""
    found = torch.stack(cotangents_of(losses("exact", units))(logits()))
    p = F.pad(logits()[:, :units].softmax(1), (0, UNITS - units))
    expected = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
    torch.testing.assert_close(torch.einsum("kbi,kbj->bij", found, found), expected)


def test_labels_are_drawn_as_often_as_predicted() -> None:
    """By evenly spread draws; one that does not compete never is."""
    torch.manual_seed(0)
    row = torch.randn(UNITS).expand(1000, UNITS)
    draws = (torch.arange(1000) + 0.5) / 1000
    rivals = torch.tensor([True, False, True, True, False]).expand(1000, UNITS)
    drawn = LabelLosses("sampled", rivals, torch.zeros(1000, dtype=torch.int64), draws)
    log_p = row[0].masked_fill(~rivals[0], -torch.inf).log_softmax(0)
    found = drawn(row)
    counts = [(found + value).abs().lt(1e-6).sum().item() / 1000 for value in log_p]
    torch.testing.assert_close(torch.tensor(counts), log_p.exp(), atol=2e-3, rtol=0)


def test_the_largest_draw_names_a_unit_that_competes() -> None:
    draws = torch.full((NUM,), 1 - 2**-24)
    assert losses("sampled", 2, draws)(logits()).isfinite().all()


def test_workers_draw_what_one_would() -> None:
    y = torch.arange(NUM) % UNITS
    x = torch.zeros(NUM, 1, 1, 1, dtype=torch.uint8)

    def drawn(part: slice) -> Tensor:
        generator = torch.Generator().manual_seed(1)
        share = Share(x[part], y[part], NUM, part)
        rivals = torch.ones(UNITS, UNITS, dtype=torch.bool)
        return LabelLosses.of("sampled", rivals, share, generator)(logits()[part])

    parts = [drawn(slice(0, 7)), drawn(slice(7, NUM))]
    assert torch.equal(torch.cat(parts), drawn(slice(0, NUM)))
