"""Streams that are built, killed, gone on with, and read again."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from clray import ray_session, registry
from clray.errors import BadData, BadInput
from clray.events import Event, Progressed
from clray.spec import Component
from clray.store import Folder
from clray.streams.building import Built, build
from clray.streams.cutting import Fragment
from clray.streams.fragments import write_fragment
from clray.streams.manifest import BUILDING, read_manifest
from clray.streams.pieces import BadRow
from clray.task import Examples, Stream

WriteParquet = Callable[..., Path]
Images = NDArray[np.uint8]


@pytest.fixture(scope="module", autouse=True)
def _ray() -> Iterator[None]:
    with ray_session.running():
        yield


def built(
    to: Path | str, name: str, on_bad_row: Any = "error", watch: Any = id, **knobs: Any
) -> Built:
    config = registry.configure("benchmark", Component(name=name, **knobs))
    return build(
        config,
        name,
        str(to),
        seed=0,
        validation_fraction=0.2,
        on_bad_row=on_bad_row,
        watch=watch,
    )


def stream(split: Any, name: str, **knobs: Any) -> Stream:
    config = registry.configure("benchmark", Component(name=name, **knobs))
    found: Stream = config.build(split, 0.2, 0, torch.device("cpu"))
    return found


def content(examples: Examples, seed: int | None = 1) -> tuple[torch.Tensor, torch.Tensor]:
    xs, ys = zip(*examples.batches(50, seed), strict=True)
    return torch.cat(xs), torch.cat(ys)


@pytest.mark.parametrize(
    ("name", "knobs"),
    [
        ("split-digits", {"class_order": 3, "task_order": [4, 0, 2], "train_fraction": 0.5}),
        ("permuted-digits", {"scenario": "class-incremental", "num_tasks": 2}),
        ("rotated-digits", {"num_tasks": 2}),
        ("chunked-digits", {"num_tasks": 2}),
    ],
)
def test_a_built_stream_is_the_benchmark(tmp_path: Path, name: str, knobs: dict[str, Any]) -> None:
    built(tmp_path / "s", name, **knobs)
    for split in ("validation", "test"):
        wanted = stream(split, name, **knobs)
        found = stream(split, "stored", stream=str(tmp_path / "s"))
        assert found.num_classes == wanted.num_classes
        assert found.image_shape == wanted.image_shape
        for one, other in zip(found.tasks, wanted.tasks, strict=True):
            assert (one.index, one.name, one.classes) == (other.index, other.name, other.classes)
            for mine, theirs in zip(content(one.train), content(other.train), strict=True):
                assert torch.equal(mine, theirs)
            # What chunks are graded on together comes in another order.
            graded = [
                content(t.eval, None)[0].flatten(1).sum(1).sort().values for t in (one, other)
            ]
            assert torch.equal(*graded)


KNOBS = {"dataset": "synthetic/4x3000", "image_size": 8, "num_tasks": 2}


def start(to: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, __file__, str(to)]
    return subprocess.Popen(command, start_new_session=True, stdout=sys.stderr)


def test_a_killed_build_goes_on(tmp_path: Path) -> None:
    built(tmp_path / "peace", "split", **KNOBS)
    war = tmp_path / "war"
    for stage, count in (("fragments", 2), ("shards", 3)):
        process = start(war)
        records = war / BUILDING / stage
        while len(list(records.glob("*.json"))) < count:
            assert process.poll() is None
            time.sleep(0.005)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        with pytest.raises(BadData, match="a build that has not finished"):
            read_manifest(str(war))
    done = {path: path.stat().st_mtime_ns for path in war.rglob("*.parquet")}
    with pytest.raises(BadData, match="a part of another stream"):
        built(war, "split", **{**KNOBS, "num_tasks": 4})
    events: list[Event] = []
    finished = built(war, "split", watch=events.append, **KNOBS)
    assert not finished.was_stored
    told = [e for e in events if isinstance(e, Progressed) and e.what == "images"]
    assert [e.done > 0 for e in told] == [True]
    assert finished.manifest == read_manifest(str(tmp_path / "peace"))
    left = {path: path.stat().st_mtime_ns for path in war.rglob("*.parquet")}
    assert {path: when for path, when in done.items() if BUILDING not in path.parts}.items() <= (
        left.items()
    )
    assert not (war / BUILDING).exists()
    assert built(war, "split", **KNOBS).was_stored


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(BadData, match=r"holds notes\.txt"):
        built(tmp_path, "split-digits")
    file = tmp_path / "notes.txt"
    with pytest.raises(BadInput, match="a folder, not a file"):
        built(file, "split-digits")
    built(tmp_path / "s", "split-digits")
    with pytest.raises(BadData, match="holds another stream"):
        built(tmp_path / "s", "split-digits", num_tasks=2)


def two_files(
    write: WriteParquet, folder: Path, damage: Callable[[list[Any], list[Any]], None]
) -> dict[str, Any]:
    """Two training files of 12 rows and a test file; the second is damaged. Knobs that read it."""
    images: Images = np.random.default_rng(0).integers(0, 256, (12, 6, 6), dtype=np.uint8)
    labels = [0, 1, 2] * 4
    write(images, labels, "train-00000-of-00002", folder)
    write(images, labels, "test-00000-of-00001", folder)
    own_images, own_labels = list(images), list(labels)
    damage(own_images, own_labels)
    write(own_images, own_labels, "train-00001-of-00002", folder)
    return {"dataset": f"parquet:{folder}", "task_sizes": [1, 2]}


def undecodable(images: list[Any], labels: list[Any]) -> None:
    images[5] = b"no image"


def other_size(images: list[Any], labels: list[Any]) -> None:
    images[5] = images[5][:4, :4]


def no_label(images: list[Any], labels: list[Any]) -> None:
    labels[5] = None


def negative(images: list[Any], labels: list[Any]) -> None:
    labels[5] = -3


@pytest.mark.parametrize("damage", [undecodable, other_size, no_label, negative])
def test_a_bad_row_stops_the_build_or_is_counted(
    write_parquet: WriteParquet, tmp_path: Path, damage: Any
) -> None:
    knobs = two_files(write_parquet, tmp_path / "data", damage)
    with pytest.raises(BadData, match=r"train-00001-of-00002.parquet.*row 5.*--on-bad-row skip"):
        built(tmp_path / "s", "split", **knobs)
    with pytest.raises(BadData, match="a stream that clray data build has written"):
        read_manifest(str(tmp_path / "s"))
    manifest = built(tmp_path / "t", "split", "skip", **knobs).manifest
    [(file, count)] = manifest.skipped.items()
    assert (Path(file).name, count) == ("train-00001-of-00002.parquet", 1)
    assert manifest.num_rows(["train", "validation"]) == 23


def test_a_test_label_of_no_class(write_parquet: WriteParquet, tmp_path: Path) -> None:
    knobs = two_files(write_parquet, tmp_path / "data", lambda images, labels: None)
    images: Images = np.zeros((3, 6, 6), np.uint8)
    write_parquet(images, [0, 1, 9], "test-00000-of-00001", tmp_path / "data")
    with pytest.raises(BadData, match=r"test-00000-of-00001.*row 2.*0 to 2"):
        built(tmp_path / "s", "split", **knobs)


def test_tasks_without_examples(write_parquet: WriteParquet, tmp_path: Path) -> None:
    knobs = two_files(write_parquet, tmp_path / "data", lambda images, labels: None)
    images: Images = np.zeros((3, 6, 6), np.uint8)
    write_parquet(images, [1, 2, 1], "test-00000-of-00001", tmp_path / "data")
    with pytest.raises(BadData, match="test examples of task '0'"):
        built(tmp_path / "s", "split", **knobs)


class _Damaged:
    where = "a.parquet, rows 0 to 1"

    def __len__(self) -> int:
        return 2

    def images(self, rows: Any, shape: Any) -> Any:
        return torch.zeros(2, 1, 2, 2, dtype=torch.uint8), list[BadRow]()


def test_a_full_disk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Folder, "write", full)
    indices = np.arange(2)
    fragment = Fragment("train-00000", _Damaged(), indices, indices)  # type: ignore[arg-type]
    with pytest.raises(BadData, match="No space left on device"):
        write_fragment(str(tmp_path), fragment, (1, 2, 2), skip=False)


def test_object_storage(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    server = pytest.importorskip("moto.server").ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    try:
        with pytest.raises(BadData, match="s3://clray"):
            built("s3://clray/s", "split-digits")
        client = pytest.importorskip("boto3").client("s3", endpoint_url=f"http://{host}:{port}")
        client.create_bucket(Bucket="clray")
        # Ray's workers were started before the server was: the build's own process writes.
        script = subprocess.run([sys.executable, __file__, "s3://clray/s"], check=False)
        assert script.returncode == 0
        built(tmp_path / "s", "split", **KNOBS)
        near, far = read_manifest(str(tmp_path / "s")), read_manifest("s3://clray/s")
        assert near == far
        assert Folder("s3://clray/s").names() == ["manifest.json", "task=000", "task=001"]
        tasks = zip(
            stream("validation", "stored", stream="s3://clray/s").tasks,
            stream("validation", "stored", stream=str(tmp_path / "s")).tasks,
            strict=True,
        )
        for one, other in tasks:
            assert torch.equal(content(one.train)[0], content(other.train)[0])
    finally:
        server.stop()


if __name__ == "__main__":
    built(sys.argv[1], "split", **KNOBS)
