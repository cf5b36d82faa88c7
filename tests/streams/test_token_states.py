"""States of tokens: stored as an encoder gives them, cut into shards, and learned from."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer
from typer.testing import CliRunner

from clray import ray_session, registry, trial
from clray.cli.features import features as command
from clray.errors import BadSpec
from clray.models.classifier import ModelConfig
from clray.spec import Component, TrialSpec
from clray.store import Folder
from clray.streams import encoding, tokens
from clray.streams.building import build
from clray.streams.encoding import shape_of
from clray.streams.manifest import Manifest, read_manifest
from clray.streams.shards import read_shard
from tests.streams.encoded import encode
from tests.text_material import LENGTH, WIDTH, save_encoder, save_tokenizer, write_texts

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_encoder(tmp_path_factory.mktemp("encoder"))


@pytest.fixture(scope="module")
def knobs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Of a benchmark of two texts with 2 and 3 classes."""
    root = tmp_path_factory.mktemp("texts")
    write_texts(root / "a", range(2), train=40)
    write_texts(root / "b", range(2, 5), train=40)
    tokenizer = save_tokenizer(root / "tokenizer")
    return {
        "dataset": "a + b",
        "root": str(root),
        "tokenizer": tokenizer,
        "max_tokens": LENGTH,
    }


def model_of(encoder: str) -> ModelConfig:
    config: ModelConfig = registry.configure("model", Component(name="text_cnn", encoder=encoder))
    return config


@pytest.fixture
def stored(
    store_benchmark: Callable[..., Manifest],
    knobs: dict[str, Any],
    encoder: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> tuple[str, str]:
    """The texts as a stream, and their states in small shards."""
    store_benchmark("texts", fraction=0.25, **knobs)
    monkeypatch.setattr(encoding, "SHARD_BYTES", 1)
    monkeypatch.setattr(encoding, "rows_per_shard", lambda row_bytes: 24)
    stream, to = str(tmp_path / "stream"), str(tmp_path / "states")
    encode(stream, to, "text_cnn", model_of(encoder))
    return stream, to


def rows_of(uri: str) -> tuple[Any, Any, Any]:
    manifest = read_manifest(uri)
    shards = [shard for task in manifest.tasks for shard in task.shards()]
    parts = [read_shard(uri, shard.path, manifest.row_bytes) for shard in shards]
    x, y, ids = (np.concatenate(column) for column in zip(*parts, strict=True))
    return x.view(manifest.dtype).reshape(len(x), *manifest.shape), y, ids


def test_states_are_what_the_encoder_says_of_each_text(
    stored: tuple[str, str], encoder: str
) -> None:
    stream, to = stored
    texts, states = rows_of(stream), rows_of(to)
    assert states[0].shape == (len(texts[0]), WIDTH, LENGTH, 1)
    assert np.array_equal(texts[1], states[1])
    assert np.array_equal(texts[2], states[2])
    ids = tokens.as_ids(torch.from_numpy(texts[0].copy()) / 255)
    padded = ids == tokens.PADDING
    assert 0 < padded.sum() < padded.numel()
    import transformers

    network = transformers.AutoModel.from_pretrained(encoder).eval()
    with torch.no_grad():
        expected = network(ids.masked_fill(padded, 0), attention_mask=(~padded).long())[0]
    found = torch.from_numpy(states[0].copy())
    torch.testing.assert_close(found[..., 0], expected.transpose(1, 2), atol=1e-5, rtol=0)
    shards = read_manifest(to).tasks[0].train
    assert [(Path(shard.path).name, shard.rows) for shard in shards] == [
        ("part-00000-00000.parquet", 24),
        ("part-00000-00001.parquet", 24),
        ("part-00000-00002.parquet", 12),
    ]


def trial_spec(stream: str, model: dict[str, Any], **others: Any) -> TrialSpec:
    plain = {
        "method": "finetune",
        "benchmark": {"stream": stream},
        "model": model,
        "protocol": {"validation_fraction": 0.25, "epochs": 7, "batch_size": 16},
        "optimizer": {"name": "adam", "lr": 0.01},
        **others,
    }
    return registry.complete(TrialSpec.model_validate(plain))


def test_trials_learn_the_same_from_ids_and_from_states(
    stored: tuple[str, str], encoder: str, knobs: dict[str, Any], tmp_path: Path
) -> None:
    stream, to = stored
    model = {"name": "text_cnn", "encoder": encoder, "filters": 8}
    quick = trial_spec(stream, model)
    assert quick.benchmark.knobs["features"].startswith(to)
    specs = [
        quick,
        trial_spec("", model, benchmark={"name": "texts", **knobs}),
        trial_spec(to, {**model, "encoder": None}),
    ]
    assert len({spec.key for spec in specs}) == 3
    ends = [trial.run(spec, Folder(str(tmp_path / spec.key)), device=CPU) for spec in specs]
    weights = 8 * WIDTH * (3 + 4 + 5) + 3 * 8 + 24 * 5 + 5
    assert ends[0].records[0]["footprint"]["parameters"] == weights
    assert ends[0].records[0]["accuracy"][0] > 0.8
    for end in ends[1:]:
        for record, same in zip(ends[0].records, end.records, strict=True):
            assert record["losses"]["loss"] == pytest.approx(same["losses"]["loss"], rel=1e-4)
            seen = record["task"] + 1
            assert record["accuracy"][:seen] == pytest.approx(same["accuracy"][:seen], abs=0.06)


def test_states_serve_their_own_encoder_and_no_images(
    stored: tuple[str, str], encoder: str, tmp_path: Path
) -> None:
    to = stored[1]
    other = save_encoder(tmp_path / "other", seed=1)
    copy = str(shutil.copytree(encoder, tmp_path / "copy"))
    with pytest.raises(BadSpec, match="features of the encoder"):
        trial_spec(to, {"name": "text_cnn", "encoder": other})
    trial_spec(to, {"name": "text_cnn", "encoder": copy})
    unstored = trial_spec(stored[0], {"name": "text_cnn", "encoder": other})
    assert unstored.benchmark.knobs["features"] is None
    with pytest.raises(BadSpec, match=r"states \[B, D, L, 1\]"):
        shape_of(torch.zeros(2, 3, 4, 5))


def run(stream: str, *arguments: str) -> Any:
    """``clray data features`` with this model."""
    app = typer.Typer()
    app.command()(command)
    return CliRunner().invoke(app, [stream, "--encoder", "text_cnn", *arguments])


def test_options_of_other_encoders_are_refused() -> None:
    for option, value in (("--image-size", "32"), ("--weights", "bert.safetensors")):
        with pytest.raises(BadSpec, match=f"{option}: got .*text_cnn has no such knob"):
            raise run("nowhere", "--to", "nowhere", option, value).exception


@pytest.mark.slow
def test_the_commands_work_in_halves(knobs: dict[str, Any], encoder: str, tmp_path: Path) -> None:
    """Built and encoded by Ray; float16 halves the room and hardly moves the losses."""
    config = registry.configure("benchmark", Component(name="texts", **knobs))
    stream = str(tmp_path / "stream")
    with ray_session.running():
        built = build(
            config,
            "texts",
            stream,
            seed=0,
            validation_fraction=0.25,
            on_bad_row="error",
            watch=lambda _: None,
        )
        to = str(tmp_path / "to")
        said = run(stream, "--to", to, "--dtype", "float16", f"encoder={encoder}")
    assert said.exit_code == 0, said.output
    assert f"240 rows of {LENGTH} states of {WIDTH} features in float16" in said.output
    states = read_manifest(to)
    assert built.manifest.shape == (3, LENGTH, 1)
    assert (states.shape, states.dtype) == ((WIDTH, LENGTH, 1), "float16")
    assert states.num_rows() == built.manifest.num_rows() == 5 * 48
    model = {"name": "text_cnn", "encoder": encoder, "filters": 8}
    quick = trial_spec(stream, model)
    slow = trial_spec("", model, benchmark={"name": "texts", **knobs})
    assert quick.benchmark.knobs["features"] is not None
    ends = [trial.run(spec, Folder(str(tmp_path / spec.key)), device=CPU) for spec in (quick, slow)]
    losses = [[record["losses"]["loss"] for record in end.records] for end in ends]
    np.testing.assert_allclose(losses[0], losses[1], rtol=0.02)
