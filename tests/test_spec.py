"""Specs: strictness, keys that are stable, overrides, and errors that help."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from clray.errors import BadInput, BadSpec
from clray.job import JobSpec
from clray.parsing import merge, parse, parse_overrides, read_yaml
from clray.space import Dimension, SearchSpace
from clray.spec import TrialSpec, derive_seed

TRIAL = {"method": "ewc", "benchmark": "split-digits"}
JOB: dict[str, Any] = {"name": "j", "benchmark": "split-digits", "methods": {"ewc": {}}}


@pytest.mark.parametrize(
    ("model", "data", "message"),
    [
        (TrialSpec, {"method": "ewc"}, "benchmark: got None; accepted: a value"),
        (TrialSpec, {**TRIAL, "protocl": {}}, "got 'protocl'.*Did you mean 'protocol'"),
        (TrialSpec, {**TRIAL, "protocol": {"epoch": 3}}, "protocol: got 'epoch'.*mean 'epochs'"),
        (TrialSpec, {**TRIAL, "protocol": {"epochs": 0}}, "protocol.epochs: got 0.*equal to 1"),
        (TrialSpec, {**TRIAL, "protocol": {"epochs": "many"}}, "epochs: got 'many'.*integer"),
        (TrialSpec, {**TRIAL, "optimizer": {"lr": float("inf")}}, "lr: got inf.*finite"),
        (TrialSpec, {**TRIAL, "optimizer": {"lr": -1}}, "optimizer.lr: got -1.*greater than 0"),
        (TrialSpec, {**TRIAL, "optimizer": {"momentum": 1}}, "momentum: got 1.*less than 1"),
        (TrialSpec, {**TRIAL, "split": "tset"}, "split: got 'tset'.*Did you mean 'test'"),
        (TrialSpec, {**TRIAL, "seed": -1}, "seed: got -1.*equal to 0"),
        (TrialSpec, ["ewc"], r"got \['ewc'\]"),
        (JobSpec, {**JOB, "methods": {}}, "methods: got {}.*at least 1"),
        (JobSpec, {**JOB, "name": "../up"}, "name: got '../up'"),
        (JobSpec, {**JOB, "methods": {"ewc": {"spce": "x"}}}, "methods.ewc: got 'spce'.*'space'"),
        (JobSpec, {**JOB, "search": {"sampler": "tpee"}}, "search.sampler.*Did you mean 'tpe'"),
        (JobSpec, {**JOB, "search": {"scheduler": {"grace": 0.1}}}, "grace: got 0.1.*0.33"),
        (JobSpec, {**JOB, "resources": {"slots": 0}}, "resources.slots: got 0"),
        (JobSpec, {**JOB, "final": {"seeds": 0}}, "final.seeds: got 0"),
        (
            JobSpec,
            {**JOB, "methods": {"ewc": {"space": {"method": {"s": {"range": [2, 1]}}}}}},
            "methods.ewc.space.method.s: .*range needs low < high",
        ),
        (SearchSpace, {"method": {"s": {"range": [0, 1], "log": True}}}, "needs low > 0"),
        (SearchSpace, {"method": {"s": [1, 2]}}, "choice: "),
        (SearchSpace, {"method": {"s": {"choice": []}}}, "at least one value"),
        (SearchSpace, {"method": {"s": {"range": [1, 2], "choice": [1]}}}, "exactly one"),
        (SearchSpace, {"method": {"s": {"choice": [1], "log": True}}}, "go with range"),
        (SearchSpace, {"methods": {}}, "got 'methods'.*Did you mean 'method'"),
    ],
)
def test_bad_specs_say_where_what_and_what_else(model: Any, data: Any, message: str) -> None:
    with pytest.raises(BadSpec, match=message) as caught:
        parse(model, data, "here.yaml")
    assert str(caught.value).startswith("here.yaml")
    assert caught.value.exit_code == 2


def test_keys_are_stable_and_depend_on_every_field() -> None:
    spec = parse(TrialSpec, TRIAL, "spec")
    assert spec.key == "564b380f497e6cd901ac"  # else everybody's stored trials are lost
    again = parse(TrialSpec, {"benchmark": {"name": "split-digits"}, "method": "ewc"}, "spec")
    assert again.key == spec.key
    for change in (
        {"method": {"name": "ewc", "strength": 1}},
        {"model": "lenet"},
        {"protocol": {"epochs": 2}},
        {"optimizer": {"lr": 0.2}},
        {"split": "test"},
        {"seed": 1},
    ):
        assert parse(TrialSpec, {**TRIAL, **change}, "spec").key != spec.key


def test_yaml_reads_exponents_as_text_and_the_spec_as_numbers() -> None:
    data = yaml.safe_load("{method: ewc, benchmark: x, optimizer: {lr: 1e-3}}")
    assert data["optimizer"]["lr"] == "1e-3"
    assert parse(TrialSpec, data, "spec").optimizer.lr == 1e-3


def test_a_job_survives_being_written_out() -> None:
    space = {"method": {"strength": {"range": [1, 100], "log": True}, "mode": "online"}}
    job = parse(JobSpec, {**JOB, "methods": {"ewc": {"space": space}, "er": None}}, "job")
    again = parse(JobSpec, yaml.safe_load(yaml.safe_dump(job.model_dump(mode="json"))), "job")
    assert again == job
    assert isinstance(again.methods["ewc"].space, SearchSpace)
    assert again.methods["ewc"].space.fixed == {"method.mode": "online"}


def test_a_dimension_may_be_held_at_none() -> None:
    space = SearchSpace(optimizer={"clip_norm": Dimension(fixed=None)})
    assert space.fixed == {"optimizer.clip_norm": None}
    assert space.searched == {}


def test_overrides_reach_any_depth() -> None:
    arguments = ["method.strength=100", "protocol.epochs=3", "model=lenet", "optimizer.clip_norm="]
    nested = parse_overrides(arguments, TrialSpec.model_fields)
    merged = merge({"method": "ewc", "protocol": {"memory": 5}}, nested)
    assert merged == {
        "method": {"name": "ewc", "strength": 100},
        "protocol": {"memory": 5, "epochs": 3},
        "model": "lenet",
        "optimizer": {"clip_norm": None},
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["epochs"], "KEY=VALUE"),
        (["=3"], "KEY=VALUE"),
        (["method..strength=3"], "KEY=VALUE"),
        (["protcol.epochs=3"], "Did you mean 'protocol'"),
        (["seed=1", "seed=2"], "only once"),
        (["method=er", "method.strength=1"], "as a whole or by its parts"),
        (["method.strength=1", "method=er"], "as a whole or by its parts"),
    ],
)
def test_bad_overrides(arguments: list[str], message: str) -> None:
    with pytest.raises(BadSpec, match=message):
        parse_overrides(arguments, TrialSpec.model_fields)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a: [1", "bad.yaml:.*valid YAML"),
        (b"a: 1\nb: 2\na: 3", "bad.yaml:3: got \"key 'a' stands twice\""),
        (b"\xff\xfe\x00", "readable YAML"),
        (b"a: !!python/object:os.system x", "valid YAML"),
    ],
)
def test_bad_yaml(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_bytes(content)
    with pytest.raises(BadSpec, match=message):
        read_yaml(path)
    with pytest.raises(BadSpec, match="FileNotFoundError"):
        read_yaml(tmp_path / "missing.yaml")


def test_a_mapping_may_take_over_another(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text("a: &a {x: 1, y: 2}\nb: &b {<<: *a, y: 3}\nc: {<<: [*b, *a], z: 4}")
    read = read_yaml(path)
    assert (read["b"], read["c"]) == ({"x": 1, "y": 3}, {"x": 1, "y": 3, "z": 4})
    path.write_text("a: &a {x: 1}\nb: {<<: *a, y: 3, y: 4}")
    with pytest.raises(BadSpec, match="key 'y' stands twice"):
        read_yaml(path)


def test_derived_seeds_are_independent_and_fixed() -> None:
    assert derive_seed(0, "a") == derive_seed(0, "a")
    assert len({derive_seed(s, n) for s in range(5) for n in ("a", "b", ("a", "b"))}) == 15
    assert 0 <= derive_seed(2**62, "x") < 2**63


def test_errors_survive_pickling() -> None:
    import pickle

    error = BadSpec("here", "epoch", ["epochs", "memory"])
    again = pickle.loads(pickle.dumps(error))
    assert str(again) == str(error)
    assert isinstance(again, BadInput)
    assert "Did you mean 'epochs'?" in str(again)
