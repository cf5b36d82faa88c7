"""Stored examples: the same batches in whatever way they are read."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest
import torch

from clray import registry
from clray.errors import BadData, BadResources
from clray.spec import Component, Reading, Resources
from clray.streams import reading, shards
from clray.streams.examples import cumulate
from clray.streams.manifest import Manifest
from clray.task import Examples, Stream

MakeStream = Callable[..., Stream]
StoreBenchmark = Callable[..., Manifest]
READINGS: list[Reading] = ["device", "memory", "stream"]
ORDER = [3, 1, 4, 0, 5, 9, 2, 6, 8, 7]


@pytest.fixture
def uri(tmp_path: Path, store_benchmark: StoreBenchmark) -> str:
    """Five tasks of digits: blocks of 16 rows, shards of 80."""
    reading._kept.clear()
    shards._opened.cache_clear()
    store_benchmark(class_order=ORDER)
    return str(tmp_path / "stream")


def opened(
    uri: str,
    mode: Reading,
    window: str = "64 MiB",
    split: Literal["validation", "test"] = "validation",
    memory: str = "512 MiB",
) -> Stream:
    config = registry.configure(
        "benchmark", Component(name="stored", stream=uri, shuffle_window=window)
    )
    resources = Resources(reading=mode, memory=memory)
    stream: Stream = config.build(split, 0.1, 0, torch.device("cpu"), resources)
    return stream


def batches(examples: Examples, world: int = 1, seed: int | None = 5) -> list[list[list[int]]]:
    """The batches of all workers: of each its labels, and its rows' numbers."""
    shares = [list(examples.batches(37, seed, 1, rank=r, world=world)) for r in range(world)]
    found = []
    for parts in zip(*shares, strict=True):
        x, y = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
        assert x.dtype == torch.uint8
        assert y.dtype == torch.int64
        found.append([y.tolist(), x.flatten(1).long().mul(PRIMES).sum(1).tolist()])
    return found


PRIMES = torch.arange(64) ** 3 + 7
"""Tells one image from another."""


@pytest.mark.parametrize("split", ["validation", "test"])
@pytest.mark.parametrize("joint", [False, True])
def test_a_task_that_fits_gives_the_batches_of_one_in_memory(
    uri: str, make_stream: MakeStream, split: Literal["validation", "test"], joint: bool
) -> None:
    plain = make_stream("split-digits", split=split, class_order=ORDER)
    for mode in READINGS:
        stored = opened(uri, mode, split=split)
        pair = (cumulate(plain), cumulate(stored)) if joint else (plain, stored)
        for a, b in zip(*(stream.tasks for stream in pair), strict=True):
            assert (a.name, a.classes, len(a.train)) == (b.name, b.classes, len(b.train))
            for seed in (None, 5):
                assert batches(a.train, seed=seed) == batches(b.train, seed=seed)
                assert batches(a.eval, seed=seed) == batches(b.eval, seed=seed)


@pytest.mark.parametrize("split", ["validation", "test"])
@pytest.mark.parametrize("joint", [False, True])
def test_a_larger_task_gives_the_same_batches_in_every_way(
    uri: str, split: Literal["validation", "test"], joint: bool
) -> None:
    for task in (0, 3):
        seen = []
        for mode in READINGS:
            stream = opened(uri, mode, "6 KiB", split)
            stream = cumulate(stream) if joint else stream
            examples = stream.tasks[task].train
            seen += [batches(examples, world) for world in (1, 2, 3)]
            assert batches(examples, seed=None) != seen[0]
        assert all(own == seen[0] for own in seen)
        rows = [row for _, rows in seen[0] for row in rows]
        assert len(set(rows)) == len(rows) == len(examples)


@pytest.mark.parametrize("mode", READINGS)
@pytest.mark.parametrize("window", ["6 KiB", "64 MiB"])
def test_what_is_yielded_may_be_written_to(uri: str, mode: Reading, window: str) -> None:
    examples = opened(uri, mode, window).tasks[0].train
    before = batches(examples)
    for x, y in examples.batches(37, 5, 1):
        x.zero_()
        y.zero_()
    assert batches(examples) == before


def test_examples_of_two_streams_cannot_be_joined(
    uri: str, tmp_path: Path, store_benchmark: StoreBenchmark
) -> None:
    store_benchmark(uri=tmp_path / "other")
    one, other = opened(uri, "device"), opened(str(tmp_path / "other"), "device")
    with pytest.raises(ValueError, match="one stream"):
        one.tasks[0].train.join([other.tasks[0].train])  # type: ignore[attr-defined]


@pytest.mark.parametrize("mode", READINGS)
@pytest.mark.parametrize("window", ["6 KiB", "64 MiB"])
def test_a_truncated_shard_is_named(uri: str, mode: Reading, window: str) -> None:
    path = Path(uri, "task=001", "split=train", "part-00001.parquet")
    path.write_bytes(path.read_bytes()[:2000])
    examples = opened(uri, mode, window).tasks[1].train
    with pytest.raises(BadData, match=r"task=001/split=train/part-00001\.parquet: got 'Arrow"):
        batches(examples)


def test_a_pass_that_is_abandoned_leaves_no_thread(uri: str) -> None:
    before = threading.active_count()
    for epoch in range(5):
        for _ in opened(uri, "stream", "6 KiB").tasks[0].train.batches(37, 5, epoch):
            break
    assert threading.active_count() == before


def test_memory_that_cannot_do_is_refused(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    opened(uri, "stream", "6 KiB", memory="64 KiB")
    with pytest.raises(BadResources, match=r"resources.memory: got .*shuffle_window"):
        opened(uri, "stream", "64 KiB", memory="64 KiB")
    monkeypatch.setattr("os.sysconf", lambda name: 100)
    for mode in ("device", "memory"):
        with pytest.raises(BadResources, match=r"resources.reading: got .*auto or stream"):
            opened(uri, mode)


def test_the_first_way_that_fits_is_taken(uri: str, store_benchmark: StoreBenchmark) -> None:
    manifest = store_benchmark(class_order=ORDER)

    def chosen(**knobs: object) -> str:
        resources = Resources.model_validate(knobs)
        return reading.choose(manifest, resources, torch.device("cpu"))

    assert chosen() == "device"
    assert chosen(memory="64 KiB") == "stream"
    assert chosen(memory="64 KiB", reading="device") == "device"
