"""What the arguments of ``clray data build`` say."""

from __future__ import annotations

from typing import Any

from clray import registry
from clray.errors import BadInput, BadSpec
from clray.parsing import parse_overrides
from clray.spec import PIN, Component, JobSpec, TrialSpec
from clray.store import Folder
from clray.streams.stored import Stored

_OPTIONS = {"seed", "validation_fraction", "on_bad_row", "to"}
_PREFIX = "benchmark."


def benchmark_to_build(name: str, knobs: list[str]) -> Any:
    """The benchmark's Config; knobs are written as in ``clray run``, or without ``benchmark.``.

    Raises:
        BadInput: no such benchmark, or a knob that it refuses.
    """
    given = parse_overrides([_full(knob) for knob in knobs], {"benchmark": None})
    found = given.get("benchmark", {})
    if "name" in found:
        accepted = f"knobs alone: the benchmark is the argument {name!r} already"
        raise BadSpec("override: benchmark", found["name"], accepted)
    config = registry.configure("benchmark", Component(name=name, **found))
    if isinstance(config, Stored):
        accepted = "one that is made of a dataset: this one is stored already"
        raise BadSpec("benchmark", name, accepted)
    return config


def check_build(to: str, seed: int, validation_fraction: float) -> None:
    """Refuse options that no build can use.

    Raises:
        BadInput: such ones.
    """
    if not 0 <= seed < 2**63:
        raise BadSpec("--seed", seed, "a whole number from 0 up, below 2^63")
    if not 0 < validation_fraction < 1:
        accepted = "a number above 0 and below 1"
        raise BadSpec("--validation-fraction", validation_fraction, accepted)
    if not to.strip() or PIN in to:
        raise BadInput("--to", to, "a folder, s3://… or gs://…, without a hash")
    Folder(to, "--to")


def _full(knob: str) -> str:
    """The override with the section that it belongs to.

    Raises:
        BadSpec: it belongs to another section, or is an option.
    """
    key, equals, value = knob.partition("=")
    if not equals or not key:
        raise BadSpec("override", knob, "KEY=VALUE, such as num_tasks=5")
    if key.startswith(_PREFIX):
        return knob
    first = key.partition(".")[0]
    if first in _OPTIONS:
        raise BadSpec("override", knob, f"--{first.replace('_', '-')} {value}")
    if first in {*JobSpec.model_fields, *TrialSpec.model_fields}:
        raise BadSpec("override", knob, "knobs of the benchmark: a build depends on no others")
    return f"{_PREFIX}{knob}"
