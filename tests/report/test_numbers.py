"""How numbers are written."""

from __future__ import annotations

import pytest

from clray.report import numbers


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.91249, "0.912"), (1.0, "1.000"), (-0.0001, "0.000"), (-0.5, "-0.500"), (None, "-")],
)
def test_fraction(value: float | None, text: str) -> None:
    assert numbers.fraction(value) == text


def test_estimate() -> None:
    assert numbers.estimate(0.5, 0.0123) == "0.500 ± 0.012"
    assert numbers.estimate(0.5, None) == "0.500"
    assert numbers.estimate(None, None) == "-"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (999, "999"),
        (1000, "1.00 k"),
        (89_610, "89.6 k"),
        (999_960, "1.00 M"),
        (123_456_789, "123 M"),
        (2.5e9, "2.50 G"),
        (None, "-"),
    ],
)
def test_count(value: float | None, text: str) -> None:
    assert numbers.count(value) == text


def test_size() -> None:
    assert [numbers.size(n) for n in (12, 358_400, 4.1e9)] == ["12 B", "358 kB", "4.10 GB"]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.004, "0.00 s"),
        (9.999, "10.0 s"),
        (59.94, "59.9 s"),
        (59.99, "1 min 00 s"),
        (200.4, "3 min 20 s"),
        (3599.6, "1 h 00 min"),
        (3900, "1 h 05 min"),
        (None, "-"),
    ],
)
def test_duration(value: float | None, text: str) -> None:
    assert numbers.duration(value) == text


def test_knobs_keep_apart_what_has_the_same_name() -> None:
    shown = numbers.knobs({"method.lr": 0.1, "optimizer.lr": 1e-5, "method.on": True})
    assert shown.replace("\u00a0", " ") == "method.lr 0.1, optimizer.lr 1e-05, method.on true"
    assert numbers.knobs({"method.a": None}) == "a\u00a0none"


def test_limits_of_memory() -> None:
    written = [numbers.memory(number) for number in (0, 1023, 1 << 26, 3 << 29)]
    assert written == ["0 B", "1023 B", "64 MiB", "1.5 GiB"]


def test_some_of_many() -> None:
    assert numbers.evenly(3, 20) == [0, 1, 2]
    assert numbers.evenly(100, 4) == [0, 33, 66, 99]
