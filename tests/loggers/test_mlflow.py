"""Runs in a local database, read back by MLflow's own client."""

from __future__ import annotations

from typing import Any

import pytest

from clray.store import Folder

mlflow = pytest.importorskip("mlflow", reason="the extra mlflow is not installed")


def _runs(folder: Folder) -> dict[str, Any]:
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{folder.uri}/mlflow.db")
    [experiment] = [e for e in client.search_experiments() if e.name != "Default"]
    assert experiment.name == "a"
    runs = {}
    for run in client.search_runs([experiment.experiment_id]):
        assert run.info.run_name not in runs, "logged twice"
        runs[run.info.run_name] = run
        history = client.get_metric_history(run.info.run_id, "after_task/average_accuracy")
        run.curve = [(point.step, point.value) for point in history]
    return runs


def test_trials_and_rows_once(log: Any, told: Any, folder: Folder) -> None:
    assert log(["mlflow"], told.whole) == told.whole, "a warning, or an event that was swallowed"
    runs = _runs(folder)
    parent = runs.pop("split/first-k")
    assert parent.info.status == "FINISHED"
    assert "split-digits" in parent.data.params["benchmark"]
    entry = "split/first-k/ewc"
    assert set(runs) == {f"{entry}/chosen", f"{entry}/search-0000", f"{entry}/search-0001"}
    for run in runs.values():
        assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
    first = runs[f"{entry}/search-0000"]
    assert first.curve == [(1, 0.9), (2, 0.7)]
    assert first.data.metrics["final/forgetting"] == 0.1
    assert first.data.params == {
        "entry": "ewc",
        "method.strength": "100.0",
        "method.mode": "online",
        "optimizer.clip_norm": "none",
    }
    assert first.info.status == "FINISHED"
    assert runs[f"{entry}/search-0001"].info.status == "FAILED"
    assert runs[f"{entry}/chosen"].data.metrics["test/average_accuracy"] == 0.65

    log(["mlflow"], told.again)  # the same command again
    again = _runs(folder)
    assert set(again) == {*runs, "split/first-k"}
    assert again[f"{entry}/search-0000"].info.run_id == first.info.run_id
    assert again[f"{entry}/search-0001"].info.status == "FINISHED"
    assert again["split/first-k"].info.run_id == parent.info.run_id
