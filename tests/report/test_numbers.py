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


def test_measures_in_their_own_unit() -> None:
    assert numbers.measure("bytes", 358_400) == "358 kB"
    assert numbers.measure("growth", 0.25) == "0.250"
    assert numbers.measured("steps", 12_000, 0.0) == "12.0 k"
    assert numbers.measured("steps", 12_000, 1500) == "12.0 k ± 1.50 k"
    assert numbers.measured("forgetting", 0.1, 0.0) == "0.100 ± 0.000"
    assert numbers.measured("bytes", None, None) == "-"


def test_trajectories() -> None:
    points = [{"optimizer.lr": lr, "method.on": True} for lr in (0.1, 0.1, 0.03, 0.01, 0.003)]
    points[0]["method.late"] = 2
    shown = numbers.trajectory(points).replace("\u00a0", " ")
    assert shown == "lr 0.1 → 0.1 → 0.03 → … → 0.003, on true, late 2 → - → - → … → -"
    assert numbers.trajectory(points[:1]) == numbers.knobs(points[0])


def test_spans() -> None:
    assert numbers.span([16, 12, 16]) == "12 to 16"
    assert numbers.span([1000, 1000.1]) == "1.00 k"
    assert numbers.span([1.0, 70.0], numbers.duration) == "1.00 s to 1 min 10 s"
