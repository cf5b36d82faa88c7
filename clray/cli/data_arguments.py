"""What the arguments of ``clray data build`` say."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from clray import registry
from clray.errors import BadInput, BadSpec
from clray.job import JobSpec
from clray.parsing import parse_overrides
from clray.spec import PIN, Component, TrialSpec
from clray.store import Folder
from clray.streams.stored import Stored

_OPTIONS = {"seed", "validation_fraction", "on_bad_row", "to"}


def benchmark_to_build(name: str, knobs: list[str]) -> Any:
    """The benchmark's Config; knobs are written as in ``clray run``, or without ``benchmark.``.

    Raises:
        BadInput: no such benchmark, or a knob that it refuses.
    """
    found = registry.find("benchmark", name)
    if issubclass(found.config, Stored):
        accepted = "one that is made of a dataset: this one is stored already"
        raise BadSpec("benchmark", name, accepted)
    prefixed = [_prefixed(knob, found.config.model_fields) for knob in knobs]
    given = parse_overrides(prefixed, {"benchmark": None}).get("benchmark", {})
    if not isinstance(given, dict):
        raise BadSpec("override: benchmark", given, "knobs: benchmark.KNOB=VALUE")
    if "name" in given:
        accepted = f"knobs alone: the benchmark is the argument {name!r} already"
        raise BadSpec("override: benchmark", given["name"], accepted)
    return registry.configure("benchmark", Component(name=name, **given))


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


def _prefixed(override: str, fields: Iterable[str]) -> str:
    """The override as ``benchmark.KNOB=VALUE``.

    Raises:
        BadSpec: it belongs to another section, or is an option.
    """
    key, equals, value = override.partition("=")
    first = key.partition(".")[0]
    if first == "benchmark" or not equals or not key:
        return override
    if first not in fields:
        if first in _OPTIONS:
            raise BadSpec("override", override, f"--{first.replace('_', '-')} {value}")
        if first in {*JobSpec.model_fields, *TrialSpec.model_fields}:
            accepted = "knobs of the benchmark alone: a stored stream serves all trials"
            raise BadSpec("override", override, accepted)
    return f"benchmark.{override}"
