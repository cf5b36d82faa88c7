"""Weights & Biases, offline: what it keeps on disk to be sent later."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from clray.store import Folder

protocol = pytest.importorskip(
    "wandb.proto.wandb_internal_pb2", reason="the extra wandb is not installed"
)

BLOCK, HEAD = 32768, 7


def _records(path: Path) -> list[Any]:
    """What a ``.wandb`` file holds: LevelDB's log format, behind a header of 7 bytes."""
    content, at, parts, found = path.read_bytes(), HEAD, b"", []
    while at + HEAD <= len(content):
        if BLOCK - at % BLOCK < HEAD:
            at += BLOCK - at % BLOCK
            continue
        size, kind = int.from_bytes(content[at + 4 : at + 6], "little"), content[at + 6]
        parts += content[at + HEAD : at + HEAD + size]
        at += HEAD + size
        if kind in (1, 4):  # whole, or a last part
            found.append(protocol.Record.FromString(parts))
            parts = b""
    return found


def _run(path: Path) -> dict[str, Any]:
    kept: dict[str, Any] = {"history": [], "summary": {}, "config": {}}
    for record in _records(path):
        match record.WhichOneof("record_type"):
            case "run":
                kept["name"], kept["group"] = record.run.display_name, record.run.run_group
                for one in record.run.config.update:
                    kept["config"][one.key] = json.loads(one.value_json)
            case "history":
                items = record.history.item
                row = {i.key or i.nested_key[0]: json.loads(i.value_json) for i in items}
                kept["history"].append(row)
            case "summary":
                for one in record.summary.update:
                    kept["summary"][one.key or one.nested_key[0]] = json.loads(one.value_json)
            case "exit":
                kept["exit"] = record.exit.exit_code
    return kept


def test_trials_and_rows_once(log: Any, told: Any, folder: Folder) -> None:
    logger = [{"name": "wandb", "mode": "offline", "project": "p"}]
    assert log(logger, told.whole) == told.whole, "a warning, or an event that was swallowed"
    files = sorted(Path(folder.uri).glob("wandb/*/*.wandb"))
    runs = {run["name"]: run for run in map(_run, files)}
    entry = "a/split/first-k/ewc"
    assert set(runs) == {f"{entry}/chosen", f"{entry}/search-0000", f"{entry}/search-0001"}
    first = runs[f"{entry}/search-0000"]
    assert first["group"] == "a/split/first-k"
    assert first["config"]["method.strength"] == 100.0
    curve = [(row["tasks"], row["after_task/average_accuracy"]) for row in first["history"]]
    assert curve == [(1, 0.9), (2, 0.7)]
    assert first["summary"]["final/forgetting"] == 0.1
    assert first["exit"] == 0
    assert runs[f"{entry}/search-0001"]["exit"] == 1
    assert runs[f"{entry}/chosen"]["summary"]["test/average_accuracy"] == 0.65

    log(logger, told.again)  # the same command again: one trial is new
    assert len(list(Path(folder.uri).glob("wandb/*/*.wandb"))) == len(files) + 1
