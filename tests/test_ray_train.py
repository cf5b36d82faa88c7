"""Slots: one Ray for all of this file's tests, workers that are killed, requests that cannot be."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import ray

from clray import registry, trial
from clray.errors import BadInput, BadResources, Infeasible
from clray.events import Event, Stage, TrialResumed, TrialStarted, TrialWaits, ignore
from clray.ray_train import Slots, check_here
from clray.seen import Seen
from clray.spec import Component, Resources, Storing, TrialSpec
from clray.store import Folder, trial_folder
from clray.work import Work, in_turn


def spec(seed: int = 0, epochs: int = 2, **changes: Any) -> TrialSpec:
    plain: dict[str, Any] = {
        "method": "er",
        "benchmark": {"name": "split-digits", "num_tasks": 3, "class_order": [0, 1, 2, 3, 4, 5]},
        "model": {"name": "mlp", "hidden": [64]},
        "protocol": {"epochs": epochs, "batch_size": 16, "memory": 40},
        "seed": seed,
        **changes,
    }
    return registry.complete(TrialSpec.model_validate(plain))


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tmp_path_factory.mktemp("results"))


@pytest.fixture(scope="module")
def slots(results: str) -> Iterator[Slots]:
    with Slots(Resources(slots=2), results, Storing(checkpoint_epochs=1), ignore) as started:
        yield started
    assert not ray.is_initialized()
    assert started.temp is not None
    assert not started.temp.exists()


def turns(*specs: TrialSpec) -> Callable[[], Work | None]:
    return in_turn(Work.of(one) for one in specs)


def no_report(index: int, record: dict[str, Any]) -> None:
    pass


def test_trials_on_slots_equal_trials_here(slots: Slots, results: str, tmp_path: Path) -> None:
    specs = [spec(seed) for seed in range(4)]
    records: list[tuple[int, int]] = []
    ends = dict(
        slots.run(turns(*specs), lambda index, record: records.append((index, record["task"])))
    )
    assert sorted(records) == [(index, task) for index in range(4) for task in range(3)]
    for index, one in enumerate(specs):
        assert ends[index]["state"] == "completed"
        here = Folder(str(tmp_path / str(index)))
        trial.run(one, here)
        there = trial_folder(results, one.key)
        for name in ("records.jsonl", "result.json"):
            assert here.read(name) == there.read(name)


def test_the_same_trial_twice_is_run_once(slots: Slots, results: str) -> None:
    ends = dict(slots.run(turns(spec(9), spec(9)), no_report))
    assert ends[0] == ends[1]


def all_ready(slots: Slots) -> None:
    while ray.get(slots.dispatcher.num_ready.remote()) < slots.count:
        time.sleep(0.05)


def test_a_killed_worker_goes_on_where_it_was(
    slots: Slots, results: str, tmp_path: Path, titles: Callable[[], dict[int, str]]
) -> None:
    all_ready(slots)
    one = spec(20, epochs=300)
    folder = trial_folder(results, one.key)
    killed: list[int] = []

    def kill() -> None:
        while not folder.has("checkpoint"):
            time.sleep(0.01)
        time.sleep(0.2)
        for pid, title in titles().items():
            # Workers are named after themselves, or after what they were last asked to do.
            if "RayTrainWorker" in title or "ray::execute" in title:
                os.kill(pid, signal.SIGKILL)
                killed.append(pid)

    killer = threading.Thread(target=kill)
    killer.start()
    [(_, end)] = slots.run(turns(one), no_report)
    killer.join()
    assert killed
    assert end["state"] == "completed"
    trial.run(one, Folder(str(tmp_path)))
    assert Folder(str(tmp_path)).read("records.jsonl") == folder.read("records.jsonl")


def test_what_two_threads_hear_of_a_trial_is_told_once_and_in_order() -> None:
    told: list[Event] = []
    seen = Seen(told.append)
    name: tuple[str, Stage, int] = ("er", "search", 7)
    start, waits, resumed = TrialStarted(*name), TrialWaits(*name), TrialResumed(*name)
    seen.know(0, start)
    seen.start(0)  # its first record, before the news that a slot has taken it
    seen.hear(0, "taken")
    assert told == [start]
    seen.hear(0, "waiting")
    seen.hear(0, "taken")
    seen.end(0)
    seen.hear(0, "waiting")
    seen.hear(0, "taken")
    assert told == [start, waits, resumed]
    seen.know(1, start)
    seen.end(1)
    assert len(told) == 4  # what has ended was running


def test_divergence_and_exceptions_end_the_trial_and_not_the_slot(
    slots: Slots, results: str
) -> None:
    diverging = spec(optimizer={"lr": 1e30})
    benchmark = {**spec().benchmark.model_dump(), "class_order": [0, 1, 77]}
    failing = spec().model_copy(update={"benchmark": Component.model_validate(benchmark)})
    ends = dict(slots.run(turns(diverging, failing, spec(1)), no_report))
    assert ends[0]["state"] == "diverged"
    assert ends[1]["state"] == "failed"
    assert isinstance(ends[1]["fatal"], BadInput)
    assert ends[2]["state"] == "completed"
    stored = trial.ended(trial_folder(results, diverging.key))
    assert stored is not None
    assert stored.state == "diverged"
    assert "diverged" in stored.records[-1]


def test_an_infeasible_value_fails_alone_where_it_is_one_of_many(slots: Slots) -> None:
    """As the network's size is known to none but the worker."""
    method = {"name": "halrp", "growth": 0.05}
    benchmark = {"name": "split-digits", "scenario": "task-incremental"}
    one = Work.of(spec(method=method, benchmark=benchmark))
    works = [one, one.model_copy(update={"lenient": True})]
    alone, of_many = (end for _, end in sorted(slots.run(in_turn(works), no_report)))
    assert alone["state"] == of_many["state"] == "failed"
    assert isinstance(alone["fatal"], Infeasible)
    assert "fatal" not in of_many
    assert "method.growth: got 0.05; accepted: " in of_many["error"]


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"gpus_per_worker": 99}, r"resources: gpus_per_worker: got 99.* GPUs"),
        ({"workers": 3000}, r"workers x cpus_per_worker: got 3000"),
    ],
)
def test_what_can_never_fit_is_refused_at_once(request_: dict[str, Any], message: str) -> None:
    start = time.monotonic()
    with pytest.raises(BadResources, match=message):
        check_here(Resources(**request_))
    assert time.monotonic() - start < 1
