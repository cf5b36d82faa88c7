"""What Ray costs: the start of a slot, an empty trial on a warm slot, and a sweep of 16 trials.

    python tests/perf/ray_cost.py

Afterwards it looks for processes, placement groups and temporary files that were left behind.
"""

from __future__ import annotations

import glob
import itertools
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
import ray

from clray import protocols, sweep
from clray.events import Event, SlotsReady, TrialEnded, TrialStarted, ignore
from clray.job import JobSpec
from clray.parsing import parse
from clray.plan import Candidate, Plan
from clray.protocols.boards import boards_of
from clray.protocols.choosing import static_plan
from clray.protocols.views import views_of
from clray.ray_train import Slots
from clray.spec import Resources, Storing
from clray.store import trial_folder

EMPTY = 100
SEARCH = 16


def job(name: str, trials: int, **changes: Any) -> JobSpec:
    plain: dict[str, Any] = {
        "name": name,
        "benchmark": {"name": "split-digits", "num_tasks": 1, "train_fraction": 0.1},
        "model": {"name": "mlp", "hidden": [8]},
        "methods": {"finetune": {}},
        "search": {"trials": trials, "sampler": "random"},
        **changes,
    }
    return protocols.plan(parse(JobSpec, plain, name))


def plan_of(job: JobSpec) -> Plan:
    [board] = boards_of(job)
    return static_plan(board, board.contenders[0], views_of(board)[0])


def own_seconds(results: str, candidates: list[Candidate]) -> list[float]:
    """The time that each trial spent inside its worker."""
    folders = [trial_folder(results, c.runs[0].key) for c in candidates]
    timings = [folder.read_json("timing.json") for folder in folders]
    return [sum(timing[part] for part in ("train", "eval", "store")) for timing in timings]


def main() -> None:
    before = {process.pid for process in psutil.process_iter()}
    started: list[float] = []
    times: dict[int, float] = {}
    took: list[float] = []
    ready: list[float] = []

    def watch(event: Event) -> None:
        if isinstance(event, SlotsReady):
            ready.append(event.seconds)
        elif isinstance(event, TrialStarted):
            times[event.number] = time.perf_counter()
        elif isinstance(event, TrialEnded):
            started.append(time.perf_counter())
            took.append(time.perf_counter() - times[event.number])

    with tempfile.TemporaryDirectory() as results:
        empty = job("empty", EMPTY)
        plan = plan_of(empty)
        start = time.perf_counter()
        with Slots(Resources(slots=1), results, Storing(), watch) as slots:
            candidates, _ = sweep.search(plan, results, lambda: slots, watch)
            own = own_seconds(results, candidates)
        gaps = [b - a for a, b in itertools.pairwise(started)]
        print(f"start of Ray and one slot: {ready[0]:.1f} s")
        print(
            "an empty trial through Ray Tune on a warm slot: median "
            f"{statistics.median(gaps):.3f} s from end to end of {EMPTY} trials "
            f"(its own work: {statistics.median(own):.3f} s)"
        )
        print(f"{EMPTY} trials, Ray's start and end included: {time.perf_counter() - start:.1f} s")

        work = job(
            "work",
            SEARCH,
            benchmark={"name": "split-digits"},
            model={"name": "mlp", "hidden": [400, 400]},
            protocol={"epochs": 40, "batch_size": 16},
        )
        plan = plan_of(work)
        ready.clear()
        start = time.perf_counter()
        with Slots(Resources(slots=2), results, Storing(), watch) as slots:
            while ray.get(slots.dispatcher.num_ready.remote()) < 2:
                time.sleep(0.05)
            running = time.perf_counter()
            candidates, _ = sweep.search(plan, results, lambda: slots, ignore)
            wall = time.perf_counter() - running
            own = own_seconds(results, candidates)
        whole = time.perf_counter() - start
        ideal = sum(own) / 2
        print(
            f"{SEARCH} trials of {statistics.median(own):.1f} s on 2 slots: {wall:.1f} s, "
            f"{wall / ideal:.2f} times the trials' own time over the slots; with the start "
            f"and end of both slots {whole:.1f} s, {whole / ideal:.2f} times"
        )
    time.sleep(2)
    left = [p for p in psutil.process_iter() if p.pid not in before and "ray" in p.name()]
    files = glob.glob(str(Path(tempfile.gettempdir()) / f"clray-ray-{os.getpid()}-*"))
    print(f"left behind: {len(left)} processes, {len(files)} temporary folders")


if __name__ == "__main__":
    main()
