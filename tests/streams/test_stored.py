"""Stored streams as benchmarks: their knobs, their keys, and trials that learn from them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from clray import protocols, registry, trial
from clray.errors import BadData, BadResources, BadSpec
from clray.job import JobSpec
from clray.parsing import parse
from clray.spec import PIN, Reading, Resources, TrialSpec
from clray.store import Folder
from clray.streams.manifest import Manifest

StoreBenchmark = Callable[..., Manifest]
CLASSES = [3, 1, 4, 0, 5, 9]
SPLIT: dict[str, Any] = {"num_tasks": 3, "class_order": CLASSES}
READINGS: list[Reading] = ["device", "memory", "stream"]


@pytest.fixture
def uri(tmp_path: Path, store_benchmark: StoreBenchmark) -> str:
    """Three tasks of digits, in the order 3-1, 4-0, 5-9."""
    store_benchmark(**SPLIT)
    return str(tmp_path / "stream")


def spec(benchmark: dict[str, Any], method: str = "er", **changes: Any) -> TrialSpec:
    plain = {
        "method": method,
        "benchmark": benchmark,
        "model": {"name": "mlp", "hidden": [32]},
        "protocol": {"epochs": 2, "batch_size": 33, "memory": 40},
        **changes,
    }
    return registry.complete(TrialSpec.model_validate(plain))


def records(one: TrialSpec, folder: Path, mode: Reading = "auto") -> bytes:
    resources = Resources(reading=mode, memory="64 MiB")
    assert trial.run(one, Folder(str(folder)), resources=resources).state == "completed"
    return (folder / "records.jsonl").read_bytes()


@pytest.mark.parametrize("split", ["validation", "test"])
@pytest.mark.parametrize("method", ["er", "joint"])
def test_a_trial_is_that_of_the_benchmark_in_memory(
    uri: str, tmp_path: Path, split: str, method: str
) -> None:
    plain = records(
        spec({"name": "split-digits", **SPLIT}, method, split=split), tmp_path / "plain"
    )
    one = spec({"stream": uri}, method, split=split)
    for mode in READINGS:
        assert records(one, tmp_path / mode, mode) == plain


def test_tasks_that_are_graded_together(tmp_path: Path, store_benchmark: StoreBenchmark) -> None:
    store_benchmark("chunked-digits", uri=tmp_path / "chunks", num_tasks=3)
    plain = records(spec({"name": "chunked-digits", "num_tasks": 3}), tmp_path / "plain")
    assert records(spec({"stream": str(tmp_path / "chunks")}), tmp_path / "stored") == plain


@pytest.mark.parametrize("split", ["validation", "test"])
def test_records_do_not_depend_on_the_way_of_reading(uri: str, tmp_path: Path, split: str) -> None:
    one = spec({"stream": uri, "shuffle_window": "4 KiB"}, split=split)
    found = {records(one, tmp_path / mode, mode) for mode in READINGS}
    assert len(found) == 1
    whole = spec({"stream": uri}, split=split)
    assert records(whole, tmp_path / "whole") not in found


def test_a_key_knows_the_content_and_not_where_it_lies(
    uri: str, tmp_path: Path, store_benchmark: StoreBenchmark
) -> None:
    one = spec({"stream": uri})
    shutil.copytree(uri, tmp_path / "copy")
    again = spec({"stream": str(tmp_path / "copy")})
    assert one.benchmark.knobs["stream"].startswith(f"{uri}{PIN}")
    assert registry.complete(one) == one
    assert one.key == again.key
    assert one.key != spec({"stream": uri, "shuffle_window": "1 MiB"}).key
    other = store_benchmark(uri=tmp_path / "other", **{**SPLIT, "class_order": [3, 1, 4, 0, 5, 8]})
    assert one.key != spec({"stream": str(tmp_path / "other")}).key
    assert other.hash not in one.model_dump_json()


def test_content_that_has_changed_is_refused(
    uri: str, tmp_path: Path, store_benchmark: StoreBenchmark
) -> None:
    one = spec({"stream": uri})
    store_benchmark(uri=Path(uri), **{**SPLIT, "class_order": [3, 1, 4, 0, 5, 8]})
    with pytest.raises(BadData, match="as it is pinned"):
        trial.run(one, Folder(str(tmp_path / "trial")))
    with pytest.raises(BadData, match="as it is pinned"):
        spec({"stream": f"{uri}{PIN}{'0' * 20}"})


def test_a_version_or_a_source_is_not_content(uri: str) -> None:
    before = spec({"stream": uri}).key
    path = Path(uri, "manifest.json")
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "version": "9", "source": {"built": "elsewhere"}}))
    assert spec({"stream": uri}).key == before


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.unlink(), "the address of a stream"),
        (lambda path: path.write_text(path.read_text()[:-100]), "damaged content"),
        (lambda path: path.write_text('{"format": 99}'), "format 99 in"),
        (lambda path: path.write_text("[]"), "damaged content"),
    ],
)
def test_what_is_no_stream_is_refused(
    uri: str, damage: Callable[[Path], Any], message: str
) -> None:
    damage(Path(uri, "manifest.json"))
    with pytest.raises(BadData, match=message):
        spec({"stream": uri})


def test_the_protocol_must_hold_out_what_the_build_held_out(uri: str) -> None:
    with pytest.raises(BadSpec, match=r"validation_fraction: got 0.2; accepted: 0.1, with which"):
        spec({"stream": uri}, protocol={"memory": 40, "validation_fraction": 0.2})


def test_a_window_that_memory_cannot_hold_is_refused_before_anything_starts(uri: str) -> None:
    stream: dict[str, Any] = {"stream": uri, "shuffle_window": "1 MiB"}
    job: dict[str, Any] = {
        "name": "small",
        "benchmark": stream,
        "methods": ["finetune"],
        "resources": {"reading": "stream", "memory": "10 KiB"},
    }
    with pytest.raises(BadResources, match=r"resources\.memory.*10,240.*a smaller window"):
        protocols.plan(parse(JobSpec, job, "job"))


def test_tasks_come_in_any_order(uri: str, tmp_path: Path) -> None:
    one = spec({"stream": uri, "task_order": [2, 0]})
    outcome = trial.run(one, Folder(str(tmp_path / "two")))
    assert [record["name"] for record in outcome.records] == ["5-9", "1-3"]
    with pytest.raises(BadSpec, match="task_order: got 3; accepted: indices from 0 to 2"):
        spec({"stream": uri, "task_order": [0, 3]})


def test_new_classes_may_come_with_or_without_the_task(
    uri: str, tmp_path: Path, store_benchmark: StoreBenchmark
) -> None:
    assert spec({"stream": uri}).benchmark.knobs["scenario"] == "class-incremental"
    given = spec({"stream": uri, "scenario": "task-incremental"})
    plain = spec({"name": "split-digits", **SPLIT, "scenario": "task-incremental"})
    assert records(given, tmp_path / "stored") == records(plain, tmp_path / "plain")
    with pytest.raises(BadSpec, match=r"got 'domain-incremental'; accepted: class-.*, task-"):
        spec({"stream": uri, "scenario": "domain-incremental"})
    knobs = {**SPLIT, "scenario": "domain-incremental"}
    store_benchmark(uri=tmp_path / "domains", **knobs)
    with pytest.raises(BadSpec, match="accepted: domain-incremental"):
        spec({"stream": str(tmp_path / "domains"), "scenario": "task-incremental"})
