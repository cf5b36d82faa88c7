"""Features of frozen encoders: what is computed, kills, refusals, and the trials that read them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer
from safetensors.torch import save_file
from torch import nn
from typer.testing import CliRunner

from clray import ray_session, registry, trial
from clray.cli.features import features as command
from clray.errors import BadData, BadInput, BadResources, BadSpec
from clray.events import Event, Progressed, Warned
from clray.models.classifier import ModelConfig
from clray.spec import PIN, Component, TrialSpec
from clray.store import Folder
from clray.streams import feature_links
from clray.streams.encoding import ShardEncoder
from clray.streams.features import compute
from clray.streams.manifest import (
    SPLITS,
    Manifest,
    StoredTask,
    pinned,
    read_manifest,
    shard_path,
    write_manifest,
)
from clray.streams.shards import read_shard, rows_per_block, write_shard
from tests.streams.encoded import encode

NAME = "timm/resnet10t"
SHAPE = (3, 12, 12)
CPU = torch.device("cpu")


def store(path: Path, rows: int = 60, shard_rows: int = 50, **others: Any) -> str:
    """A stream of 2 tasks of 2 classes; each lights other pixels, under noise."""
    folder, size = Folder(str(path)), int(np.prod(SHAPE))
    generator = np.random.default_rng(0)
    light = 150 * (np.arange(size) * 4 // size == np.arange(4)[:, None])
    block_rows = 16
    tasks = []
    for task in range(2):
        shards = {}
        for split, count in zip(SPLITS, (rows, rows // 4, rows // 2), strict=True):
            ids = np.sort(generator.permutation(10 * rows)[:count])
            y = 2 * task + ids % 2
            x = generator.integers(0, 100, (count, size)) + light[y]
            pieces = [slice(i, i + shard_rows) for i in range(0, count, shard_rows)]
            shards[split] = tuple(
                write_shard(
                    folder,
                    shard_path(task, split, number),
                    (x[piece].astype(np.uint8), y[piece], ids[piece]),
                    block_rows,
                    "3,12,12",
                )
                for number, piece in enumerate(pieces)
            )
        tasks.append(StoredTask(name=f"t{task}", classes=(2 * task, 2 * task + 1), **shards))
    content: dict[str, Any] = {
        "version": "0",
        "source": {},
        "source_hash": "0" * 20,
        "scenario": "class-incremental",
        "num_classes": 4,
        "shape": SHAPE,
        "validation_fraction": 0.2,
        "seed": 0,
        "block_rows": block_rows,
        "tasks": tuple(tasks),
        "mean": (0.5, 0.5, 0.5),
        "std": (2.0, 2.0, 2.0),
    }
    write_manifest(folder, Manifest(**{**content, **others}))
    return str(path)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A file of random weights for the encoder."""
    torch.manual_seed(0)
    config = registry.configure("model", Component(name=NAME))
    network = config.build("resnet10t", (3, 32, 32), 2).encoder.network
    path = tmp_path_factory.mktemp("weights") / "resnet10t.safetensors"
    save_file(network.state_dict(), path)
    return str(path)


def encoder_of(path: str, **knobs: Any) -> ModelConfig:
    knobs = {"weights": path, "frozen": True, "image_size": 32, **knobs}
    config: ModelConfig = registry.configure("model", Component(name=NAME, **knobs))
    return config


@pytest.fixture(scope="module")
def ray_is_on() -> Iterator[None]:
    """One Ray for all passes of this file."""
    with ray_session.running():
        yield


@pytest.fixture(scope="module")
def computed(
    tmp_path_factory: pytest.TempPathFactory, weights: str, ray_is_on: None
) -> tuple[str, str]:
    """A stream and its features, which are not to be changed."""
    folder = tmp_path_factory.mktemp("computed")
    stream, to = store(folder / "images"), str(folder / "features")
    compute(stream, NAME, encoder_of(weights), to)
    return stream, to


def rows_of(uri: str, split: str = "train", task: int = 0) -> tuple[Any, Any, Any]:
    """Examples of their type [n, C, H, W], labels and ids of a part of a stream."""
    manifest = read_manifest(uri)
    shards = getattr(manifest.tasks[task], split)
    parts = [read_shard(uri, shard.path, manifest.row_bytes) for shard in shards]
    x, y, ids = (np.concatenate(column) for column in zip(*parts, strict=True))
    return x.view(manifest.dtype).reshape(len(x), *manifest.shape), y, ids


# What is computed.


def test_features_are_what_the_encoder_says_of_each_row(
    computed: tuple[str, str], weights: str
) -> None:
    stream, to = computed
    images, features = read_manifest(stream), read_manifest(to)
    encoder = encoder_of(weights).build_encoder("resnet10t", SHAPE)
    assert (features.shape, features.dtype) == ((512, 1, 1), "float32")
    assert (features.mean, features.std, features.augment) == ((), (), "none")
    assert features.encoder is not None
    assert features.encoder["stream"] == images.hash
    for task in range(2):
        for split in SPLITS:
            x, y, ids = rows_of(stream, split, task)
            found, labels, numbers = rows_of(to, split, task)
            assert np.array_equal(y, labels)
            assert np.array_equal(ids, numbers)
            with torch.no_grad():
                expected = encoder((torch.from_numpy(x.copy()) / 255 - 0.5) / 2)
            np.testing.assert_allclose(found[:, :, 0, 0], expected.numpy(), atol=1e-5)
    for before, after in zip(images.tasks, features.tasks, strict=True):
        assert before.name == after.name
        assert [(s.path, s.rows, s.classes) for s in before.shards()] == [
            (s.path, s.rows, s.classes) for s in after.shards()
        ]
    assert not (Path(to) / "_building").exists()


def test_what_is_there_is_not_computed_again(computed: tuple[str, str], weights: str) -> None:
    stream, to = computed
    told: list[Event] = []
    found, was_stored = compute(stream, NAME, encoder_of(weights), to, watch=told.append)
    assert was_stored
    assert found == read_manifest(to)
    assert not told


def test_half_precision_and_a_stream_that_cannot_be_written_to(
    computed: tuple[str, str], weights: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise PermissionError("read-only")

    monkeypatch.setattr(feature_links, "add", refuse)
    stream, to = computed
    told: list[Event] = []
    half = str(tmp_path / "half")
    found, _ = compute(stream, NAME, encoder_of(weights), half, "float16", told.append)
    assert found.dtype == "float16"
    exact, rounded = rows_of(to)[0], rows_of(half)[0]
    assert np.array_equal(exact.astype(np.float16), rounded)
    assert [event.done for event in told if isinstance(event, Progressed)][-1] == found.num_rows()
    [remark] = [event for event in told if isinstance(event, Warned)]
    assert f"benchmark.features={half}" in remark.text


def test_a_pass_that_is_killed_goes_on(weights: str, tmp_path: Path, ray_is_on: None) -> None:
    stream = store(tmp_path / "images", rows=400, shard_rows=40)
    encoder = encoder_of(weights, image_size=96)
    peace = compute(stream, NAME, encoder, str(tmp_path / "peace"))[0]
    war = tmp_path / "war"
    program = f"""
from clray import registry
from clray.spec import Component
from clray.streams.features import compute
encoder = registry.configure("model", Component(name={NAME!r}, **{encoder.model_dump()!r}))
compute({stream!r}, {NAME!r}, encoder, {str(war)!r})
"""
    with open(tmp_path / "log", "wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", program], stdout=log, stderr=log, start_new_session=True
        )
    building = war / "_building"
    while len(list(building.rglob("part-*.json"))) < 3:
        assert process.poll() is None, (tmp_path / "log").read_text()
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    time.sleep(3)  # its actors notice that their Ray is gone

    assert (building / "plan.json").exists()
    with pytest.raises(BadData, match="not finished"):
        read_manifest(str(war))
    (war / "task=000/split=train/part-00000.parquet.0.tmp").touch()  # of a writer that was killed
    with pytest.raises(BadData, match="a part of another stream"):
        compute(stream, NAME, encoder, str(war), "float16")
    recorded = [path.relative_to(building) for path in building.rglob("part-*.json")]
    done = [war / path.with_suffix("") for path in recorded]
    assert 3 <= len(done) < sum(1 for task in peace.tasks for _ in task.shards())
    before = {path: path.stat().st_mtime_ns for path in done}

    told: list[Event] = []
    found, was_stored = compute(stream, NAME, encoder, str(war), watch=told.append)
    assert not was_stored
    assert found.hash == read_manifest(str(war)).hash != read_manifest(stream).hash
    assert found.hash == peace.hash
    assert {path: path.stat().st_mtime_ns for path in done} == before
    assert next(event.done for event in told if isinstance(event, Progressed)) > 0
    assert not building.exists()
    assert not list(war.rglob("*.tmp"))


# Refusals.


def test_another_content_is_never_overwritten(
    computed: tuple[str, str], weights: str, tmp_path: Path
) -> None:
    stream, to = computed
    encoder = encoder_of(weights)
    with pytest.raises(BadData, match="another stream"):
        compute(stream, NAME, encoder_of(weights, image_size=40), to)
    with pytest.raises(BadData, match="another stream"):
        compute(stream, NAME, encoder, stream)
    (tmp_path / "letter.txt").touch()
    with pytest.raises(BadData, match=r"letter\.txt"):
        compute(stream, NAME, encoder, str(tmp_path))
    with pytest.raises(BadSpec, match="float32 features"):
        compute(to, NAME, encoder, str(tmp_path / "twice"))
    assert os.listdir(tmp_path) == ["letter.txt"]


def test_only_a_frozen_encoder_with_weights_that_takes_the_images(
    computed: tuple[str, str], weights: str, tmp_path: Path
) -> None:
    stream, to = computed[0], str(tmp_path / "to")
    for knobs in ({"frozen": False}, {"weights": "none"}):
        with pytest.raises(BadSpec, match="a frozen encoder with weights"):
            compute(stream, NAME, encoder_of(weights, **knobs), to)
    with pytest.raises(BadSpec, match="a frozen encoder"):
        compute(stream, "mlp", registry.configure("model", Component(name="mlp")), to)
    with pytest.raises(BadInput, match="nonsense"):
        compute(stream, NAME, encoder_of(weights, options={"nonsense": 1}), to)
    with pytest.raises(BadData, match="clray data build"):
        compute(str(tmp_path / "nothing"), NAME, encoder_of(weights), to)
    assert not os.listdir(tmp_path)


def test_a_damaged_shard_is_named(weights: str, tmp_path: Path, ray_is_on: None) -> None:
    stream, to = store(tmp_path / "images"), str(tmp_path / "to")
    damaged = tmp_path / "images/task=001/split=train/part-00000.parquet"
    damaged.write_bytes(damaged.read_bytes()[:-100])
    with pytest.raises(BadData, match="task=001/split=train/part-00000"):
        compute(stream, NAME, encoder_of(weights), to)
    with pytest.raises(BadData, match="not finished"):
        read_manifest(to)


class Doubtful(nn.Module):
    """Means of images, times a factor; memory for so many images."""

    def __init__(self, factor: float = 1.0, room: int = 10**9) -> None:
        super().__init__()
        self.factor, self.room = factor, room
        self.batches: list[int] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.batches.append(len(x))
        if len(x) > self.room:
            raise torch.cuda.OutOfMemoryError
        return x.mean((2, 3)) * self.factor


def test_batches_are_halved_until_they_fit(tmp_path: Path) -> None:
    stream = store(tmp_path / "images", rows=60, shard_rows=60)
    images = read_manifest(stream)
    found = {}
    for room in (60, 17):
        to = str(tmp_path / f"{room}")
        network = Doubtful(room=room)
        encode = ShardEncoder(network, stream, images, to, "float32", CPU)
        encode.batch = 64
        found[room] = encode(images.tasks[0].train[0])
        assert network.batches == {60: [60], 17: [60, 32, 16, 16, 16, 12]}[room]
    assert found[60] == found[17]
    assert encode.batch == 16
    encode = ShardEncoder(Doubtful(room=0), stream, images, to, "float32", CPU)
    with pytest.raises(BadResources, match="one image"):
        encode(images.tasks[0].train[0])


def test_features_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    stream = store(tmp_path / "images", mean=(), std=())
    images, to = read_manifest(stream), str(tmp_path / "to")
    encode = ShardEncoder(Doubtful(1e6), stream, images, to, "float16", CPU)
    with pytest.raises(BadData, match=r"part-00000\.parquet.*float32 holds larger"):
        encode(images.tasks[0].train[0])
    assert not Path(to).exists()


# Trials.


def trial_spec(
    stream: str, model: Any, method: Any = "finetune", epochs: int = 3, **others: Any
) -> TrialSpec:
    plain = {
        "method": method,
        "benchmark": {"stream": stream},
        "model": model,
        "protocol": {"validation_fraction": 0.2, "epochs": epochs, "batch_size": 16, "memory": 30},
        "optimizer": {"lr": 0.05},
        **others,
    }
    return registry.complete(TrialSpec.model_validate(plain))


@pytest.fixture
def frozen(weights: str) -> dict[str, Any]:
    """The model whose features are stored."""
    return {"name": NAME, "weights": weights, "frozen": True, "image_size": 32}


def test_a_trial_finds_features_by_itself(
    computed: tuple[str, str], frozen: dict[str, Any], tmp_path: Path
) -> None:
    stream, to = computed
    images = shutil.copytree(stream, tmp_path / "images", ignore=lambda *_: ["features"])
    quick, slow = trial_spec(stream, frozen), trial_spec(str(images), frozen)
    assert quick.benchmark.knobs["features"] == pinned(to, read_manifest(to))
    assert slow.benchmark.knobs["features"] is None
    assert quick.key != slow.key
    assert registry.complete(quick) == quick
    told = registry.configure("benchmark", quick.benchmark).remark()
    assert told == f"reads stored features of {NAME}: {to}"

    ends = [trial.run(spec, Folder(str(tmp_path / spec.key)), device=CPU) for spec in (quick, slow)]
    assert ends[0].records[0]["footprint"]["parameters"] == 512 * 4 + 4
    losses = [[record["losses"]["loss"] for record in end.records] for end in ends]
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-4)
    rows = [[record["accuracy"][: i + 1] for i, record in enumerate(e.records)] for e in ends]
    for with_features, without in zip(*rows, strict=True):
        np.testing.assert_allclose(with_features, without, atol=0.07)


def test_a_trial_reads_images_where_no_features_fit(
    computed: tuple[str, str], frozen: dict[str, Any], tmp_path: Path
) -> None:
    stream, to = computed
    for knobs in ({"frozen": False}, {"image_size": 40}, {"weights": "none"}):
        spec = trial_spec(stream, {**frozen, **knobs})
        assert spec.benchmark.knobs["features"] is None
    # A search over the encoder's knobs starts from a spec that features were filled into.
    base = trial_spec(stream, frozen).model_dump(mode="json")
    searched = registry.complete(
        TrialSpec.model_validate({**base, "model": {**base["model"], "image_size": 40}})
    )
    assert searched.benchmark.knobs["features"] is None
    augmenting = store(tmp_path / "augmenting", augment="flip")
    with pytest.raises(BadSpec, match=r"benchmark\.features.*must not augment"):
        trial_spec(augmenting, frozen, benchmark={"stream": augmenting, "features": to})


def test_a_trial_on_stored_maps_is_one_on_images(weights: str, tmp_path: Path) -> None:
    stream, to = store(tmp_path / "images"), str(tmp_path / "maps")
    knobs = {"weights": weights, "image_size": 32, "lower": "layer2"}
    slow = trial_spec(stream, {"name": NAME, **knobs}, "er")
    maps = encode(stream, to, NAME, encoder_of(weights, frozen=False, lower="layer2"))
    assert maps.shape == (128 * 4 * 4, 1, 1)
    quick = trial_spec(stream, {"name": NAME, **knobs}, "er")
    assert slow.benchmark.knobs["features"] is None
    assert quick.benchmark.knobs["features"] == pinned(to, maps)
    ends = [trial.run(spec, Folder(str(tmp_path / spec.key)), device=CPU) for spec in (quick, slow)]
    losses = [[record["losses"]["loss"] for record in end.records] for end in ends]
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-5)
    assert ends[0].records[-1]["accuracy"] == ends[1].records[-1]["accuracy"]


def test_features_can_be_named(
    computed: tuple[str, str], frozen: dict[str, Any], tmp_path: Path
) -> None:
    stream, to = computed
    images = shutil.copytree(stream, tmp_path / "images", ignore=lambda *_: ["features"])
    named = {"stream": str(images), "features": to}
    spec = trial_spec(stream, frozen, benchmark=named)
    assert spec.benchmark.knobs["features"] == pinned(to, read_manifest(to))
    assert registry.complete(spec) == spec
    with pytest.raises(BadData, match=r"benchmark\.features"):
        trial_spec(stream, {**frozen, "image_size": 40}, benchmark=named)


def test_links_that_lead_nowhere_are_passed_over_and_replaced(
    computed: tuple[str, str], frozen: dict[str, Any], weights: str, tmp_path: Path
) -> None:
    stream, to = computed
    images = shutil.copytree(stream, tmp_path / "images")
    gone = shutil.copytree(to, tmp_path / "gone")
    [link] = (images / "features").iterdir()
    manifest = read_manifest(to)
    link.write_text(json.dumps({"address": str(gone), "hash": manifest.hash}))
    assert trial_spec(str(images), frozen).benchmark.knobs["features"].startswith(str(gone))
    assert compute(str(images), NAME, encoder_of(weights), to)[1]  # the link works: it stays
    assert json.loads(link.read_text())["address"] == str(gone)
    shutil.rmtree(gone)
    assert trial_spec(str(images), frozen).benchmark.knobs["features"] is None
    link.write_text("{")
    assert trial_spec(str(images), frozen).benchmark.knobs["features"] is None
    compute(str(images), NAME, encoder_of(weights), to)
    assert trial_spec(str(images), frozen).benchmark.knobs["features"].startswith(to + PIN)


@pytest.mark.parametrize("method", ["er", "ewc", "joint"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_methods_learn_from_features(
    computed: tuple[str, str], method: str, dtype: str, tmp_path: Path
) -> None:
    uri = computed[1]
    if dtype == "float16":
        uri = halved(uri, tmp_path / "half")
    spec = trial_spec(uri, {"name": "mlp", "hidden": []}, method, epochs=30)
    outcome = trial.run(spec, Folder(str(tmp_path / "trial")), device=CPU)
    assert outcome.state == "completed"
    assert outcome.records[0]["accuracy"][0] > 0.9
    if method == "er":
        assert outcome.records[1]["accuracy"][0] > 0.9
        kept = outcome.records[-1]["footprint"]["bytes"] - 4 * (512 * 4 + 4)
        assert kept == 30 * (512 * np.dtype(dtype).itemsize + 16)


def halved(uri: str, to: Path) -> str:
    """A stream of features in half precision."""
    manifest = read_manifest(uri)
    tasks = []
    for task in manifest.tasks:
        shards: dict[str, Any] = {}
        for split in SPLITS:
            [shard, *_] = getattr(task, split)
            x, y, ids = rows_of(uri, split, manifest.tasks.index(task))
            half = x.astype(np.float16).reshape(len(x), -1).view(np.uint8)
            rows = (half, y, ids)
            written = write_shard(Folder(str(to)), shard.path, rows, rows_per_block(1024), "")
            shards[split] = (written,)
        tasks.append(task.model_copy(update=shards))
    update = {"dtype": "float16", "tasks": tuple(tasks), "block_rows": rows_per_block(1024)}
    write_manifest(Folder(str(to)), manifest.model_copy(update=update))
    return str(to)


def test_features_serve_their_own_encoder_alone(
    computed: tuple[str, str], frozen: dict[str, Any]
) -> None:
    to = computed[1]
    trial_spec(to, frozen)
    for model in ({**frozen, "image_size": 40}, {**frozen, "frozen": False}, "slim_resnet18"):
        with pytest.raises(BadSpec, match="features of the encoder"):
            trial_spec(to, model)


# The command.


def test_the_command(computed: tuple[str, str], weights: str, tmp_path: Path) -> None:
    stream, to = computed
    app = typer.Typer()
    app.command()(command)

    def run(*arguments: str) -> Any:
        given = ["--encoder", NAME, "--weights", weights, "--image-size", "32", *arguments]
        return CliRunner().invoke(app, [stream, *given])

    again = run("--to", to)
    assert again.exit_code == 0, again.output
    assert "300 rows" not in again.output
    assert "210 rows of 512 features in float32" in again.output
    assert "nothing was done: they were there already" in again.output
    new = run("--to", str(tmp_path / "new"), "mean=[0.5,0.5,0.5]")
    assert new.exit_code == 0, new.output
    assert "features: 210 of 210" in new.output
    assert f"features in {tmp_path / 'new'}" in new.output.replace("\n", "")
    for override, why in (("frozen=false", "the encoder is frozen"), ("weights=a", "--weights")):
        with pytest.raises(BadSpec, match=why):
            raise run("--to", to, override).exception
