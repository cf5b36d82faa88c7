"""Which differences between the rows of a board are more than chance.

Rows are compared run by run: the final runs of all rows have the same seeds and orders, and what
these do to all rows alike cancels in the differences. A paired t test takes the differences as
independent and about normal. Where several orders were run, the test speaks of these orders:
differences within one order may lie closer together than those of orders yet to come. Holm's
method (Holm 1979, Scand. J. Statist. 6) corrects for the number of comparisons on the board.
"""

from __future__ import annotations

import math
import string
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, zip_longest

from clray.metrics import interval
from clray.objective import DIRECTIONS
from clray.report.ranking import ranked
from clray.report.stored import Board, Row

LEVEL = 0.05
"""Of the corrected p value, below which a difference counts as significant: in so many boards at
most is there one that is none."""


@dataclass(frozen=True)
class Comparison:
    """Two rows of a board in one metric.

    Attributes:
        first: name of the row that ranks higher.
        second: name of the other.
        difference: mean of first minus second over the pairs; None without pairs.
        interval: half the width of its 95 % interval, not corrected; None below two pairs.
        p: of the paired t test, two-sided; None below two pairs.
        corrected: p after Holm's correction.
        significant: whether the corrected p is below ``LEVEL``.
        pairs: runs that completed in both rows.
    """

    first: str
    second: str
    difference: float | None
    interval: float | None
    p: float | None
    corrected: float | None
    significant: bool
    pairs: int


def compare(board: Board, metric: str) -> list[Comparison]:
    """All pairs of ranked rows, in the order of their ranks.

    Args:
        board: whose rows are compared.
        metric: in which, such as ``average_accuracy``.
    """
    pairs = list(combinations(ranked(board), 2))
    found = [_differences(first, second, metric) for first, second in pairs]
    tested = [_test(differences) for differences in found]
    corrected = holm([p for _, _, p in tested])
    return [
        Comparison(
            first=first.name,
            second=second.name,
            difference=mean,
            interval=half,
            p=p,
            corrected=after,
            significant=after is not None and after < LEVEL,
            pairs=len(differences),
        )
        for (first, second), differences, (mean, half, p), after in zip(
            pairs, found, tested, corrected, strict=True
        )
    ]


def letters(board: Board, metric: str) -> dict[str, str]:
    """The compact letter display of the ranked rows, by name: two rows share a letter exactly
    where their difference is not significant, or could not be tested; a is the best row's. Empty
    where nothing could be tested, for want of seeds or of a second row.

    Args:
        board: whose rows are compared.
        metric: in which.
    """
    comparisons = compare(board, metric)
    if all(comparison.p is None for comparison in comparisons):
        return {}
    rows = [row for row in ranked(board) if row.on_test(metric).mean is not None]
    sign = 1 if _larger_is_better(board, metric) else -1
    names = [row.name for row in sorted(rows, key=lambda r: -sign * (r.on_test(metric).mean or 0))]
    apart = [(one.first, one.second) for one in comparisons if one.significant]
    groups = _groups(names, apart)
    return {
        name: "".join(_letter(i) for i, group in enumerate(groups) if name in group)
        for name in names
    }


def holm(values: Sequence[float | None]) -> list[float | None]:
    """p values after Holm's step-down correction, in the order given; None stays and counts for
    nothing."""
    order = sorted((p, i) for i, p in enumerate(values) if p is not None)
    corrected: list[float | None] = [None] * len(values)
    highest = 0.0
    for place, (p, i) in enumerate(order):
        highest = max(highest, min(1.0, (len(order) - place) * p))
        corrected[i] = highest
    return corrected


def _larger_is_better(board: Board, metric: str) -> bool:
    chosen = {objective.metric: objective.direction for objective in board.objectives}
    return chosen.get(metric, DIRECTIONS.get(metric, "maximize")) == "maximize"


def _differences(first: Row, second: Row, metric: str) -> list[float]:
    pairs = zip_longest(first.on_test(metric).values, second.on_test(metric).values)
    return [a - b for a, b in pairs if a is not None and b is not None]


def _test(differences: Sequence[float]) -> tuple[float | None, float | None, float | None]:
    """Mean, half the width of the interval and p."""
    if not differences:
        return None, None, None
    mean, half = interval(differences)
    if half is None:
        return mean, None, None
    n = len(differences)
    error = math.sqrt(math.fsum((d - mean) ** 2 for d in differences) / (n - 1) / n)
    if error <= 1e-12 * max(abs(d) for d in differences):  # the same, but for rounding
        return mean, half, float(mean == 0)
    from scipy.special import stdtr

    return mean, half, float(2 * stdtr(n - 1, -abs(mean) / error))


def _groups(names: Sequence[str], apart: Sequence[tuple[str, str]]) -> list[set[str]]:
    """The largest groups without two rows that are apart, the best row's first (insert and absorb;
    Piepho 2004, J. Comput. Graph. Stat. 13)."""
    groups = [set(names)]
    for a, b in apart:
        cut = [half for group in groups for half in _cut(group, a, b)]
        groups = [
            group
            for i, group in enumerate(cut)
            if not any(group < other or (group == other and j < i) for j, other in enumerate(cut))
        ]
    return sorted(groups, key=lambda group: [name not in group for name in names])


def _cut(group: set[str], a: str, b: str) -> list[set[str]]:
    return [group - {a}, group - {b}] if {a, b} <= group else [group]


def _letter(index: int) -> str:
    """a to z, A to Z, and then the letters of Latin Extended."""
    plain = string.ascii_letters
    return plain[index] if index < len(plain) else chr(0x100 + index - len(plain))
