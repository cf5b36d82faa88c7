"""SupSup where the task is not given: it is inferred, and then answered as if it were."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from clray import registry, trial
from clray.errors import BadInput, BadSpec
from clray.outcome import Outcome
from clray.spec import TrialSpec
from clray.store import Folder


def run(folder: Path, scenario: str, model: Any = None, **knobs: Any) -> Outcome:
    """Four permutations of the digits, or four pairs of digits."""
    name = "split-digits" if scenario == "class-incremental" else "permuted-digits"
    spec = {
        "method": {"name": "supsup", "selection": "threshold", "outputs": 50, **knobs},
        "benchmark": {"name": name, "num_tasks": 4, "scenario": scenario},
        "model": model or {"name": "mlp", "hidden": [100, 100]},
        "protocol": {"epochs": 5},
        "optimizer": {"name": "adam", "lr": 0.01},
    }
    if name == "split-digits":
        spec["benchmark"] = {**spec["benchmark"], "class_order": [*range(8)]}
    return trial.run(registry.complete(TrialSpec.model_validate(spec)), Folder(str(folder)))


def test_permutations_are_told_apart_and_answered_as_if_given(tmp_path: Path) -> None:
    given = run(tmp_path / "given", "task-incremental")
    accuracies = given.records[-1]["accuracy"]
    assert min(accuracies) > 0.7
    for inference in ("one-shot", "binary"):
        inferred = run(tmp_path / inference, "domain-incremental", inference=inference)
        assert inferred.records[-1]["accuracy"] == accuracies


def test_a_task_that_is_taken_for_another_is_answered_wrongly(tmp_path: Path) -> None:
    outcome = run(tmp_path, "class-incremental")
    rows = [record["accuracy"] for record in outcome.records]
    for row in rows[1:]:
        for accuracy in row:
            assert accuracy is None or accuracy == 0 or accuracy > 0.8  # of whole groups


@pytest.mark.parametrize(
    ("scenario", "changes", "message"),
    [
        (
            "domain-incremental",
            {"model": {"name": "slim_resnet18", "width": 2}},
            "benchmark.scenario, for method supsup: got 'domain-incremental'.*normalisation",
        ),
        ("domain-incremental", {"outputs": 5}, "method.outputs: got 5; accepted: 10 or more"),
        ("domain-incremental", {"outputs": None, "evidence": "superfluous"}, "outputs: got None"),
        (
            "domain-incremental",
            {"outputs": 10, "evidence": "superfluous"},
            "method.outputs: got 10; accepted: more than 10",
        ),
        ("task-incremental", {"density": 0.1}, "density: got 0.1; accepted: none, with threshold"),
        ("task-incremental", {"begin": "scaled"}, "begin: got 'scaled'; accepted: none"),
        ("data-incremental", {}, "scenario"),
    ],
)
def test_what_cannot_be_served_is_refused(
    scenario: str, changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises((BadInput, BadSpec), match=message):
        run(tmp_path, scenario, **changes)
