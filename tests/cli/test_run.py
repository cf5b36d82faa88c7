"""``clray run``: what it builds, what it shows and its exit codes."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import pytest

from clray.events import SlotsReady, SlotsStarting, TaskEnded, Watch
from clray.spec import Resources, Storing, TrialSpec

SMALL = ("protocol.epochs=1", "model.hidden=[8]", "--here")


def _summary(spec: TrialSpec, state: str = "completed", **others: Any) -> dict[str, Any]:
    footprint = {"parameters": 1234, "examples": 0, "bytes": 4936}
    records = [
        {
            "task": task,
            "name": f"task {task}",
            "accuracy": [0.9 if i <= task else None for i in range(5)],
            "losses": {},
            "footprint": footprint,
            "steps": 3,
        }
        for task in range(5)
    ]
    return {
        "key": spec.key,
        "state": state,
        "metrics": {"average_accuracy": 0.9, "forgetting": 0.0},
        "records": records,
        "seconds": {"train": 1.0, "eval": 0.1},
        "path": "results/trials/x",
        "error": None,
        **others,
    }


@pytest.fixture
def slot(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """A slot that runs nothing; the list is what it was given, and takes what it returns."""
    given: list[Any] = []

    def run_trial(
        spec: TrialSpec, results: str, resources: Resources, storing: Storing, watch: Watch
    ) -> dict[str, Any]:
        watch(SlotsStarting(1))
        watch(SlotsReady(1.5))
        watch(TaskEnded("finetune", "test", 0, 0, 0.9))
        given.append((spec, results, resources, storing))
        return _summary(spec, **(given[0] if isinstance(given[0], dict) else {}))

    fake = types.ModuleType("clray.ray_train")
    fake.run_trial = run_trial  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "clray.ray_train", fake)
    monkeypatch.setattr("clray.ray_train", fake, raising=False)
    return given


def test_shows_the_matrix_the_metrics_and_where(clray: Any, here: Path) -> None:
    code, out, err = clray("run", "finetune", "split-digits", *SMALL)
    assert (code, err) == (0, "")
    assert "finetune on split-digits, class-incremental, with mlp, seed 0" in out
    assert "graded on validation examples" in out
    assert "test examples" not in out
    assert "task 5 of 5: average accuracy" in out
    for piece in ("after task", "average accuracy", "average incremental accuracy", "forgetting"):
        assert piece in out
    assert "parameters" in out
    [key] = [path.name for path in (here / "results" / "trials").iterdir()]
    assert key in out
    assert "\x1b" not in out


def test_stored_trials_are_only_shown(clray: Any, slot: list[Any]) -> None:
    first = clray("run", "finetune", "split-digits", *SMALL)
    again = clray("run", "finetune", "split-digits", *SMALL[:-1])
    assert again.code == 0
    assert slot == [], "no slot is started for what is stored"
    assert "stored before, nothing was run" in again.out
    assert "task 1 of 5" not in again.out
    assert again.out.splitlines()[2:] == first.out.splitlines()[7:]


def test_the_report_shows_the_same(clray: Any, here: Path) -> None:
    ran = clray("run", "finetune", "split-digits", *SMALL)
    [folder] = (here / "results" / "trials").iterdir()
    read = clray("report", str(folder))
    assert read.code == 0
    assert ran.out.endswith(read.out)


def test_test_grades_on_test(clray: Any) -> None:
    code, out, _ = clray("run", "finetune", "split-digits", "--test", *SMALL)
    assert code == 0
    assert "graded on test examples" in out


def test_overrides_reach_every_section(clray: Any, slot: list[Any]) -> None:
    said = clray(
        "run",
        "ewc",
        "split-digits",
        "method.strength=1e3",
        "protocol.epochs=3",
        "optimizer.lr=0.05",
        "benchmark.num_tasks=2",
        "model=lenet",
        "seed=3",
        "split=test",
        "resources.workers=2",
        "store.model=true",
        "--results",
        "elsewhere",
    )
    assert said.code == 0, said.err
    [(spec, results, resources, storing)] = slot
    assert spec.method.knobs["strength"] == 1000.0
    assert (spec.protocol.epochs, spec.optimizer.lr, spec.seed) == (3, 0.05, 3)
    assert (spec.model.name, spec.split, results) == ("lenet", "test", "elsewhere")
    assert spec.benchmark.knobs["num_tasks"] == 2
    assert (resources.workers, storing.model) == (2, True)
    assert "starting Ray" in said.out


@pytest.mark.parametrize(("state", "error"), [("diverged", None), ("failed", "out of memory")])
def test_what_did_not_complete_is_exit_code_1(
    state: str, error: str | None, clray: Any, slot: list[Any]
) -> None:
    slot.append({"state": state, "error": error})
    code, out, err = clray("run", "finetune", "split-digits")
    assert code == 1
    assert state in out
    assert err.startswith(f"clray: error: the trial {state}")
    assert (error or "") in err


def test_a_real_divergence(clray: Any) -> None:
    code, out, err = clray("run", "finetune", "split-digits", "optimizer.lr=1e30", *SMALL)
    assert code == 1
    assert "diverged" in out
    assert err == "clray: error: the trial diverged\n"


def test_interrupted(clray: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("clray.trial.run_here", interrupt)
    code, _, err = clray("run", "finetune", "split-digits", *SMALL)
    assert code == 130
    assert "everything that finished is stored" in err
    assert err.count("\n") == 1
