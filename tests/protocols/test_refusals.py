"""What a selection protocol refuses before anything starts, and what it says then."""

from __future__ import annotations

import json
from typing import Any

import pytest

from clray import protocols
from clray.errors import BadData, BadInput, BadSpec
from clray.protocols.known import known_trials
from clray.store import Folder
from tests.protocols.conftest import RunJob, job_of

EWC: dict[str, Any] = {"methods": {"ewc": {}}}
TASKS_GIVEN = {"benchmark": {"name": "split-digits", "scenario": "task-incremental"}}
OTHER = {"name": "split-digits", "num_tasks": 1, "class_order": [8, 9]}
"""A benchmark of other classes than the small job's."""


def select(name: str, **others: Any) -> dict[str, Any]:
    return {"selection": {"name": name, **others}}


SELECTIONS: dict[str, tuple[dict[str, Any], str]] = {
    "misspelt": (
        {"selection": "chff"},
        "job: protocol.selection: got 'chff'; accepted: adaptive, chf, end-of-training, "
        "first-k, gtep, oracle, seen-tasks, two-stage. Did you mean 'chf'?",
    ),
    "a measure that is not taken": (
        {"search": {"objective": ["average_accuracy", "depth"]}},
        "search.objective: got 'depth'; accepted: a measure of where tasks end, or protocol.eval",
    ),
    "rungs of epochs where updates count": (
        {
            "search": {"scheduler": {"name": "asha", "by": "epoch"}},
            "protocol": {"updates": 5, "memory": 9},
        },
        "by epoch: got 'asha'; accepted: none, or protocol.epochs in place of protocol.updates",
    ),
    "second misspelt": (
        {"selection": ["oracle", "first_k"]},
        "protocol.selection.1: got 'first_k'; accepted: adaptive, chf,",
    ),
    "without a name": (
        {"selection": {"k": 2}},
        "protocol.selection: got {'k': 2}; accepted: a name: adaptive, chf, end-of-training",
    ),
    "none": ({"selection": []}, "protocol.selection: got []; accepted: at least 1"),
    "unknown knob": (
        select("seen-tasks", dta="current"),
        "protocol.selection: got 'dta'; accepted: data, held_out, label, name. Did you mean 'data'",
    ),
    "knob of another": (
        select("first-k", held_out=0.5),
        "protocol.selection: got 'held_out'; accepted: k, label, name, reuse",
    ),
    "k: 0": (select("first-k", k=0), "protocol.selection.k: got 0; accepted: greater than or"),
    "k: two": (select("first-k", k="two"), "protocol.selection.k: got 'two'; accepted: an integer"),
    "k too large": (
        select("first-k", k=4),
        "selection first-k: k: got 4; accepted: at most 3, so that tasks are left to report",
    ),
    "stability by one task": (
        {**EWC, **select("first-k", k=1)},
        "selection first-k: k: got 1; accepted: 2 or more: ewc searches method.strength",
    ),
    "all held out": (
        select("seen-tasks", data="memory", held_out=1),
        "protocol.selection.held_out: got 1; accepted: less than 1",
    ),
    "unknown data": (
        select("adaptive", data="memry"),
        "protocol.selection.data: got 'memry'; accepted: validation, current, memory. Did you",
    ),
    "memory that there is not": (
        {**EWC, **select("seen-tasks", data="memory")},
        "selection seen-tasks: data: memory, for method: got 'ewc'; accepted: methods that",
    ),
    "nothing important": (
        select("adaptive", importance=0),
        "protocol.selection.importance: got 0; accepted: greater than 0",
    ),
    "rate below 0": (
        select("chf", rates=[0.1, -1]),
        "protocol.selection.rates.1: got -1; accepted: greater than 0",
    ),
    "no rates": (select("chf", rates=[]), "protocol.selection.rates: got []; accepted: at least 1"),
    "a rate for a list": (select("chf", rates=0.1), "rates: got 0.1; accepted: a list"),
    "rate twice": (select("chf", rates=[0.1, 0.1]), "accepted: rates that differ"),
    "decay that grows": (
        select("chf", decay=2),
        "protocol.selection: got {'name': 'chf', 'decay': 2}; accepted: a decay below 1",
    ),
    "start of no knob": (
        {**EWC, **select("chf", start={"method.strenght": 10})},
        "selection chf: start: got 'method.strenght'; accepted: method.strength. Did you mean",
    ),
    "start of the rate": (
        {**EWC, **select("chf", start={"optimizer.lr": 0.1})},
        "selection chf: start: got 'optimizer.lr'; accepted: method.strength",
    ),
    "start where nothing decays": (
        {"methods": {"finetune": {}}, **select("chf", start={"method.strength": 1})},
        "start: got 'method.strength'; accepted: nothing: no stability knob is searched",
    ),
    "start in words": (
        {**EWC, **select("chf", start={"method.strength": "much"})},
        "selection chf: start: method.strength: got 'much'; accepted: a number, which can decay",
    ),
    "start of none": (
        {**EWC, **select("chf", start={"method.strength": None})},
        "start.method.strength: got None; accepted: true or false, an integer, a number or text",
    ),
    "start below the range": (
        {**EWC, **select("chf", start={"method.strength": 0.5})},
        "start: method.strength: got 0.5; accepted: 1 or more: the searched range ends there",
    ),
    "unknown yardstick": (
        select("chf", method="finetun"),
        "selection chf: method: method: got 'finetun'; accepted: agem, apd, bic, ",
    ),
    "network that is not handed over": (
        {**TASKS_GIVEN, "methods": {"exssnet": {}}, **select("chf")},
        "selection chf: methods.exssnet: got 'exssnet'; accepted: methods whose network",
    ),
    "knob of the yardstick": (
        select("chf", method={"name": "ewc", "strenght": 1}),
        "selection chf: method: method ewc: got 'strenght'",
    ),
    "yardstick without memory": (
        {**EWC, **select("chf", method="er"), "protocol": {"memory": 0}},
        "selection chf: method: protocol.memory, for method er: got 0",
    ),
    "shared classes": (
        select("gtep", tune_on={**OTHER, "class_order": [8, 3]}),
        "selection gtep: tune_on: classes: got 'class 3 of digits'; accepted: a benchmark that",
    ),
    "other number of tasks": (
        select("gtep", tune_on=OTHER),
        "selection gtep: tune_on: number of tasks: got 1; accepted: 4, as on the job's benchmark",
    ),
    "other scenario": (
        select(
            "gtep",
            tune_on={
                **OTHER,
                "num_tasks": 1,
                "scenario": "task-incremental",
            },
        ),
        "tune_on: scenario: got 'task-incremental'; accepted: class-incremental, as on",
    ),
    "unknown half": (
        select("gtep", tune_on="first-hlf"),
        "selection gtep: tune_on: got 'first-hlf'; accepted: chunked, chunked-digits, first-half",
    ),
    "unknown benchmark to tune on": (
        select("gtep", tune_on="split-digit"),
        "Did you mean 'split-digits'?",
    ),
    "bad benchmark to tune on": (
        select("gtep", tune_on={"name": "split-digits", "num_tasks": 3}),
        "selection gtep: tune_on: benchmark.num_tasks: got 3; accepted: a divisor",
    ),
    "one to compare": (select("gtep", compare=1), "protocol.selection.compare: got 1"),
    "half of one task": (
        {"benchmark": OTHER, **select("gtep")},
        "selection gtep: tune_on: got 'first-half'; accepted: a benchmark of 2 tasks or more",
    ),
    "classes drawn by the trial": (
        {"benchmark": {"name": "split-digits", "class_order": "trial-seed"}, **select("gtep")},
        "benchmark.class_order: got 'trial-seed'; accepted: an order that all seeds share",
    ),
    "part of what is graded together": (
        {"benchmark": "chunked-digits", **select("first-k", k=2)},
        "selection first-k: benchmark: got 'chunked-digits'; accepted: a benchmark whose tasks",
    ),
    "half of what is graded together": (
        {"benchmark": "chunked-digits", **select("gtep")},
        "selection gtep: benchmark:",
    ),
    "task of what is graded together": (
        {"benchmark": "chunked-digits", **select("seen-tasks")},
        "selection seen-tasks: benchmark: got 'chunked-digits'",
    ),
    "two stages within two": (
        select("two-stage", then="two-stage"),
        "protocol.selection.then: got 'two-stage'; accepted: adaptive, chf, end-of-training, ",
    ),
    "unknown second stage": (
        select("two-stage", then={"name": "orcale"}),
        "protocol.selection.then: got 'orcale'; accepted: adaptive, chf",
    ),
    "unknown first stage": (
        select("two-stage", method="finetun"),
        "selection two-stage: method: method: got 'finetun'; accepted: agem, apd, bic, ",
    ),
    "first stage too long": (
        select("two-stage", k=5),
        "selection two-stage: k: got 5; accepted: a",
    ),
    "the same twice": (
        {"selection": ["first-k", {"name": "first-k", "k": 2}]},
        "protocol.selection: got 'first-k'; accepted: protocols that differ in name or label",
    ),
    "label of another": (
        {"selection": ["oracle", {"name": "first-k", "label": "oracle"}]},
        "protocol.selection: got 'oracle'; accepted: protocols that differ",
    ),
    "label with a slash": (
        select("oracle", label="a/b"),
        "protocol.selection.label: got 'a/b'; accepted: letters, digits, dots, dashes",
    ),
}


@pytest.mark.parametrize("name", SELECTIONS)
def test_a_protocol_that_cannot_be_served_is_refused(name: str) -> None:
    changes, piece = SELECTIONS[name]
    with pytest.raises(BadInput) as caught:
        protocols.plan(job_of(**changes))
    assert caught.value.exit_code == 2
    assert piece in str(caught.value)
    assert "; accepted: " in str(caught.value)


def test_the_benchmark_that_cannot_be_served_is_named() -> None:
    several = {"x": {"benchmark": "split-digits"}, "y": {"benchmark": "chunked-digits"}}
    with pytest.raises(BadSpec, match=r"^benchmarks\.y: selection first-k: benchmark: got 'chunk"):
        protocols.plan(job_of(benchmark=None, benchmarks=several, selection="first-k"))


def test_no_trial_is_hopeless_by_one_of_several_objectives() -> None:
    front = ["average_accuracy", "forgetting"]
    assert job_of(search={"seeds": 2}).search.stop_hopeless
    assert not job_of(search={"seeds": 2, "objective": front}).search.stop_hopeless
    with pytest.raises(BadSpec, match=r"search\.stop_hopeless: got True; accepted: false with sev"):
        job_of(search={"objective": front, "stop_hopeless": True})


def test_orders_that_agree_in_what_is_learned_are_run_once() -> None:
    from clray.protocols.boards import boards_of
    from clray.protocols.views import repeats_of, views_of

    orders = ["natural", [0, 1, 3, 2], [1, 0, 2, 3]]
    job = job_of(search={"orders": orders}, selection={"name": "first-k", "k": 2})
    [board] = boards_of(protocols.plan(job))
    assert [one.tasks for one in repeats_of(board, views_of(board)[0])] == [(0, 1), (1, 0)]


@pytest.mark.parametrize(
    ("changes", "piece"),
    [
        ({"search": {"objective": "forgetting"}}, "objectives of small: got ['average_accuracy']"),
        (
            select("oracle"),
            "search.warm_start: selection of small: got 'end-of-training'; accepted",
        ),
        (
            {"selection": ["end-of-training", "oracle"]},
            "accepted: a single selection protocol, and",
        ),
        (
            {"methods": {"er.other": {}}},
            "search.warm_start: got 'small'; accepted: a job with completed trials of er.other",
        ),
        ({"search": {"warm_start": "smal"}}, "search.warm_start: got 'smal'; accepted: small. Did"),
    ],
)
def test_a_warm_start_by_trials_of_another_kind_is_refused(
    changes: dict[str, Any], piece: str, run_job: RunJob, job_files: Folder
) -> None:
    run_job(methods={"er": {"trials": 1}}, final={"seeds": 1})
    search = {"warm_start": "small", **changes.get("search", {})}
    warm = job_of(**{**changes, "name": "warm", "search": search})
    results = job_files.uri.rpartition("/jobs/")[0]
    with pytest.raises(BadSpec) as caught:
        known_trials(warm, results)
    assert piece in str(caught.value)
    again = job_of(name="warm", search={"warm_start": "small"})
    assert len(known_trials(again, results)["er"]) == 1


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("final.json", "{"),
        ("final.json", "[]"),
        ("final.json", json.dumps({"boards": [{}]})),
        ("final.json", json.dumps({"boards": [{"objectives": ["accuracy"]}]})),
        ("trials.jsonl", "[1]"),
        ("trials.jsonl", json.dumps({"label": "er"})),
        ("trials.jsonl", None),
    ],
)
def test_a_warm_start_by_damaged_files_is_refused(
    file: str, content: str | None, tmp_path: Any
) -> None:
    folder = Folder(str(tmp_path / "jobs" / "small"))
    folder.write_json("final.json", {"boards": []})
    folder.write_lines("trials.jsonl", [])
    if content is None:
        folder.delete(file)
    else:
        folder.write(file, content.encode())
    with pytest.raises(BadData, match=f"small/{file}: got "):
        known_trials(job_of(name="warm", search={"warm_start": "small"}), str(tmp_path))
