"""``clray list``, made from the real components, and ``clray report`` on jobs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import pytest
from pydantic import BaseModel, ByteSize, ConfigDict, Field

from clray import files, registry
from clray.cli.completion import KINDS
from clray.cli.knobs import knobs_of
from clray.job import SamplerName
from clray.selection import NAMES, FirstK, Oracle
from clray.spec import STABILITY, Component


class Config(BaseModel):
    """Knobs of many kinds."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    needed: int
    """Must be given."""
    share: float = Field(0.5, ge=0, lt=1)
    """A ``share``
    of it."""
    least: int | None = Field(None, ge=1)
    kind: Literal["a", "b"] = "a"
    on: bool = False
    sizes: tuple[int, ...] = (1, 2)
    pair: tuple[Annotated[float, Field(gt=0)], float] | None = None
    either: Literal["all"] | list[int] = "all"
    small: float = Field(0, le=1e-3)
    text: str = Field("", min_length=1)
    room: ByteSize = ByteSize(3 << 29)
    pull: Annotated[float | None, STABILITY] = Field(None, gt=0)
    part: Component = Component(name="finetune")
    inner: Oracle | FirstK = Oracle()


def test_knobs() -> None:
    found = {knob.name: knob for knob in knobs_of(Config)}
    assert {name: knob.accepts for name, knob in found.items()} == {
        "needed": "integer",
        "share": "number in [0, 1)",
        "least": "integer >= 1 or none",
        "kind": "a | b",
        "on": "true | false",
        "sizes": "list of integers",
        "pair": "[number > 0, number] or none",
        "either": "all or list of integers",
        "small": "number <= 0.001",
        "text": "text (not empty)",
        "room": "bytes such as 64 MiB",
        "pull": "number > 0 or none",
        "part": "name with its knobs",
        "inner": "oracle or first-k",
    }
    assert {name: knob.tag for name, knob in found.items() if knob.tag} == {"pull": "stability"}
    assert found["needed"].required
    assert not found["least"].required
    assert found["share"].description == "A share of it."


def test_everything(clray: Any) -> None:
    code, out, err = clray("list")
    assert (code, err) == (0, "")
    parts = ("first-k", "tpe", "forgetting", "tensorboard", "search.scheduler")
    for name in (*KINDS, "ewc", "split-digits", "lenet", "quickstart", *parts):
        assert name in out.split()


@pytest.mark.parametrize("kind", KINDS)
def test_every_one_in_full(kind: str, clray: Any) -> None:
    code, out, err = clray("list", kind, "--knobs")
    assert (code, err) == (0, "")
    assert max(map(len, out.splitlines())) <= 100


def test_a_method_in_full(clray: Any) -> None:
    code, out, _ = clray("list", "methods", "ewc")
    assert code == 0
    for piece in ("all scenarios", "search spaces: ewc", "strength", "number >= 0", "default 100"):
        assert piece in out
    assert "online | offline" in out


def test_a_space_and_a_job_in_full(clray: Any) -> None:
    assert "method.strength" in clray("list", "spaces", "ewc").out
    job = clray("list", "jobs", "quickstart")
    assert "search trials" in job.out
    assert "quickstart.yaml" in job.out


def test_selection_protocols_in_full(clray: Any) -> None:
    out = clray("list", "selections", "first-k").out
    assert "chosen on validation examples of the first 3 tasks, which are not reported" in out
    assert "integer >= 1, default 3" in out
    assert "chosen on test" in clray("list", "selections", "oracle").out
    then = " ".join(clray("list", "selections", "two-stage").out.split())
    assert "end-of-training or oracle or first-k" in then
    assert "default end-of-training" in then


def test_what_a_job_may_ask_for(clray: Any) -> None:
    optimizer = clray("list", "sections", "optimizer").out
    assert "number > 0, default 0.1, plasticity" in optimizer
    assert "number >= 0, default 0, plasticity" in optimizer
    assert "lower is better" in clray("list", "measures", "growth").out
    assert "higher is better" in clray("list", "measures", "worst_case_accuracy").out
    assert "postgresql" in clray("list", "loggers", "mlflow").out


@pytest.mark.parametrize(
    ("kind", "name", "nearest"),
    [
        ("selections", "frist-k", "first-k"),
        ("measures", "forgeting", "forgetting"),
        ("samplers", "tpee", "tpe"),
        ("loggers", "tensorbord", "tensorboard"),
        ("sections", "optimiser", "optimizer"),
        ("sampler", "tpe", "samplers"),
    ],
)
def test_unknown_names(kind: str, name: str, nearest: str, clray: Any) -> None:
    code, out, err = clray("list", kind, name)
    assert (code, out) == (2, "")
    assert f"Did you mean {nearest!r}?" in err


def test_json_is_whole(clray: Any) -> None:
    code, out, _ = clray("list", "--json")
    assert code == 0
    content = json.loads(out)
    assert list(content) == list(KINDS)
    assert [m["name"] for m in content["methods"]] == registry.names("method")
    assert [s["name"] for s in content["spaces"]] == files.space_names()
    [ewc] = [m for m in content["methods"] if m["name"] == "ewc"]
    assert "class-incremental" in ewc["scenarios"]
    [strength] = [knob for knob in ewc["knobs"] if knob["name"] == "strength"]
    assert strength["default"] == 100.0
    assert strength["description"]
    for kind in ("selections", "samplers", "measures", "loggers", "sections"):
        assert all(each["summary"] for each in content[kind])
    assert [each["name"] for each in content["samplers"]] == list(get_args(SamplerName))
    assert [each["name"] for each in content["selections"]] == list(NAMES)


def test_every_knob_is_described(clray: Any) -> None:
    content = json.loads(clray("list", "--json").out)
    missing = [
        f"{component['name']}.{knob['name']}"
        for kind in ("methods", "benchmarks", "models", "selections", "loggers", "sections")
        for component in content[kind]
        for knob in component["knobs"]
        if not knob["description"]
    ]
    assert missing == []


def test_a_job_that_is_not_finished(clray: Any, here: Path) -> None:
    folder = here / "results" / "jobs" / "a"
    folder.mkdir(parents=True)
    job = {"name": "a", "benchmark": "split-digits", "methods": ["finetune", "ewc"]}
    (folder / "job.yaml").write_text(json.dumps(job))
    lines = [
        {
            "label": "ewc",
            "number": 0,
            "keys": ["x"],
            "values": {},
            "state": "completed",
            "value": 0.7,
        },
        {
            "label": "ewc",
            "number": 1,
            "keys": ["y"],
            "values": {},
            "state": "diverged",
            "value": None,
        },
    ]
    (folder / "trials.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    code, out, err = clray("report", str(folder))
    assert (code, err) == (0, "")
    assert "not finished" in out
    [row] = [line.split() for line in out.splitlines() if line.split()[:1] == ["ewc"]]
    assert row == ["ewc", "2", "1", "0.700"]
    whole = clray("report")
    assert "1 job and 0 stored trials in" in whole.out
    assert "not finished" in whole.out
