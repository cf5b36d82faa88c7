"""Event files, read back by TensorBoard itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from clray.store import Folder

accumulator = pytest.importorskip(
    "tensorboard.backend.event_processing.event_accumulator",
    reason="the extra tensorboard is not installed",
)
plugin_data = pytest.importorskip("tensorboard.plugins.hparams.plugin_data_pb2")


def _read(path: Path) -> Any:
    found = accumulator.EventAccumulator(str(path))
    found.Reload()
    return found


def _scalars(path: Path) -> dict[str, list[tuple[int, float]]]:
    found = _read(path)
    return {
        tag: [(point.step, round(point.value, 6)) for point in found.Scalars(tag)]
        for tag in found.Tags()["scalars"]
    }


def test_trials_and_rows_once(log: Any, told: Any, folder: Folder) -> None:
    assert log(["tensorboard"], told.whole) == told.whole, (
        "a warning, or an event that was swallowed"
    )
    entry = Path(folder.uri) / "tensorboard" / "split" / "first-k" / "ewc"
    assert sorted(path.name for path in entry.iterdir()) == ["chosen", "search-0000", "search-0001"]
    first = {
        "after_task/average_accuracy": [(1, 0.9), (2, 0.7)],
        "final/average_accuracy": [(0, 0.7)],
        "final/forgetting": [(0, 0.1)],
    }
    assert _scalars(entry / "search-0000") == first
    assert _scalars(entry / "search-0001") == {
        "after_task/average_accuracy/run-0": [(1, 0.8)],
        "after_task/average_accuracy/run-1": [(1, 0.6)],
    }
    assert _scalars(entry / "chosen") == {
        "test/average_accuracy": [(0, 0.65)],
        "test/average_accuracy_interval": [(0, 0.02)],
        "seeds": [(0, 2.0)],
    }
    session = _read(entry / "search-0000").SummaryMetadata("_hparams_/session_start_info")
    content = plugin_data.HParamsPluginData.FromString(session.plugin_data.content)
    hparams = content.session_start_info.hparams
    assert hparams["method.strength"].number_value == 100.0
    assert hparams["optimizer.clip_norm"].string_value == "none"
    assert hparams["entry"].string_value == "ewc"

    before = sorted(path.name for path in (entry / "search-0000").iterdir())
    log(["tensorboard"], told.again)  # the same command again
    assert sorted(path.name for path in (entry / "search-0000").iterdir()) == before
    assert _scalars(entry / "search-0000") == first
    assert _scalars(entry / "search-0001") == {"final/average_accuracy": [(0, 0.5)]}
    assert len(_scalars(entry / "chosen")["seeds"]) == 1
