"""Codes of features: stored once, found by trials, and the same as those that a trial makes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from clray import protocols, registry, sweep, trial
from clray.cli.app import app
from clray.errors import BadData, BadSpec
from clray.events import Watch, ignore
from clray.job import JobSpec
from clray.learner import Coder
from clray.parsing import parse
from clray.protocols import running
from clray.spec import Component, TrialSpec
from clray.store import Folder
from clray.streams.features import compute
from clray.streams.manifest import pinned, read_manifest
from tests.protocols.conftest import Here
from tests.streams.encoded import encode

KEYS = {
    "codebooks": 8,
    "pairs": 16,
    "key_dim": 4,
    "key_epochs": 2,
    "key_seed": 3,
    "mask_unused": False,
}


class Halved:
    """A frozen encoder that gives the pixels of 8 x 8 images, halved."""

    def check(self, variant: str) -> None:
        """Fine."""

    def describe_encoder(self, variant: str) -> dict[str, Any]:
        return {"name": "halved"}

    def encoder_key(self, variant: str) -> str:
        return "halved"

    def build_encoder(
        self, variant: str, image_shape: tuple[int, int, int], watch: Watch = ignore
    ) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.AvgPool1d(1), _Half())


class _Half(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x / 2


@pytest.fixture
def features(stored_digits: str, tmp_path: Path) -> str:
    """Features of split-digits, 5 tasks of 2 classes."""
    stream = shutil.copytree(stored_digits, tmp_path / "images")
    encode(str(stream), str(tmp_path / "features"), "halved", Halved())
    return str(tmp_path / "features")


def coder_of(address: str, **knobs: Any) -> Coder:
    name = Component(name="dkvb", **{**KEYS, "key_source": address, **knobs})
    config = registry.configure("method", name).pinned("halved")
    coder = registry.find("method", "dkvb").learner.coder(config)
    assert coder is not None
    return coder


def spec_of(address: str, benchmark: dict[str, Any] | None = None, **knobs: Any) -> TrialSpec:
    plain = {
        "method": {"name": "dkvb", **KEYS, "key_source": address, "plasticity": 20.0, **knobs},
        "benchmark": {"stream": address, **(benchmark or {})},
        "model": {"name": "mlp", "hidden": []},
        "protocol": {"validation_fraction": 0.2, "epochs": 2, "batch_size": 32},
    }
    return registry.complete(TrialSpec.model_validate(plain))


@pytest.fixture
def codes(features: str, tmp_path: Path) -> str:
    to = str(tmp_path / "codes")
    encode(features, to, "dkvb", coder_of(features), "int16")
    return to


def test_a_trial_on_codes_leaves_the_records_of_one_on_features(
    features: str, codes: str, tmp_path: Path
) -> None:
    """Losses and accuracies to the bit: codes are what the trial would make."""
    manifest = read_manifest(codes)
    assert (manifest.shape, manifest.dtype) == ((8, 1, 1), "int16")
    quick = spec_of(features)
    assert quick.benchmark.knobs["codes"] == pinned(codes, manifest)
    assert registry.complete(quick) == quick
    told = registry.configure("benchmark", quick.benchmark).remark()
    assert told == f"reads stored codes of codebooks: {codes}"
    [link] = (Path(features) / "features").iterdir()
    link.rename(tmp_path / "aside.json")
    slow = spec_of(features)
    assert slow.benchmark.knobs["codes"] is None
    ends = [trial.run(spec, Folder(str(tmp_path / spec.key))) for spec in (quick, slow)]
    rows = [[(r["losses"], r["accuracy"]) for r in end.records] for end in ends]
    assert rows[0] == rows[1]
    sizes = [end.records[-1]["footprint"]["bytes"] for end in ends]
    assert sizes[1] - sizes[0] == 4 * 64 * 8 * 4  # the projection, which can be drawn again


def test_keys_that_lie_elsewhere_are_counted_as_wide_as_they_are(
    features: str, tmp_path: Path
) -> None:
    """Slices of 64 features for 8 codebooks: there is no projection, and key_dim is not used."""
    slow = spec_of(features, projection="chunk")
    coder = coder_of(features, projection="chunk")
    encode(features, str(tmp_path / "sliced"), "dkvb", coder, "int16")
    quick = spec_of(features, projection="chunk")
    assert [spec.benchmark.knobs["codes"] is None for spec in (quick, slow)] == [False, True]
    ends = [trial.run(spec, Folder(str(tmp_path / spec.key))) for spec in (quick, slow)]
    sizes = [end.records[-1]["footprint"] for end in ends]
    assert sizes[0] == sizes[1]


def test_codes_serve_their_own_knobs_alone(features: str, codes: str) -> None:
    others: list[dict[str, Any]] = [
        {"key_seed": 4},
        {"pairs": 8},
        {"key_seed": None},
        {"mask_unused": True},
        {"top": 2},
        {"key_source": "first-task"},
    ]
    for knobs in others:
        assert spec_of(features, **knobs).benchmark.knobs["codes"] is None
    same: list[dict[str, Any]] = [{"plasticity": 1.0}, {"values": "counted"}, {"smoothing": 0.0}]
    for knobs in same:
        assert spec_of(features, **knobs).benchmark.knobs["codes"] is not None
    named = spec_of(features, {"codes": codes})
    assert registry.complete(named) == named
    assert named.benchmark.knobs["codes"].startswith(codes)
    with pytest.raises(BadData, match=r"benchmark\.codes"):
        spec_of(features, {"codes": codes}, pairs=8)
    with pytest.raises(BadSpec, match="trials find them"):
        spec_of(features, {"stream": codes})


def test_keys_may_come_from_the_images_whose_features_they_are(
    features: str, codes: str, tmp_path: Path
) -> None:
    images = str(tmp_path / "images")
    spec = spec_of(features, key_source=images)
    assert spec.method.knobs["key_source"] == pinned(features, read_manifest(features))
    with pytest.raises(BadSpec, match=r"key_source.*whose features by the encoder halved"):
        spec_of(features, key_source=str(shutil.copytree(images, tmp_path / "bare", ignore=_links)))
    with pytest.raises(BadSpec, match=r"key_source.*features by the trial's own encoder"):
        spec_of(features, key_source=codes)
    with pytest.raises(BadData, match=r"key_source"):
        spec_of(features, key_source=str(tmp_path / "nowhere"))


def _links(folder: str, names: list[str]) -> list[str]:
    return ["features"]


def test_entries_of_a_job_may_read_one_stream_in_different_forms(
    features: str, codes: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "Slots", Here)
    monkeypatch.setattr(sweep, "run_tune", sweep._directly)
    keys = {"name": "dkvb", **KEYS, "key_source": features}
    plain = {
        "name": "forms",
        "benchmark": {"stream": features},
        "model": {"name": "mlp", "hidden": []},
        "protocol": {"validation_fraction": 0.2},
        "methods": {
            "dkvb": {"method": keys, "space": {"method": {"plasticity": {"choice": [1, 5]}}}},
            "pairs": {"method": keys, "space": {"method": {"pairs": 8}}},
            "ncm": {},
        },
        "search": {"trials": 2},
        "final": {"seeds": 1},
    }
    found = protocols.run_job(protocols.plan(parse(JobSpec, plain, "job")), str(tmp_path), ignore)
    rows = {row["label"]: row for row in found["boards"][0]["rows"]}
    assert rows.keys() == {"dkvb", "pairs", "ncm"}
    read: dict[str, set[bool]] = {}
    for path in (tmp_path / "trials").iterdir():
        spec = TrialSpec.model_validate_json((path / "spec.json").read_text())
        coded = spec.benchmark.knobs["codes"] is not None
        read.setdefault(f"{spec.method.name} {spec.method.knobs.get('pairs')}", set()).add(coded)
    assert read["dkvb 16"] == {True}
    assert read["dkvb 8"] == {False}
    assert read["ncm None"] == {False}


@pytest.mark.parametrize(("at_once", "names"), [(5, 1), (1, 5)])
def test_neighbouring_tasks_are_learned_as_one(features: str, at_once: int, names: int) -> None:
    spec = spec_of(features, {"tasks_at_once": at_once})
    config = registry.configure("benchmark", spec.benchmark)
    assert config.check() == names
    stream = config.build("test", 0.2, 0, torch.device("cpu"))
    single = registry.configure("benchmark", Component(name="stored", stream=features)).build(
        "test", 0.2, 0, torch.device("cpu")
    )
    assert [len(task.classes) for task in stream.tasks] == [2 * at_once] * names
    for half in ("train", "eval"):
        merged, alone = (
            [x for task in one.tasks for x, _ in getattr(task, half).batches(64)]
            for one in (stream, single)
        )
        rows = [np.sort(torch.cat(x).flatten(1).numpy(), axis=0) for x in (merged, alone)]
        assert np.array_equal(rows[0], rows[1])
    with pytest.raises(BadSpec, match=r"tasks_at_once.*a divisor of the 5 tasks: 1, 5"):
        spec_of(features, {"tasks_at_once": 2})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--method", "dkvb", "key_source=first-task", "key_seed=1"], "address of a stream"),
        (["--method", "dkvb", "key_source=HERE"], "method.key_seed"),
        (["--method", "dkvb", "key_source=HERE", "key_seed=1"], "mask_unused"),
        (["--method", "finetune"], "a method that makes codes: dkvb"),
        (["--method", "dkvb", "--encoder", "mlp"], "one of --encoder"),
        ([], "one of --encoder"),
        (["--method", "dkvb", "--dtype", "float16"], "codes are made of features"),
        (["--method", "dkvb", "pear=3"], "pear"),
    ],
)
def test_bad_commands(features: str, options: list[str], message: str, tmp_path: Path) -> None:
    options = [option.replace("HERE", features) for option in options]
    to = tmp_path / "to"
    command = ["data", "features", features, "--to", str(to), *options]
    result = CliRunner().invoke(app, command)
    assert result.exit_code != 0
    said = " ".join((result.output + str(result.exception)).split())
    assert message in said
    assert not to.exists()


def test_codes_are_made_of_features_alone(features: str, codes: str, tmp_path: Path) -> None:
    for stream in (str(tmp_path / "images"), codes):
        with pytest.raises(BadSpec, match="a stream of features"):
            compute(stream, "dkvb", coder_of(features), str(tmp_path / "to"), "int16")
    manifest = json.loads((Path(codes) / "manifest.json").read_text())
    assert manifest["encoder"]["key_source"] == f"#sha256={read_manifest(features).hash}"
