"""The store: all or nothing, and clear about damage."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest

from clray.errors import BadData, BadInput
from clray.store import Folder, trial_folder


def test_writes_and_reads(tmp_path: Path) -> None:
    folder = trial_folder(str(tmp_path / "results"), "abc")
    assert folder.names() == []
    assert not folder.has("spec.json")
    folder.write_json("spec.json", {"a": [1, None]})
    folder.write_lines("records.jsonl", [{"task": 0}, {"task": 1}])
    assert folder.read_json("spec.json") == {"a": [1, None]}
    assert folder.read_lines("records.jsonl") == [{"task": 0}, {"task": 1}]
    assert folder.names() == ["records.jsonl", "spec.json"]
    folder.delete("spec.json")
    folder.delete("spec.json")
    assert folder.names() == ["records.jsonl"]


def test_addresses_of_object_stores_are_understood(tmp_path: Path) -> None:
    assert Folder(f"file://{tmp_path}").is_local
    with pytest.raises(BadInput, match="results: got 'ftp://x'"):
        Folder("ftp://x")
    with pytest.raises(BadInput, match="results: got 's3://'"):
        Folder("s3://")
    (tmp_path / "file").write_text("x")
    with pytest.raises(BadInput, match="a folder, not a file"):
        Folder(str(tmp_path / "file"))


def test_damage_is_told(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path))
    (tmp_path / "result.json").write_text('{"state": ')
    with pytest.raises(BadData, match=r"result.json: got 'damaged content'"):
        folder.read_json("result.json")
    (tmp_path / "records.jsonl").write_text('{"task": 0}\n{"ta')
    with pytest.raises(BadData, match=r"records.jsonl"):
        folder.read_lines("records.jsonl")


def _write_for_ever(path: str) -> None:
    folder = Folder(path)
    count = 0
    while True:
        folder.write("file", bytes([count % 256]) * 3_000_000)
        count += 1


def test_a_killed_writer_leaves_the_old_file_or_the_new(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path))
    for delay in (0.05, 0.11, 0.17, 0.23):
        writer = multiprocessing.get_context("fork").Process(
            target=_write_for_ever, args=(str(tmp_path),)
        )
        writer.start()
        while not folder.has("file"):
            time.sleep(0.01)
        time.sleep(delay)
        assert writer.pid is not None
        os.kill(writer.pid, signal.SIGKILL)
        writer.join()
        content = folder.read("file")
        assert len(content) == 3_000_000
        assert len(set(content)) == 1
    folder.sweep_up()
    assert folder.names() == ["file"]


def test_options_of_an_address_stay_behind_the_path() -> None:
    folder = Folder("s3://bucket/results?region=eu-central-1") / "trials" / "abc"
    assert folder.uri == "s3://bucket/results/trials/abc?region=eu-central-1"
