"""Which differences are more than chance."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import combinations
from typing import Any

import pytest
from scipy import stats

from clray.report.significance import _groups, compare, holm, letters
from clray.report.stored import Board

FIRST = [0.81, 0.83, 0.80, 0.84, 0.82]
SECOND = [0.79, 0.80, 0.79, 0.80, 0.79]
THIRD = [0.79, 0.81, 0.77, 0.80, 0.83]


def _board(made: Any, **rows: Sequence[float | None]) -> Board:
    content = made.board([made.row(label, values) for label, values in rows.items()])
    return Board.model_validate(content)


def test_agrees_with_scipy(made: Any) -> None:
    board = _board(made, a=FIRST, b=SECOND, c=THIRD)
    found = compare(board, "average_accuracy")
    assert [(one.first, one.second) for one in found] == [("a", "c"), ("a", "b"), ("c", "b")]
    known = {"a": FIRST, "b": SECOND, "c": THIRD}
    for one in found:
        right = stats.ttest_rel(known[one.first], known[one.second])
        low, high = right.confidence_interval(0.95)
        assert one.p == pytest.approx(right.pvalue, rel=1e-9)
        assert one.difference == pytest.approx((low + high) / 2)
        assert one.interval == pytest.approx((high - low) / 2)
        assert one.pairs == 5


def test_a_pair_that_is_not_whole_is_left_out(made: Any) -> None:
    rows = [made.row("a", FIRST), made.row("b", SECOND)]
    rows[1]["test"]["forgetting"] = made.estimate([0.2, None, 0.3, 0.1, 0.2])
    [one] = compare(Board.model_validate(made.board(rows)), "forgetting")
    mine = [(1 - v) / 2 for v in FIRST]
    right = stats.ttest_rel([mine[0], *mine[2:]], [0.2, 0.3, 0.1, 0.2])
    assert one.pairs == 4
    assert one.p == pytest.approx(right.pvalue)


def test_bounds_and_failures_are_not_compared(made: Any) -> None:
    rows = [
        made.row("a", FIRST),
        made.row("joint", SECOND, bound=True),
        made.row("b", [0.8, None, 0.8, 0.8, 0.8]),
    ]
    board = Board.model_validate(made.board(rows))
    assert compare(board, "average_accuracy") == []
    assert letters(board, "average_accuracy") == {}


def test_degenerate_cases(made: Any) -> None:
    [one] = compare(_board(made, a=[0.9], b=[0.8]), "average_accuracy")
    assert (one.p, one.corrected, one.interval, one.significant) == (None, None, None, False)
    assert letters(_board(made, a=[0.9], b=[0.8]), "average_accuracy") == {}
    [same] = compare(_board(made, a=FIRST, b=FIRST), "average_accuracy")
    assert (same.difference, same.p, same.significant) == (0, 1, False)
    shifted = [value - 0.1 for value in FIRST]
    [moved] = compare(_board(made, a=FIRST, b=shifted), "average_accuracy")
    assert (moved.p, moved.significant) == (0, True)
    assert moved.difference == pytest.approx(0.1)
    [nothing] = compare(_board(made, a=FIRST, b=SECOND), "growth")
    assert (nothing.difference, nothing.p, nothing.pairs) == (None, None, 0)


def test_holm() -> None:
    # Worked by hand: 4 * 0.01, 3 * 0.013, 2 * 0.03, 0.6, never falling.
    assert holm([0.03, 0.01, None, 0.6, 0.013]) == pytest.approx([0.06, 0.04, None, 0.6, 0.04])
    assert holm([0.7, 0.8]) == [1, 1]


def test_holm_keeps_the_rate_of_false_alarms(made: Any) -> None:
    rng, alarms, boards = random.Random(0), 0, 400
    for _ in range(boards):
        rows = {label: [rng.gauss(0.5, 0.1) for _ in range(6)] for label in "abcde"}
        found = compare(_board(made, **rows), "average_accuracy")
        alarms += any(one.significant for one in found)
    assert 2 <= alarms <= 0.05 * boards + 10


def test_letters_of_three(made: Any) -> None:
    noise = [0.01, -0.02, 0.015, -0.01, 0.005]
    rows = {
        "low": [0.5 + e for e in noise],
        "high": [0.9 - e for e in noise],
        "middle": [0.89, 0.86, 0.91, 0.88, 0.90],
    }
    board = _board(made, **rows)
    assert letters(board, "average_accuracy") == {"high": "a", "middle": "a", "low": "b"}
    # Less forgetting is better: the same order from the other end of the scale.
    assert letters(board, "forgetting") == {"high": "a", "middle": "a", "low": "b"}


def test_letters_where_likeness_is_not_transitive() -> None:
    assert _groups("abc", [("a", "c")]) == [{"a", "b"}, {"b", "c"}]
    assert _groups("abcd", [("a", "c"), ("b", "d")]) == [
        {"a", "b"},
        {"a", "d"},
        {"b", "c"},
        {"c", "d"},
    ]


@pytest.mark.parametrize("seed", range(30))
def test_a_shared_letter_means_not_apart(seed: int) -> None:
    rng = random.Random(seed)
    names = [f"m{i}" for i in range(8)]
    pairs = list(combinations(names, 2))
    apart = rng.sample(pairs, rng.randrange(len(pairs)))
    groups = _groups(names, apart)
    for a, b in pairs:
        assert any({a, b} <= group for group in groups) == ((a, b) not in apart)
    assert not any(one < other for one in groups for other in groups)
