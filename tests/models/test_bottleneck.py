"""What a bottleneck answers: votes of counted values, keys that were used, decoders."""

from __future__ import annotations

import io

import pytest
import torch
from torch import Tensor

from clray.models.bottleneck import PRIOR, Bottleneck, Vote
from clray.models.value_table import ValueTable

BOOKS, PAIRS, CLASSES = 5, 4, 3


@pytest.fixture
def learned() -> tuple[Tensor, Tensor]:
    """Codes int16 [40, 5] of examples, and their classes; class 0 has most."""
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(PAIRS - 1, (40, BOOKS), generator=generator)
    y = torch.randint(CLASSES, (40,), generator=generator) * torch.randint(
        2, (40,), generator=generator
    )
    return codes.to(torch.int16), y


def counted(vote: Vote, learned: tuple[Tensor, Tensor]) -> Bottleneck:
    bottleneck = Bottleneck(None, ValueTable(BOOKS, PAIRS, CLASSES), vote=vote)
    codes, y = learned
    for own in (slice(start, start + 7) for start in range(0, 40, 7)):
        bottleneck.count(bottleneck.codes(codes[own]), y[own])
    return bottleneck


@pytest.mark.parametrize("vote", ["counts", "shares", "log-odds"])
def test_votes_are_what_they_say(vote: Vote, learned: tuple[Tensor, Tensor]) -> None:
    codes, y = learned
    counts = torch.zeros(BOOKS, PAIRS, CLASSES, dtype=torch.float64)
    for row, label in zip(codes.tolist(), y.tolist(), strict=True):
        for book, code in enumerate(row):
            counts[book, code, label] += 1
    cells = {
        "counts": counts,
        "shares": counts / counts[0].sum(0),
        "log-odds": ((counts + PRIOR) / (counts.sum(2, keepdim=True) + 3 * PRIOR)).log(),
    }[vote]
    asked = torch.randint(PAIRS, (9, BOOKS), generator=torch.Generator().manual_seed(1))
    expected = torch.stack(
        [torch.stack([cells[b, c] for b, c in enumerate(row)]).mean(0) for row in asked.tolist()]
    )
    bottleneck = counted(vote, learned)
    found = bottleneck(asked.to(torch.int16))
    torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=1e-5)

    file = io.BytesIO()
    torch.save(bottleneck, file)
    again = torch.load(io.BytesIO(file.getvalue()), weights_only=False)
    assert torch.equal(again(asked.to(torch.int16)), found)


def test_a_vote_follows_what_is_counted_after_it(learned: tuple[Tensor, Tensor]) -> None:
    codes, _ = learned
    bottleneck = counted("log-odds", learned)
    before = bottleneck(codes[:1])
    bottleneck.count(bottleneck.codes(codes[:1]), torch.tensor([2]))
    assert bottleneck(codes[:1])[0, 2] > before[0, 2]


def test_a_linear_decoder_is_applied_to_the_mean_of_the_values() -> None:
    generator = torch.Generator().manual_seed(0)
    table = ValueTable(BOOKS, PAIRS, 6, 1.0, generator)
    decoder = torch.randn(CLASSES, 6, generator=generator)
    bottleneck = Bottleneck(None, table, decoder=decoder)
    codes = torch.randint(PAIRS, (4, BOOKS), generator=generator)
    rows = table.values.view(BOOKS, PAIRS, 6)[torch.arange(BOOKS), codes]
    torch.testing.assert_close(bottleneck(codes.to(torch.int16)), rows.mean(1) @ decoder.T)
    assert list(bottleneck.state_dict()) == ["used", "decoder", "table.values"]
