"""The accuracy matrix as a table."""

from __future__ import annotations

import io

import pytest
from rich.console import Console
from rich.text import Text

from clray.report.matrix import SHOWN, _cell, matrix_table
from clray.report.stored import Record


def _records(num_tasks: int, future: float | None = None) -> list[Record]:
    return [
        Record(
            task=t,
            name=f"{2 * t}-{2 * t + 1}",
            accuracy=[1 - (t - i) / 200 if i <= t else future for i in range(num_tasks)],
        )
        for t in range(num_tasks)
    ]


def _shown(records: list[Record], width: int) -> str:
    text = io.StringIO()
    Console(file=text, width=width, markup=False).print(matrix_table(records, width))
    return text.getvalue()


def test_rows_columns_and_means() -> None:
    lines = _shown(_records(3), 80).splitlines()
    assert lines[0].split() == ["after", "task", "1", "2", "3", "mean"]
    assert lines[2].split() == ["1", "0-1", "1.000", "·", "·", "1.000"]
    assert lines[4].split() == ["3", "4-5", "0.990", "0.995", "1.000", "0.995"]


def test_the_future_is_dim() -> None:
    record = _records(3, future=0.25)[0]
    cells = [_cell(record, column) for column in range(3)]
    assert [str(cell) for cell in cells] == ["1.000", "0.250", "0.250"]
    assert [cell.style for cell in cells] == ["", "dim", "dim"]
    assert isinstance(cells[0], Text)


@pytest.mark.parametrize("num_tasks", [1, 5, 10, 20, 100])
@pytest.mark.parametrize("width", [60, 80, 120])
def test_fits_and_never_wraps_a_row(num_tasks: int, width: int) -> None:
    lines = _shown(_records(num_tasks), width).splitlines()
    assert max(map(len, lines)) <= width
    shown = min(num_tasks, SHOWN)
    rows = [line for line in lines if "." in line or "·" in line]
    assert len(rows) % shown == 0
    assert (
        f"{1 - (num_tasks - 1) / 200:.3f}" in lines[-1 - (num_tasks > SHOWN)] or len(rows) > shown
    )


def test_long_streams_are_thinned_and_say_so() -> None:
    shown = _shown(_records(100), 120)
    assert "20 of 100 tasks" in shown
    assert "100  198-199" in shown


def test_nothing_measured() -> None:
    assert "nothing was measured" in _shown([Record(task=0, name="a")], 80)
