"""Whatever happened to a file of a stored stream is found, and told apart."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from clray.errors import BadInput
from clray.events import Event, Progressed
from clray.streams import checking
from clray.streams.checking import Fault
from clray.streams.manifest import Manifest

SHARD = "task=001/split=train/part-00001.parquet"


def _shard(manifest: Manifest, path: str) -> Any:
    [found] = [s for task in manifest.tasks for s in task.shards() if s.path == path]
    return found


def test_a_sound_stream_has_no_faults(store_stream: Any) -> None:
    stored = store_stream()
    told: list[Event] = []
    assert checking.check(stored.uri, stored.manifest, watch=told.append) == []
    files = len(checking.shards_of(stored.manifest, None))
    assert told[-1] == Progressed("shards", files, files)
    pinned = f"{stored.uri}#sha256={stored.manifest.hash}"
    assert checking.check(pinned, stored.manifest) == []


def test_each_fault_is_told(store_stream: Any) -> None:
    stored = store_stream(num_tasks=3)
    folder: Path = stored.path
    sizes = {s.path: s.bytes for task in stored.manifest.tasks for s in task.shards()}
    cut, flipped, missing = (f"task=00{task}/split=train/part-00000.parquet" for task in (0, 1, 2))
    extra = "task=001/split=train/part-00007.parquet"
    content = (folder / cut).read_bytes()
    (folder / cut).write_bytes(content[:100])
    content = (folder / flipped).read_bytes()
    (folder / flipped).write_bytes(content[:50] + bytes([content[50] ^ 1]) + content[51:])
    (folder / missing).unlink()
    shutil.copy(folder / SHARD, folder / extra)
    (folder / "task=001" / "notes.txt").write_text("not Parquet: no reader takes it for a shard")
    faults = {fault.path: fault for fault in checking.check(stored.uri, stored.manifest)}
    assert list(faults) == [cut, flipped, extra, missing]
    assert faults[cut] == Fault(cut, "100 bytes", f"{sizes[cut]:,} bytes")
    assert faults[missing].found == "no such file"
    assert faults[extra].expected == "no such file"
    expected = _shard(stored.manifest, flipped).sha256[: checking.SHA_DIGITS]
    assert faults[flipped].expected == f"sha256 {expected}…"
    assert faults[flipped].found != faults[flipped].expected
    one = checking.check(stored.uri, stored.manifest, tasks=[1])
    assert [fault.path for fault in one] == [flipped, extra]


def test_rows_that_the_manifest_does_not_say(store_stream: Any) -> None:
    stored = store_stream()
    content = stored.manifest.model_dump()
    content["tasks"][1]["train"][1]["rows"] += 1
    faults = checking.check(stored.uri, Manifest.model_validate(content))
    assert faults == [Fault(SHARD, "16 rows", "17 rows")]


@pytest.mark.parametrize("task", [-1, 2])
def test_no_such_task(task: int, store_stream: Any) -> None:
    stored = store_stream()
    with pytest.raises(BadInput, match=f"task: got {task}; accepted: 0 to 1"):
        checking.check(stored.uri, stored.manifest, [0, task])
