"""Search spaces and starting points that cannot be used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from clray.protocols import running
from tests.cli.conftest import Clray
from tests.cli.refusing import Cases, assert_job_refused


def space(**sections: Any) -> dict[str, Any]:
    return {"methods": {"finetune": {"space": sections}}}


def rate(dimension: Any) -> dict[str, Any]:
    return space(optimizer={"lr": dimension})


def enqueue(point: Any, **sections: Any) -> dict[str, Any]:
    own = {"space": sections} if sections else {}
    return {"methods": {"finetune": {"enqueue": [point], **own}}}


SPACES: Cases = {
    "range of three": (rate({"range": [1, 2, 3]}), "space.optimizer.lr.range: got [1, 2, 3]"),
    "range of text": (rate({"range": ["a", 2]}), "lr.range.0: got 'a'; accepted: a number"),
    "range of none": (
        rate({"range": None}),
        "got {'range': None}; accepted: range: [low, high], or choice: [...]",
    ),
    "range in words": (rate("0.1 to 1"), "optimizer.lr: got '0.1 to 1'; accepted: a number"),
    "step too wide": (
        rate({"range": [1, 2], "step": 5}),
        "got {'range': [1, 2], 'step': 5}; accepted: a step that leads from low to high",
    ),
    "step beside the end": (rate({"range": [0.1, 1], "step": 0.4}), "a step that leads from low"),
    "key misspelt": (
        rate({"rnage": [1, 2]}),
        "space.optimizer.lr: got 'rnage'; accepted: choice, fixed, log, range, step. Did you mean",
    ),
    "nothing": (rate({}), "accepted: exactly one of range, choice, or a bare value is needed"),
    "choice of one": (rate({"choice": 3}), "lr.choice: got 3; accepted: a list"),
    "choice twice": (rate({"choice": [0.1, 0.1]}), "accepted: choice needs values that differ"),
    "choice of lists": (
        rate({"choice": [[1, 2]]}),
        "lr.choice.0: got [1, 2]; accepted: true or false, an integer, a number or text",
    ),
    "choice of another type": (
        rate({"choice": ["fast"]}),
        "methods.finetune: space: optimizer.lr: got 'fast'; accepted: a number",
    ),
    "fraction of an integer": (
        space(protocol={"batch_size": {"range": [8.5, 64]}}),
        "job a: methods.finetune: protocol.batch_size: got [8.5, 64.0]; accepted: whole numbers",
    ),
    "range of names": (
        space(optimizer={"name": {"range": [0, 1]}}),
        "optimizer.name: got [0.0, 1.0]; accepted: choice: [...]: this knob is no number",
    ),
    "unknown knob": (
        space(optimizer={"lrr": {"range": [1, 2]}}),
        "job a: methods.finetune: optimizer knob: got 'lrr'; accepted: clip_norm, lr, momentum",
    ),
    "knob of the benchmark": (
        space(benchmark={"train_fraction": {"range": [0.2, 0.5]}}),
        "space: got 'benchmark.train_fraction'; accepted: knobs of method, model, optimizer and pr",
    ),
    "values that exclude each other": (
        space(
            optimizer={"name": {"choice": ["sgd", "adam"]}, "momentum": {"range": [0, 0.9]}},
        ),
        "job a: methods.finetune: optimizer.momentum: got 0.9; accepted: 0, except with name: sgd",
    ),
    "space of another method": (
        {"methods": {"finetune": {"space": "ewc"}}},
        "methods.finetune: method knob: got 'strength'; accepted: nothing",
    ),
    "a list": (
        {"methods": {"finetune": {"space": ["ewc"]}}},
        "methods.finetune.space: got ['ewc']; accepted: text or a mapping of keys to values",
    ),
    "point outside": (
        enqueue({"optimizer": {"lr": 7}}),
        "methods.finetune: enqueue: optimizer.lr: got 7; accepted: a number in [0.003, 0.3], the",
    ),
    "point of no knob": (
        enqueue({"optimizer": {"lrr": 0.1}}),
        "methods.finetune: enqueue: got 'optimizer.lrr'; accepted: optimizer.lr. Did you mean",
    ),
    "point of a fixed knob": (
        enqueue({"optimizer": {"momentum": 0.9}}, optimizer={"momentum": 0.5}),
        "enqueue: optimizer.momentum: got 0.9; accepted: 0.5: this knob is not searched",
    ),
    "point between steps": (
        enqueue({"optimizer": {"lr": 0.15}}, optimizer={"lr": {"range": [0.1, 0.5], "step": 0.1}}),
        "enqueue: optimizer.lr: got 0.15; accepted: a number from 0.1 to 0.5 in steps of 0.1",
    ),
    "point without values": (enqueue({}), "enqueue: got {}; accepted: values of one knob or more"),
    "point by dotted path": (enqueue({"optimizer.lr": 0.1}), "enqueue.0.optimizer.lr: got 0.1; ac"),
}


@pytest.fixture(autouse=True)
def _nothing_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(*arguments: Any) -> None:
        raise AssertionError("slots were started")

    monkeypatch.setattr(running, "Slots", start)


@pytest.mark.parametrize("name", SPACES)
def test_space(name: str, clray: Clray, here: Path) -> None:
    assert_job_refused(clray, here, *SPACES[name])
