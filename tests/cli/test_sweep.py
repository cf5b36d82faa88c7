"""``clray sweep``: plan, display, leaderboard and exit codes, without Ray."""

from __future__ import annotations

import copy
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from clray.errors import RunFailed
from clray.events import BoardStarted, JobStarted, Stage, TrialEnded, Watch
from clray.job import JobSpec

ROW: dict[str, Any] = {
    "label": "finetune",
    "method": "finetune",
    "values": {"optimizer.lr": 0.1},
    "trials": {"completed": 2, "diverged": 1, "stopped": 0, "failed": 0},
    "validation": {"average_accuracy": 0.5},
    "test": {"average_accuracy": {"mean": 0.5, "interval": 0.1, "values": [0.4, 0.6]}},
    "test_keys": ["x", "y"],
}

FINAL: dict[str, Any] = {
    "job": "a",
    "results": "results/jobs/a",
    "boards": [
        {
            "benchmark": {"name": "split-digits"},
            "model": {"name": "mlp"},
            "selection": {"name": "end-of-training"},
            "title": "end-of-training",
            "chosen_on": "validation examples of the whole stream, at its end",
            "objectives": ["average_accuracy"],
            "num_tasks": 5,
            "rows": [ROW],
        }
    ],
}

JOB = "{name: a, benchmark: split-digits, methods: [finetune], search: {trials: 3}}"

Protocols = Callable[..., list[JobSpec]]


@pytest.fixture
def protocols(monkeypatch: pytest.MonkeyPatch, here: Path) -> Protocols:
    """Call it with what run_job is to return or raise; the list is what it is given."""
    (here / "job.yaml").write_text(JOB)

    def install(outcome: Any) -> list[JobSpec]:
        given: list[JobSpec] = []

        def run_job(job: JobSpec, results: str, watch: Watch, command: list[str]) -> Any:
            given.append(job)
            planned: dict[tuple[str, Stage], int] = {
                ("finetune", "search"): 3,
                ("finetune", "test"): 2,
            }
            watch(JobStarted(job.name, f"{results}/jobs/{job.name}", ("",)))
            watch(BoardStarted("", 5, planned))
            watch(TrialEnded("finetune", "search", 0, "completed", 0.5))
            if isinstance(outcome, BaseException):
                raise outcome
            return outcome

        monkeypatch.setattr("clray.report.reading.read_job", lambda folder: None)
        monkeypatch.setattr("clray.report.writing.write_report", lambda *_, **__: "report.html")
        fake = types.ModuleType("clray.protocols")
        fake.plan = lambda job: job  # type: ignore[attr-defined]
        fake.planned_boards = lambda job: []  # type: ignore[attr-defined]
        fake.run_job = run_job  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "clray.protocols", fake)
        monkeypatch.setattr("clray.protocols", fake, raising=False)
        return given

    return install


def _failed(**others: Any) -> dict[str, Any]:
    content = copy.deepcopy(FINAL)
    content["boards"][0]["rows"][0] |= others
    return content


def test_ends_with_the_leaderboard(clray: Any, protocols: Protocols) -> None:
    protocols(FINAL)
    code, out, err = clray("sweep", "job.yaml")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == "a: results in results/jobs/a"
    assert lines[2] == "finetune search 1/3: #0 completed, 0.500"
    assert "0.500 ± 0.100" in out
    assert "finetune 1 diverged" in out
    assert lines[-2:] == ["results in results/jobs/a", "page: report.html"]
    assert "\x1b" not in out


def test_overrides(clray: Any, protocols: Protocols) -> None:
    given = protocols(FINAL)
    overrides = ["search.trials=4", "methods.ewc.trials=2", "model.hidden=[8]", "protocol.epochs=2"]
    assert clray("sweep", "job.yaml", *overrides).code == 0
    [job] = given
    assert (job.search.trials, job.protocol.epochs) == (4, 2)
    assert (job.model.name, job.model.knobs) == ("mlp", {"hidden": [8]})
    assert list(job.methods) == ["finetune", "ewc"]
    assert job.methods["ewc"].trials == 2


@pytest.mark.parametrize(
    ("outcome", "piece"),
    [
        (RunFailed("no slot could be started: boom"), "no slot could be started: boom"),
        (_failed(error="none of 3 trials completed", test_keys=[], test={}), "finetune"),
        (_failed(trials={"completed": 2, "failed": 1}, error="1 of 3"), "1 trial of finetune"),
    ],
)
def test_failures_are_exit_code_1(
    outcome: Any, piece: str, clray: Any, protocols: Protocols
) -> None:
    protocols(outcome)
    code, _, err = clray("sweep", "job.yaml")
    assert code == 1
    assert err.startswith("clray: error: ")
    assert piece in err
    assert "Traceback" not in err


def test_interrupted(clray: Any, protocols: Protocols) -> None:
    protocols(KeyboardInterrupt())
    code, _, err = clray("sweep", "job.yaml")
    assert code == 130
    assert err.splitlines() == [
        "clray: interrupted; everything that finished is stored, and the same command goes on"
        " from there"
    ]


def test_dry_run_starts_nothing(clray: Any, here: Path) -> None:
    code, out, err = clray("sweep", "quickstart", "search.trials=7", "--dry-run")
    assert (code, err) == (0, "")
    for piece in ("ewc", "method.strength", "1 to 10000, logarithmic", "7", "in all", "slots"):
        assert piece in out
    assert "Nothing was started" in out
    assert list(here.iterdir()) == []
