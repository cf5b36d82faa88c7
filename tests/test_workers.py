"""A slot of several workers, on a Ray of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from clray import registry, trial
from clray.events import ignore
from clray.ray_train import Slots
from clray.spec import Resources, Storing, TrialSpec
from clray.store import Folder
from clray.work import Work, in_turn

PLAIN: dict[str, Any] = {
    "method": "er",
    "benchmark": {"name": "split-digits", "num_tasks": 3, "class_order": [0, 1, 2, 3, 4, 5]},
    "model": {"name": "mlp", "hidden": [64]},
    "protocol": {"epochs": 2, "batch_size": 33, "memory": 40},
}


@pytest.mark.slow
def test_two_workers_of_a_slot_learn_what_one_learns(tmp_path: Path) -> None:
    one = registry.complete(TrialSpec.model_validate(PLAIN))
    results = str(tmp_path / "two")
    pair = Resources(slots=1, workers=2)
    with Slots(pair, results, Storing(model=True), ignore) as two_workers:
        [(_, end)] = two_workers.run(in_turn([Work.of(one)]), lambda index, record: None)
    assert end["state"] == "completed"
    trial.run(one, Folder(str(tmp_path / "one")), storing=Storing(model=True))
    alone = load_file(tmp_path / "one" / "model.safetensors")
    shared = load_file(tmp_path / "two" / "trials" / one.key / "model.safetensors")
    for name, tensor in alone.items():
        assert torch.allclose(tensor, shared[name], atol=1e-5), name
