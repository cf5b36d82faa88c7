"""Events told as lines come back as they were."""

from __future__ import annotations

import math
import typing

import pytest

from clray import events
from clray.event_lines import MARK, as_line, of_line
from clray.events import Event

ALL: list[Event] = [
    events.JobStarted("a", "s3://b", ("x", "")),
    events.BoardStarted("x", 5, {("er", "search"): 3, ("er", "test"): 2}),
    events.SlotsStarting(2),
    events.SlotsReady(1.5),
    events.SlotsChanged(1, 1, 2, 4),
    events.TrialWaits("er", "search", 0),
    events.TrialResumed("er", "search", 0),
    events.TrialStarted("er", "search", 0, {"optimizer.lr": 0.1, "method.mode": None}, 2, 5),
    events.TaskEnded("er", "search", 0, 1, 0.5, 1),
    events.TrialEnded("er", "search", 0, "completed", 0.5, values={"a": 1}, measures={"b": None}),
    events.BoardEnded("x", [{"label": "er", "test": [0.1, 0.2]}]),
    events.Warned("a\nb"),
    events.Progressed("images", 1, 2),
]


def test_every_kind_is_here() -> None:
    assert {type(event) for event in ALL} == set(typing.get_args(Event))


@pytest.mark.parametrize("event", ALL, ids=lambda event: type(event).__name__)
def test_there_and_back(event: Event) -> None:
    line = as_line(event)
    assert "\n" not in line
    known = of_line(line)
    assert known is not None
    assert known[1] == event


def test_a_number_that_is_none() -> None:
    line = as_line(events.TrialEnded("er", "search", 0, "diverged", math.nan))
    known = of_line(line)
    assert known is not None
    assert isinstance(known[1], events.TrialEnded)
    assert known[1].value is None


@pytest.mark.parametrize("line", ["", "loss 0.1", MARK, MARK + '{"event": "New", "at": 1}'])
def test_other_lines(line: str) -> None:
    assert of_line(line) is None
