"""What every search space and every job that comes with clray promises."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from clray import files, protocols, registry
from clray.errors import BadData, BadInput
from clray.job import JobSpec
from clray.parsing import parse
from clray.spec import SCENARIOS


def job(**changes: Any) -> JobSpec:
    plain: dict[str, Any] = {
        "name": "j",
        "benchmark": "split-digits",
        "protocol": {"memory": 50},
        **changes,
    }
    return parse(JobSpec, plain, "job")


def plan(one: JobSpec) -> JobSpec:
    try:
        return protocols.plan(one)
    except BadData as error:
        pytest.skip(f"needs data: {error}")


@pytest.mark.parametrize("name", files.space_names())
def test_every_space_suits_its_method(name: str) -> None:
    space = files.load_space(name)
    learner = registry.find("method", name.partition(".")[0]).learner
    scenario = next(s for s in SCENARIOS if s in learner.scenarios)
    benchmark = {"name": "split-digits", "scenario": scenario}
    model: dict[str, Any] = {"name": "mlp", "hidden": [] if learner.frozen_encoder else [256]}
    if learner.vision_transformer:
        model = {"name": "timm/vit_tiny_patch16_224", "frozen": True}
    planned = plan(job(methods={name: {}}, benchmark=benchmark, model=model))
    assert planned.methods[name].space == space
    method = planned.methods[name].method
    assert method is not None
    assert method.name == name.partition(".")[0]


@pytest.mark.parametrize("name", files.space_names())
def test_every_dimension_of_a_space_says_where_it_comes_from(name: str) -> None:
    lines = files.space_path(name).read_text().splitlines()
    for number, line in enumerate(lines):
        if re.match(r"  \w+:", line) and "{" in line:
            above = [text.strip() for text in lines[:number]]
            comment = [text for text in above if text.startswith("#")]
            assert comment or "#" in line, f"{name}: {line.strip()} has no comment"


@pytest.mark.parametrize("method", registry.names("method"))
def test_every_method_has_a_space(method: str) -> None:
    assert method in {name.partition(".")[0] for name in files.space_names()}


@pytest.mark.parametrize("name", files.job_names())
def test_every_job_can_be_planned(name: str) -> None:
    one = files.load_job(name)
    assert one.name == name
    planned = plan(one)
    assert protocols.plan(planned) == planned  # what is stored beside the results is a job again
    assert files.job_path(name).read_text().startswith("#")


@pytest.mark.parametrize(
    ("methods", "message"),
    [
        ({"ewcc": {}}, "methods.ewcc: method: got 'ewcc'.*Did you mean 'ewc'"),
        ({"ewc": {"space": "ewcc"}}, "search space: got 'ewcc'.*Did you mean 'ewc'"),
        ({"ewc": {"space": {"method": {"strenght": 3}}}}, "got 'strenght'.*mean 'strength'"),
        (
            {"ewc": {"space": {"method": {"strength": {"range": [-1, 5]}}}}},
            "strength: got -1.*greater than or equal to 0",
        ),
        ({"ewc": {"space": {"method": {"mode": {"choice": ["onlin"]}}}}}, "mode: got 'onlin'"),
        ({"ewc": {"space": {"method": {"mode": {"range": [1, 2]}}}}}, "this knob is no number"),
        ({"er": {"space": {"method": {"memory_batch": {"range": [1.5, 9]}}}}}, "is an integer"),
        (
            {
                "ewc": {
                    "space": {
                        "method": {"strength": {"range": [1, 10]}},
                        "start": [{"method": {"strength": 11}}],
                    }
                }
            },
            r"start: method.strength: got 11; accepted: a number in \[1, 10\]",
        ),
        (
            {"ewc": {"space": {"start": [{"method": {"strength": 11}}]}}},
            "start: got 'method.strength'",
        ),
        ({"ewc": {"optimizer": {"lrr": 1}}}, "optimizer: got 'lrr'.*Did you mean 'lr'"),
    ],
)
def test_bad_searches_are_refused_before_anything_starts(
    methods: dict[str, Any], message: str
) -> None:
    with pytest.raises(BadInput, match=message) as caught:
        protocols.plan(job(methods=methods))
    assert caught.value.exit_code == 2


def test_a_replaying_method_needs_a_memory() -> None:
    with pytest.raises(BadInput, match=r"protocol.memory, for method er: got 0"):
        protocols.plan(job(methods={"er": {}}, protocol={}))


def test_files_are_found_by_path_and_by_name(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("name: mine\nbenchmark: split-digits\nmethods: [finetune]\n")
    assert files.load_job(str(path)).name == "mine"
    with pytest.raises(BadInput, match=r"Did you mean '.*mine.yaml'"):
        files.load_job(str(tmp_path / "mien.yaml"))
    with pytest.raises(BadInput, match="Did you mean 'quickstart'"):
        files.load_job("quikstart")
    (tmp_path / "folder.yaml").mkdir()
    with pytest.raises(BadInput, match="not a folder"):
        files.load_job(str(tmp_path / "folder.yaml"))
    path.write_text("")
    with pytest.raises(BadInput, match="a mapping"):
        files.load_job(str(path))
