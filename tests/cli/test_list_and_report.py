"""``clray list``, made from the real components, and ``clray report`` on jobs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, ByteSize, ConfigDict, Field

from clray import files, registry
from clray.cli.completion import KINDS
from clray.cli.knobs import knobs_of


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
    }
    assert found["needed"].required
    assert not found["least"].required
    assert found["share"].description == "A share of it."


def test_everything(clray: Any) -> None:
    code, out, err = clray("list")
    assert (code, err) == (0, "")
    for name in (*KINDS, "ewc", "split-digits", "lenet", "quickstart"):
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


def test_every_knob_is_described(clray: Any) -> None:
    content = json.loads(clray("list", "--json").out)
    missing = [
        f"{component['name']}.{knob['name']}"
        for kind in ("methods", "benchmarks", "models")
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
        {"label": "ewc", "number": 0, "key": "x", "values": {}, "state": "completed", "value": 0.7},
        {"label": "ewc", "number": 1, "key": "y", "values": {}, "state": "diverged", "value": None},
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
