"""Jobs on slots that run trials in this process: without Ray, quick, and the same results."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from clray import protocols, sweep, trial
from clray.errors import BadInput, Leak
from clray.events import Event, ignore
from clray.job import JobSpec
from clray.parsing import parse
from clray.protocols import running
from clray.spec import Resources, Storing
from clray.store import Folder, trial_folder
from clray.work import Work


class Here:
    """Slots without Ray."""

    count = 2
    started = 0

    def __init__(self, resources: Resources, results: str, storing: Storing, watch: Any) -> None:
        self.results = results
        Here.started += 1

    def __enter__(self) -> Here:
        return self

    def __exit__(self, *exception: object) -> None:
        pass

    def run(
        self,
        take: Callable[[], Work | None],
        on_record: Callable[[int, dict[str, Any]], None],
        heard: Callable[[int, str], None] | None = None,
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        """Like ``clray.ray_train.Slots.run``, one trial after another, two handed out ahead."""
        waiting: list[tuple[int, Work]] = []
        numbers = itertools.count()

        def submit() -> None:
            while (work := take()) is not None:
                waiting.append((next(numbers), work))

        submit()
        while waiting:
            index, work = waiting.pop(0)
            if heard is not None:
                heard(index, "taken")
            yield index, self._run(index, work, on_record)
            submit()

    def _run(self, index: int, work: Work, on_record: Any) -> dict[str, Any]:
        ended: dict[str, Any] = {}
        for number, spec in enumerate(work.runs):

            def report(record: dict[str, Any], run: int = number) -> bool:
                on_record(index, {"run": run, **record})
                return True

            folder = trial_folder(self.results, spec.key)
            try:
                outcome = trial.run(
                    spec, folder, report, permission=work.permission, keep=work.keep
                )
            except (BadInput, Leak) as error:
                return {"state": "failed", "error": str(error), "fatal": error}
            ended = {"state": outcome.state, "metrics": outcome.metrics}
            if outcome.state != "completed" or work.is_hopeless(number, outcome.metrics):
                break
        return ended


RunJob = Callable[..., dict[str, Any]]


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs run in this process."""
    monkeypatch.setattr(running, "Slots", Here)
    monkeypatch.setattr(sweep, "run_tune", sweep._directly)
    monkeypatch.setattr(Here, "started", 0)


def job_of(**changes: Any) -> JobSpec:
    """A small job on four tasks of two digits."""
    plain: dict[str, Any] = {
        "name": "small",
        "benchmark": {
            "name": "split-digits",
            "num_tasks": 4,
            "class_order": list(range(8)),
            "train_fraction": 0.3,
        },
        "model": {"name": "mlp", "hidden": [16]},
        "protocol": {"epochs": 1, "batch_size": 32, "memory": 40, "validation_fraction": 0.3},
        "methods": {"er": {}},
        "search": {"trials": 3, "startup": 2},
        "final": {"seeds": 2},
        "resources": {"slots": 2},
        **{k: v for k, v in changes.items() if k != "selection"},
    }
    if "selection" in changes:
        plain["protocol"] = {**plain["protocol"], "selection": changes["selection"]}
    return parse(JobSpec, plain, "job")


@pytest.fixture
def run_job(here: None, tmp_path: Path) -> RunJob:
    """Runs a small job with changes; the content of its ``final.json``."""

    def run(watch: Callable[[Event], None] = ignore, **changes: Any) -> dict[str, Any]:
        return protocols.run_job(protocols.plan(job_of(**changes)), str(tmp_path), watch)

    return run


@pytest.fixture
def job_files(tmp_path: Path) -> Folder:
    """The small job's folder."""
    return Folder(str(tmp_path / "jobs" / "small"))
