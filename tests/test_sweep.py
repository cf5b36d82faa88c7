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

from clray import protocols, sweep
from clray.events import Event, TaskEnded, TrialEnded, TrialStarted, ignore
from clray.parsing import parse
from clray.ray_train import Slots
from clray.spec import JobSpec, Resources, Storing


def plan(**search: Any) -> sweep.Plan:
    plain: dict[str, Any] = {
        "name": "sweep",
        "benchmark": {"name": "split-digits", "num_tasks": 3, "class_order": [0, 1, 2, 3, 4, 5]},
        "model": {"name": "mlp", "hidden": [16]},
        "protocol": {"epochs": 3, "memory": 30},
        "methods": {"er": {}},
        "search": {"trials": 8, "startup": 3, **search},
    }
    job = protocols.plan(parse(JobSpec, plain, "sweep"))
    return protocols.plans_of(job)["er"]


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
    found = sweep.search(
        plan(), results, lambda: slots, watch, lambda ended: kept.append(len(ended))
    )
    assert [candidate.number for candidate in found] == list(range(8))
    assert all(candidate.result.state == "completed" for candidate in found)
    assert kept == list(range(1, 9))
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

    again = sweep.search(plan(), results, no_slots, ignore)
    assert again == found


def test_a_scheduler_stops_trials_that_are_then_never_chosen(slots: Slots, results: str) -> None:
    one = plan(seed=5, trials=10, scheduler={"grace": 1 / 3, "reduction_factor": 2})
    found = sweep.search(one, results, lambda: slots, ignore)
    states = [candidate.result.state for candidate in found]
    assert set(states) == {"completed", "stopped"}
    stopped = [candidate for candidate in found if candidate.result.state == "stopped"]
    assert all(candidate.result.value is None for candidate in stopped)
    assert all(len(candidate.result.trace) < 3 for candidate in stopped)  # none that had finished
    best = protocols._choose(found)
    assert best is not None
    assert best.result.state == "completed"
    # The trap: after one task of two classes, trials are better than any is at its end.
    assert max(c.result.trace[0] for c in found) > (best.result.value or 0)
    again = sweep.search(one, results, lambda: slots, ignore)
    assert len(again) == 10


def test_without_the_lag_every_trial_runs_once(slots: Slots, results: str) -> None:
    found = sweep.search(plan(seed=6, deterministic=False), results, lambda: slots, ignore)
    assert [candidate.result.state for candidate in found] == ["completed"] * 8


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
from clray.ray_train import Slots
from clray.spec import Resources, Storing
with Slots(Resources(slots=1), {str(tmp_path)!r}, Storing(), ignore):
    raise RuntimeError("something of ours")
"""
    before = set(_folders())
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 1
    assert "RuntimeError: something of ours" in done.stderr
    assert not set(_folders()) - before


def _folders() -> list[str]:
    return glob.glob(f"{tempfile.gettempdir()}/clray-ray-*")
