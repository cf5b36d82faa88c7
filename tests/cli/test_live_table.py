"""What the live table and the plain lines show for a job's events."""

from __future__ import annotations

import io
import pickle
from collections.abc import Sequence
from typing import Any

import pytest
from rich.console import Console

from clray.cli.job_state import JobState, measure
from clray.cli.live_table import MOST_ROWS, LiveTable
from clray.cli.plain_lines import PlainLines
from clray.events import (
    BoardEnded,
    BoardStarted,
    Event,
    JobStarted,
    SlotsChanged,
    SlotsReady,
    SlotsStarting,
    Stage,
    TaskEnded,
    TrialEnded,
    TrialResumed,
    TrialStarted,
    TrialWaits,
    Warned,
)

PLANNED: dict[tuple[str, Stage], int] = {
    ("ewc", "search"): 16,
    ("ewc", "test"): 5,
    ("a-method-with-a-very-long-label", "search"): 16,
    ("a-method-with-a-very-long-label", "test"): 5,
    ("joint", "search"): 1,
    ("joint", "test"): 5,
}
VALUES = {"method.strength": 123.456, "optimizer.lr": 0.0123456, "method.mode": "offline"}
STARTED = JobStarted("quickstart", "results/jobs/quickstart", ("",))
BOARD = BoardStarted("", 5, PLANNED)


class Clock:
    """Time that a test sets."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def _console(width: int = 80, terminal: bool = False) -> tuple[Console, io.StringIO]:
    text = io.StringIO()
    console = Console(
        file=text, width=width, force_terminal=terminal, markup=False, highlight=False
    )
    return console, text


def _shown(events: Sequence[Event | float], width: int = 80, height: int = 24) -> str:
    """The table after these events; a number lets so many seconds pass."""
    clock = Clock()
    console, text = _console(width)
    console.height = height
    table = LiveTable(console, clock)
    for event in events:
        if isinstance(event, int | float):
            clock.now += event
        else:
            table.watch(event)
    console.print(table)
    return text.getvalue()


RUNNING: list[Event | float] = [
    STARTED,
    BOARD,
    SlotsStarting(2),
    9.0,
    SlotsReady(9.0),
    TrialEnded("ewc", "search", 0, "completed", 0.912, stored=True),
    TrialStarted("ewc", "search", 1, VALUES),
    TrialStarted("a-method-with-a-very-long-label", "search", 12, VALUES),
    TaskEnded("a-method-with-a-very-long-label", "search", 12, 2, 0.81234),
    10.0,
    TrialEnded("ewc", "search", 1, "completed", 0.5),
    TrialStarted("ewc", "search", 2, VALUES),
    TaskEnded("ewc", "search", 2, 0, 1.0),
    TrialEnded("joint", "search", 0, "diverged", None),
    TrialStarted("joint", "test", 3),
    Warned("1 of 2 slots fit; proposals stay the same"),
]


def test_waits_for_the_first_slot() -> None:
    shown = _shown([STARTED, BOARD, SlotsStarting(2), 8.0])
    assert "quickstart  starting 2 slots, 8 s" in shown
    assert "0:00:08 elapsed" in shown
    assert "left" not in shown


@pytest.mark.parametrize(
    ("events", "line"),
    [
        ([SlotsChanged(0, 1, 7, 8), 35.0], "0 of 8 slots; starting 1; waiting for machines, 35 s"),
        (
            [SlotsChanged(0, 0, 8, 8), 30.0, SlotsChanged(2, 0, 6, 8), 5.0],
            "2 of 8 slots; waiting for machines, 35 s",
        ),
        ([SlotsChanged(1, 1, 0, 2), 3.0], "1 of 2 slots; starting 1"),
    ],
)
def test_says_which_slots_are_missing(events: list[Event | float], line: str) -> None:
    before: list[Event | float] = [STARTED, BOARD, SlotsStarting(8)]
    assert f"quickstart  {line}" in _shown(before + events, 120)
    ready = SlotsChanged(8, 0, 0, 8)
    assert "of 8 slots" not in _shown([*before, *events, SlotsReady(40.0), ready], 120)


def test_a_trial_that_lost_its_machine_waits_and_goes_on() -> None:
    name: tuple[str, Stage, int] = ("ewc", "search", 1)
    lost: list[Event | float] = [
        STARTED,
        BOARD,
        TrialStarted(*name, VALUES),
        TaskEnded(*name, 1, 0.5),
        TrialWaits(*name),
    ]
    shown = _shown(lost)
    assert "waits for a slot" in shown
    assert "of 5" not in shown.split("running")[1]
    again = _shown([*lost, TrialResumed(*name)])
    assert "task 3 of 5" in again


def test_progress_and_best() -> None:
    lines = _shown(RUNNING).splitlines()
    [entry] = [line for line in lines if line.strip().startswith("ewc") and "/" in line]
    assert "2/16" in entry
    assert "0/5" in entry
    assert "0.912" in entry
    [joint] = [line for line in lines if line.strip().startswith("joint") and "/" in line]
    assert "1 diverged" in joint


def test_running_trials() -> None:
    shown = _shown(RUNNING)
    assert "task 4 of 5" in shown
    assert "0.812" in shown
    assert "#12" in shown
    assert "strength\u00a0123.5" in shown
    assert "test #3" in shown
    assert "warning: 1 of 2 slots fit" in shown
    assert "starting" not in shown


@pytest.mark.parametrize("width", [60, 80, 120, 200])
def test_fits_the_terminal(width: int) -> None:
    lines = _shown(RUNNING, width).splitlines()
    assert max(map(len, lines)) <= width
    assert len(lines) == len(_shown(RUNNING, 200).splitlines()), "a row was wrapped"


def test_shows_not_too_many_rows() -> None:
    events: list[Event | float] = [STARTED, BOARD]
    events += [TrialStarted("ewc", "search", number) for number in range(MOST_ROWS + 3)]
    shown = _shown(events, height=60)
    assert shown.count("task 1 of 5") == MOST_ROWS
    assert "and 3 more" in shown


BOARDS = tuple(
    f"{arena}/{selection}"
    for arena in ("split", "permuted")
    for selection in ("end-of-training", "first-k", "seen-tasks", "oracle")
)
METHODS = ("finetune", "ewc", "er", "si", "a-method-with-a-very-long-label")


def _row(label: str, forgetting: float, **others: Any) -> dict[str, Any]:
    return {"label": label, "test": {"forgetting": {"mean": forgetting}}, **others}


def _many(stages: Sequence[Stage], boards: int, running: int, failing: bool) -> list[Event | float]:
    """A job on its last board, as wide and long as it gets."""
    planned = {(label, stage): 100 for label in METHODS for stage in stages}
    events: list[Event | float] = [JobStarted("quickstart", "r", BOARDS[: boards + 1])]
    for board in BOARDS[:boards]:
        rows = [_row("bound", 0.01, bound=True), _row("er", 0.2), _row("ewc", 0.1, number=7)]
        events += [BoardStarted(board, 5, planned, "forgetting", "minimize"), 100.0]
        events += [BoardEnded(board, rows)]
    events.append(BoardStarted(BOARDS[boards], 5, planned, "forgetting", "minimize"))
    for label in METHODS:
        values = (0.3, 0.2, None, None)
        for number, (value, state) in enumerate(
            zip(values, ("completed", "completed", "stopped", "failed"), strict=True)
        ):
            error = "boom " * 30 if failing and state == "failed" else None
            events.append(TrialEnded(label, "search", number, state, value, error=error))
    for number in range(running):
        events.append(TrialStarted("er", "first stage", number, VALUES, runs=3, tasks=2))
        events.append(TaskEnded("er", "first stage", number, 0, 0.5, run=2))
    return events


@pytest.mark.parametrize("stages", [("search", "test"), ("first stage", "search", "test")])
@pytest.mark.parametrize(("boards", "running"), [(0, 12), (7, 2), (7, 12)])
@pytest.mark.parametrize("failing", [False, True])
def test_five_methods_fit_80_columns_and_24_lines(
    stages: Sequence[Stage], boards: int, running: int, failing: bool
) -> None:
    shown = _shown(_many(stages, boards, running, failing))
    lines = shown.splitlines()
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 80
    for label in METHODS[:4]:
        [entry] = [line for line in lines if line.split()[:1] == [label] and "/100" in line]
        assert "4/100" in entry
        assert "0.200" in entry, "best is the lowest"
        assert "1 failed" in entry
        assert "1 stopped" in entry
    assert "2 of 6 tasks" not in shown
    assert "1 of 6 tasks" in shown
    assert "best is lowest forgetting" in shown
    assert boards == 0 or "8 of 8: permuted/oracle" in shown
    assert boards == 0 or "permuted/seen-tasks" in shown


def test_boards_that_ended_are_one_line_each() -> None:
    lines = _shown(_many(("search", "test"), 2, 1, False)).splitlines()
    [ended] = [line for line in lines if "split/first-k" in line]
    assert ended.split() == ["split/first-k", "ewc", "#7", "0.100", "1", "min", "40", "s"]
    assert any("3 of 3: split/seen-tasks" in line for line in lines)


def test_time_left_is_said_to_be_the_boards_where_more_follow() -> None:
    trial: list[Event | float] = [
        TrialStarted("ewc", "search", 0),
        10.0,
        TrialEnded("ewc", "search", 0, "completed", 0.5),
    ]
    first: list[Event | float] = [JobStarted("a", "r", ("x", "y")), BoardStarted("x", 5, PLANNED)]
    last: list[Event | float] = [BoardStarted("y", 5, PLANNED), *trial]
    assert "left for this board" in _shown([*first, *trial])
    shown = _shown([*first, *trial, *last])
    assert " left" in shown
    assert "this board" not in shown


def test_time_left_knows_runs_and_tasks() -> None:
    clock = Clock()
    state = JobState(clock)
    planned: dict[tuple[str, Stage], int] = {("a", "search"): 1, ("a", "test"): 2, ("b", "test"): 1}
    state.watch(BoardStarted("", 5, planned))
    state.watch(TrialStarted("a", "search", 0, runs=2, tasks=3))
    clock.now += 12
    state.watch(TrialEnded("a", "search", 0, "stopped", None))
    assert state.seconds_left() == pytest.approx(3 * 12 / 6 * 5)


def test_before_the_plan() -> None:
    assert "planning" in _shown([])


def test_time_left_from_medians() -> None:
    clock = Clock()
    state = JobState(clock)
    planned: dict[tuple[str, Stage], int] = {("a", "search"): 4, ("a", "test"): 2}
    state.watch(BoardStarted("", 5, planned))
    assert state.seconds_left() is None
    for number, seconds in enumerate([10, 30, 20]):
        state.watch(TrialStarted("a", "search", number))
        clock.now += seconds
        state.watch(TrialEnded("a", "search", number, "completed", 0.5))
    assert state.seconds_left() == pytest.approx(3 * 20)
    state.watch(TrialStarted("a", "search", 3))
    clock.now += 5
    assert state.seconds_left() == pytest.approx(3 * 20 - 5)
    clock.now += 500  # one that takes longer than others cannot make the rest shorter
    assert state.seconds_left() == pytest.approx(2 * 20)
    state.watch(TrialEnded("a", "search", 3, "failed", None))
    for number in range(2):
        state.watch(TrialEnded("a", "test", number, "completed", None, stored=True))
    assert state.seconds_left() == 0


def test_stored_trials_tell_nothing_about_time() -> None:
    state = JobState(Clock())
    state.watch(BoardStarted("", 5, {("a", "search"): 2}))
    state.watch(TrialEnded("a", "search", 0, "completed", 0.5, stored=True))
    assert state.seconds_left() is None


def test_slots_starting_is_nobodys_time() -> None:
    clock = Clock()
    state = JobState(clock)
    state.watch(TrialStarted("a", "search", 0))
    clock.now += 100
    state.watch(SlotsReady(100))
    clock.now += 3
    assert state.watch(TrialEnded("a", "search", 0, "completed", 0.5)) == pytest.approx(3)


def test_live_display_ends_with_the_warnings() -> None:
    console, text = _console(terminal=True)
    with LiveTable(console) as table:
        for event in RUNNING:
            if not isinstance(event, int | float):
                table.watch(event)
    assert "warning: 1 of 2 slots fit" in text.getvalue().rpartition("\x1b")[0]


def test_plain_lines() -> None:
    clock = Clock()
    console, text = _console()
    lines = PlainLines(console, clock)
    with lines:
        for event in RUNNING:
            if isinstance(event, int | float):
                clock.now += event
            else:
                lines.watch(event)
    assert "\x1b" not in text.getvalue()
    assert text.getvalue().splitlines() == [
        "quickstart: results in results/jobs/quickstart",
        "5 tasks, best is highest average accuracy",
        "starting 2 slots",
        "first slot ready after 9.00 s",
        "ewc search 1/16: #0 completed, 0.912 (stored)",
        "ewc search 2/16: #1 completed, 0.500 (10.0 s)",
        "joint search 1/1: #0 diverged",
        "warning: 1 of 2 slots fit; proposals stay the same",
    ]


def test_plain_lines_of_several_boards() -> None:
    clock = Clock()
    console, text = _console(200)
    lines = PlainLines(console, clock)
    for event in _many(("search", "test"), 1, 0, True)[:-4]:
        if isinstance(event, int | float):
            clock.now += event
        else:
            lines.watch(event)
    said = text.getvalue().splitlines()
    assert said[:4] == [
        "quickstart: results in r",
        "board 1 of 2: split/end-of-training, 5 tasks, best is lowest forgetting",
        "board split/end-of-training ended after 1 min 40 s: best on test ewc #7, 0.100",
        "board 2 of 2: split/first-k, 5 tasks, best is lowest forgetting",
    ]
    assert said[4] == "finetune search 1/100: #0 completed, 0.300"


@pytest.mark.parametrize(
    ("metric", "value", "shown"),
    [("forgetting", 0.25, "0.250"), ("parameters", 89610, "89.6 k"), ("bytes", 358440, "358 kB")],
)
def test_measures(metric: str, value: float, shown: str) -> None:
    assert measure(metric, value) == shown


def test_events_travel() -> None:
    for event in RUNNING:
        assert pickle.loads(pickle.dumps(event)) == event
