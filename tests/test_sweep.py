"""Searches through Ray Tune on slots, one Ray for all of this file's tests."""

from __future__ import annotations

import glob
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from clray import protocols, sweep, trial
from clray.events import Event, TaskEnded, TrialEnded, TrialStarted, ignore
from clray.job import JobSpec
from clray.parsing import parse
from clray.plan import Plan
from clray.protocols.boards import boards_of
from clray.protocols.choosing import static_plan, winners
from clray.protocols.views import views_of
from clray.ray_train import Slots
from clray.spec import Resources, Storing
from clray.store import trial_folder


def plan(**search: Any) -> Plan:
    plain: dict[str, Any] = {
        "name": "sweep",
        "benchmark": {"name": "split-digits", "num_tasks": 3, "class_order": [0, 1, 2, 3, 4, 5]},
        "model": {"name": "mlp", "hidden": [16]},
        "protocol": {"epochs": 3, "memory": 30},
        "methods": {"er": {}},
        "search": {"trials": 8, "startup": 3, **search},
    }
    [board] = boards_of(protocols.plan(parse(JobSpec, plain, "sweep")))
    return static_plan(board, board.contenders[0], views_of(board)[0])


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tmp_path_factory.mktemp("results"))


@pytest.fixture(scope="module")
def slots(results: str) -> Iterator[Slots]:
    with Slots(Resources(slots=2), results, Storing(), ignore) as started:
        yield started


def test_a_search_tells_what_happens_and_leaves_nothing_behind(
    slots: Slots, results: str, titles: Callable[[], dict[int, str]]
) -> None:
    events: list[Event] = []
    most = 0

    def hosts() -> int:
        return sum("TuneTrial" in title for title in titles().values())

    def watch(event: Event) -> None:
        nonlocal most
        events.append(event)
        most = max(most, hosts())

    kept: list[int] = []
    found, _ = sweep.search(
        plan(), results, lambda: slots, watch, lambda ended: kept.append(ended.number)
    )
    assert [candidate.number for candidate in found] == list(range(8))
    assert all(candidate.result.state == "completed" for candidate in found)
    assert sorted(kept) == list(range(8))
    for kind, count in ((TrialStarted, 8), (TrialEnded, 8), (TaskEnded, 24)):
        assert sum(isinstance(event, kind) for event in events) == count
    assert most <= 2  # processes are used again, whatever the order in which trials end
    deadline = time.monotonic() + 20
    while hosts() and time.monotonic() < deadline:  # they are told to end, and take a moment
        time.sleep(0.2)
    assert hosts() == 0
    assert slots.temp is not None
    assert not list(slots.temp.glob("tune-*"))

    def no_slots() -> Slots:
        pytest.fail("a stored search needs no slots")

    again, _ = sweep.search(plan(), results, no_slots, ignore)
    assert again == found


@pytest.mark.parametrize(("name", "by"), [("asha", "task"), ("median", "epoch")])
def test_a_scheduler_stops_trials_that_are_then_never_chosen(
    name: str, by: str, slots: Slots, results: str
) -> None:
    early = {"name": name, "by": by, "first": 0.3, "reduction_factor": 2}
    one = plan(seed=5, trials=10, startup=10, scheduler=early)
    found, study = sweep.search(one, results, lambda: slots, ignore)
    states = [candidate.result.state for candidate in found]
    assert set(states) == {"completed", "stopped"}
    stopped = [candidate for candidate in found if candidate.result.state == "stopped"]
    assert all(not candidate.result.measures for candidate in stopped)
    [best] = winners(found, one.search)
    assert best.result.state == "completed"
    assert study.optuna.best_trial.number == best.number
    if by == "task":
        # The trap: after one task of two classes, trials are better than any is at its end.
        score = best.result.measures["average_accuracy"] or 0
        assert max(c.result.trace[0] for c in found) > score
        assert all(candidate.trainings < 3 for candidate in stopped)  # stopped at once
    else:
        assert {run.protocol.epochs for c in found for run in c.runs} == {1, 3}


def test_without_the_lag_every_trial_runs_once(slots: Slots, results: str) -> None:
    found, _ = sweep.search(plan(seed=6, deterministic=False), results, lambda: slots, ignore)
    assert [candidate.result.state for candidate in found] == ["completed"] * 8


def test_a_trial_of_several_seeds_and_orders_is_given_up_after_the_first_run(
    slots: Slots, results: str
) -> None:
    several = {"seed": 7, "trials": 10, "startup": 10, "seeds": 2, "orders": ["natural", [2, 0, 1]]}
    one = plan(**several)
    found, _ = sweep.search(one, results, lambda: slots, ignore)
    full = [c for c in found if c.result.state == "completed"]
    given_up = [c for c in found if c.result.state == "stopped"]
    assert full
    assert given_up
    assert all(c.number >= 4 for c in given_up)  # not before a few are known
    assert all(len(c.runs) == 4 and c.trainings == 12 for c in full)
    assert all(c.trainings == 3 for c in given_up)
    for candidate in full:
        scores = []
        for run in candidate.runs:
            outcome = trial.ended(trial_folder(results, run.key))
            assert outcome is not None
            scores.append(outcome.metrics["average_accuracy"] or 0)
        assert candidate.result.measures["average_accuracy"] == pytest.approx(sum(scores) / 4)

    def no_slots() -> Slots:
        pytest.fail("a stored search needs no slots")

    again, _ = sweep.search(one, results, no_slots, ignore)
    assert again == found  # what was given up is known to be, without running it


def test_bad_data_that_only_a_worker_can_see_is_bad_input(tmp_path: Path) -> None:
    for split in ("train", "test"):
        (tmp_path / f"{split}-00000-of-00001.parquet").write_bytes(b"PAR1 but no more")
    data = f"benchmark.dataset=parquet:{tmp_path}"
    arguments = ["run", "finetune", "split", data, "benchmark.num_tasks=2"]
    done = subprocess.run(
        [sys.executable, "-m", "clray", *arguments, "--results", str(tmp_path / "results")],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert "parquet" in done.stderr


def test_an_error_of_ours_while_slots_run_ends_the_process_in_order(tmp_path: Path) -> None:
    code = f"""
from clray.events import ignore
from clray.plan import Plan
from clray.protocols.boards import boards_of
from clray.protocols.choosing import static_plan, winners
from clray.protocols.views import views_of
from clray.ray_train import Slots
from clray.spec import Resources, Storing
with Slots(Resources(slots=1), {str(tmp_path)!r}, Storing(), ignore):
    raise RuntimeError("something of ours")
"""
    done = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)
    _, printed = done.communicate(timeout=120)
    assert done.returncode == 1
    assert "RuntimeError: something of ours" in printed
    assert not glob.glob(f"{tempfile.gettempdir()}/clray-ray-{done.pid}-*")
