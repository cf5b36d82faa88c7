"""Subnetworks of convolutions over a frozen encoder's states: tasks of different sizes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from clray import registry, trial
from clray.spec import TrialSpec
from clray.store import Folder
from tests.text_material import LENGTH, save_encoder, save_tokenizer, write_texts


@pytest.mark.parametrize("method", ["exssnet", "supsup"])
def test_texts_are_learned_and_not_forgotten(method: str, tmp_path: Path) -> None:
    for name, classes in (("a", range(2)), ("b", range(2, 5)), ("c", range(2))):
        write_texts(tmp_path / name, classes, train=40, test=20)
    benchmark = {"name": "texts", "dataset": "a + b + c", "root": str(tmp_path)}
    knobs: dict[str, Any] = {"density": 0.3, "transfer": "knn-best", "state": "last"}
    spec: dict[str, Any] = {
        "method": {"name": method, **knobs},
        "benchmark": {
            **benchmark,
            "tokenizer": save_tokenizer(tmp_path / "tokenizer"),
            "max_tokens": LENGTH,
        },
        "model": {
            "name": "text_cnn",
            "encoder": save_encoder(tmp_path / "encoder"),
            "filters": 30,
        },
        "protocol": {"epochs": 8, "batch_size": 16},
        "optimizer": {"name": "adam", "lr": 0.03},
    }
    outcome = trial.run(registry.complete(TrialSpec.model_validate(spec)), Folder(str(tmp_path)))
    rows = [record["accuracy"] for record in outcome.records]
    assert [row[i] for i, row in enumerate(rows)] == rows[-1]
    assert (outcome.metrics["learning_accuracy"] or 0) > 0.7  # chance: 0.44
    assert len(outcome.records[2]["facts"]["donor_accuracies"]) == 2
