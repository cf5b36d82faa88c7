"""Jobs that cannot be used: one message that says where, what was given and what is accepted, exit
code 2, nothing started, nothing written."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from clray.protocols import running
from tests.cli.conftest import Clray, Said
from tests.cli.refusing import JOB, Cases, assert_job_refused, assert_refused, contents, write

FIVE = {"benchmark": {"num_tasks": 5, "class_order": "natural"}}

METHOD = '''"""A method without a search space."""
from clray.learner import Learner, MethodConfig
class Config(MethodConfig): "No knobs."
class Method(Learner):
    def observe(self, x, y, task): return {}
'''


def select(name: str, **others: Any) -> dict[str, Any]:
    return {"protocol": {"selection": {"name": name, **others}}}


def search(**fields: Any) -> dict[str, Any]:
    return {"search": fields}


BENCHMARKS: Cases = {
    "no benchmark": (
        {"benchmark": None},
        "job.yaml: benchmark: got None; accepted: a benchmark, or several as benchmarks",
    ),
    "both": (
        {"benchmarks": {"x": "split-digits"}},
        "job.yaml: benchmarks: got 'x'; accepted: benchmark or benchmarks, not both",
    ),
    "label with a space": (
        {"benchmark": None, "benchmarks": {"a b": "split-digits"}},
        "benchmarks.a b: got 'a b'; accepted: letters, digits",
    ),
    "a list": ({"benchmark": None, "benchmarks": ["split-digits"]}, "accepted: a mapping of keys"),
    "selection of one": (
        {
            "benchmark": None,
            "benchmarks": {"x": {"benchmark": "split-digits", "protocol": {"selection": "oracle"}}},
        },
        "benchmarks.x: protocol: got 'selection'; accepted: fields of the protocol but this one",
    ),
    "unknown field of the protocol": (
        {
            "benchmark": None,
            "benchmarks": {"x": {"benchmark": "split-digits", "protocol": {"epoch": 1}}},
        },
        "benchmarks.x: protocol: got 'epoch'",
    ),
    "unknown key": (
        {"benchmark": None, "benchmarks": {"x": {"benchmark": "split-digits", "optimiser": {}}}},
        "benchmarks.x: got 'optimiser'; accepted: benchmark, model, optimizer, protocol. Did you",
    ),
    "one that a protocol cannot serve": (
        {
            "benchmark": None,
            "benchmarks": {"x": "split-digits", "y": "chunked-digits"},
            **select("first-k"),
        },
        "benchmarks.y: selection first-k: benchmark: got 'chunked-digits'",
    ),
    "an entry on none of them": (
        {"methods": {"er": {"benchmarks": ["split"]}}},
        "methods.er.benchmarks: got 'split'; accepted: none: the job has a single benchmark",
    ),
    "an entry on an unknown one": (
        {
            "benchmark": None,
            "benchmarks": {"split": "split-digits"},
            "methods": {"er": {"benchmarks": ["splat"]}},
        },
        "methods.er.benchmarks: got 'splat'; accepted: split",
    ),
    "one without an entry": (
        {
            "benchmark": None,
            "benchmarks": {"split": "split-digits", "other": "permuted-digits"},
            "methods": {"finetune": {"benchmarks": ["split"]}},
        },
        "benchmarks.other: got 'no method'; accepted: a benchmark of some entry",
    ),
    "an entry's model that does not suit": (
        {"methods": {"slda": {"model": "mlp"}}},
        "methods.slda: model mlp, for method slda: got 'an encoder that learns'",
    ),
    "method twice": (
        {"methods": ["ewc", "ewc"]},
        "job.yaml: methods: got 'ewc'; accepted: methods that differ, by labels that differ",
    ),
    "methods in a word": ({"methods": "ewc"}, "methods: got 'ewc'; accepted: a list of names, or"),
    "entry in a word": ({"methods": {"finetune": "ewc"}}, "methods.finetune: got 'ewc'; accepted:"),
    "label of a path": ({"methods": {"a/b": {"method": "ewc"}}}, "methods.a/b: got 'a/b'"),
    "unknown key of an entry": (
        {"methods": {"finetune": {"spcae": "ewc"}}},
        "methods.finetune: got 'spcae'; accepted: benchmarks, bound, enqueue, method, model, opt",
    ),
    "unknown knob of a method": (
        {"methods": {"ewc": {"method": {"name": "ewc", "strenght": 1}}}},
        "job a: methods.ewc: method ewc: got 'strenght'",
    ),
}

SEARCHES: Cases = {
    "objective misspelt": (
        search(objective="averge_accuracy"),
        "search.objective: got 'averge_accuracy'; accepted: a measure: average_accuracy, ",
    ),
    "objective twice": (
        search(objective=["growth", "growth"]),
        "job.yaml: search.objective: got 'growth'; accepted: objectives that differ",
    ),
    "five objectives": (
        search(objective=["forgetting", "growth", "bytes", "steps", "parameters"]),
        "accepted: at most 4 of them",
    ),
    "no objective": (search(objective=[]), "search.objective: got []; accepted: at least 1"),
    "direction": (
        search(objective={"metric": "growth", "direction": "minimise"}),
        "objective.direction: got 'minimise'; accepted: maximize, minimize. Did you mean 'minimi",
    ),
    "unknown key of an objective": (
        search(objective={"name": "growth"}),
        "search.objective: got 'name'; accepted: direction, metric",
    ),
    "constraint's relation": (
        search(constraints="growth < 0.2"),
        "search.constraints: got 'growth < 0.2'; accepted: MEASURE <= NUMBER or MEASURE >= NUMBER",
    ),
    "constraint's measure": (search(constraints="grwth <= 0.2"), "Did you mean 'growth'?"),
    "measure of a constraint in full": (
        search(constraints={"metric": "grwth", "relation": "<=", "bound": 1}),
        "Did you mean 'growth'?",
    ),
    "constraint on no number": (
        search(constraints="growth <= nan"),
        "search.constraints: got 'growth <= nan'; accepted: MEASURE <= NUMBER",
    ),
    "constraint without a number": (search(constraints="growth <= e"), "got 'growth <= e'"),
    "constraint without an end": (search(constraints="growth <= 1e999"), "a finite number"),
    "constraint twice": (
        search(constraints=["growth <= 0.2", "growth <= 0.3"]),
        "search.constraints: got 'growth <='; accepted: one bound on each side of a measure",
    ),
    "constraints that nothing keeps": (
        search(constraints=["growth <= 0.2", "growth >= 0.3"]),
        "got 'growth <= 0.2, growth >= 0.3'; accepted: bounds that some value can keep",
    ),
    "grid without an end": (
        search(sampler="grid"),
        "job a: methods.finetune: optimizer.lr: got [0.003, 0.3]; accepted: choice: [...], or a",
    ),
    "cmaes with several objectives": (
        search(sampler="cmaes", objective=["forgetting", "growth"]),
        "search.sampler: got 'cmaes'; accepted: tpe, gp, nsga2",
    ),
    "cmaes with constraints": (
        search(sampler="cmaes", constraints="growth <= 1"),
        "search.sampler: got 'cmaes'; accepted: tpe, gp, nsga2, random, qmc or grid: there are con",
    ),
    "sampler misspelt": (search(sampler="nsga"), "search.sampler: got 'nsga'; accepted: tpe, ra"),
    "too many trials": (search(trials=10**9), "search.trials: got 1000000000; accepted: less than"),
    "trials in words": (search(trials="many"), "search.trials: got 'many'; accepted: an integer"),
    "scheduler misspelt": (
        search(scheduler="ahsa"),
        "search.scheduler: got 'ahsa'; accepted: none, asha, median. Did you mean 'asha'?",
    ),
    "grace too short": (search(scheduler={"grace": 0.3}), "search.scheduler.grace: got 0.3"),
    "scheduler by step": (
        search(scheduler={"by": "step"}),
        "search.scheduler.by: got 'step'; accepted: task, epoch",
    ),
    "scheduler in a list": (search(scheduler=["asha"]), "search.scheduler: got ['asha']"),
    "scheduler with a front": (
        search(scheduler="asha", objective=["average_accuracy", "forgetting"]),
        "search.scheduler: got 'asha'; accepted: none with several objectives: it would stop",
    ),
    "hopeless by a front": (
        search(stop_hopeless=True, objective=["average_accuracy", "forgetting"]),
        "search.stop_hopeless: got True; accepted: false with several objectives",
    ),
    "scheduler for each task": (
        {**search(scheduler="median"), **select("seen-tasks")},
        "selection seen-tasks: search.scheduler: got 'median'; accepted: none: a trial learns one",
    ),
    "scheduler with one rung": (
        search(scheduler={"by": "epoch"}),
        "search.scheduler, by epoch: got 'asha'; accepted: none, or more than 1 of protocol.epochs",
    ),
    "scheduler with one task": (
        {**search(scheduler="asha"), **select("gtep")},
        "selection gtep: search.scheduler: got 'asha'; accepted: none, or a search over 2 tasks",
    ),
    "no seeds": (search(seeds=0), "search.seeds: got 0; accepted: greater than or equal to 1"),
    "endless seeds": (search(seeds=10**9), "search.seeds: got 1000000000; accepted: less than"),
    "seeds for each task": (
        {**search(seeds=2), **select("chf")},
        "selection chf: search.seeds: got 2; accepted: 1: each task forks one learner",
    ),
    "orders for each task": (
        {**search(orders=2), **select("adaptive")},
        "selection adaptive: search.orders: got 2; accepted: none: each task forks one learner",
    ),
    "no orders": (search(orders=0), "search.orders: got 0; accepted: how many orders (1 to 1000)"),
    "an order in a word": (search(orders="natural"), "search.orders: got 'natural'; accepted: how"),
    "order misspelt": (search(orders=["natral"]), "got 'natral'; accepted: natural. Did you mean"),
    "order of others": (
        {**FIVE, "final": {"orders": ["A"]}},
        "final.orders: got 'A'; accepted: five-datasets/0, five-datasets/1",
    ),
    "order that leaves tasks out": (
        {**FIVE, "final": {"orders": [[0, 1, 2]]}},
        "final.orders: got '0,1,2'; accepted: all tasks, by position from 0 to 4",
    ),
    "order beyond the end": ({"final": {"orders": [[0, 9]]}}, "final.orders: got 9; accepted: ind"),
    "order twice": ({"final": {"orders": ["natural", "natural"]}}, "final.orders: got 'natural'"),
    "the same order by two names": (
        search(orders=["natural", [0, 1]]),
        "search.orders: got 2; accepted: orders that differ",
    ),
    "more orders than there are": (
        {"final": {"orders": 9}},
        "final.orders: got 9; accepted: orders that differ in the tasks that are reported",
    ),
    "empty front": ({"final": {"front": 0}}, "final.front: got 0; accepted: greater than or equal"),
    "unknown key of final": ({"final": {"sedes": 1}}, "final: got 'sedes'; accepted: front, ord"),
    "warm start by itself": (
        search(warm_start="a"),
        "search.warm_start: got 'a'; accepted: other jobs than this one",
    ),
    "warm start by nobody": (
        search(warm_start="b"),
        "search.warm_start: got 'b'; accepted: finished jobs in results, of which there are none",
    ),
    "warm start twice": (
        search(warm_start=["b", "b"]),
        "search.warm_start: got 'b'; accepted: job",
    ),
    "warm start of random": (
        search(warm_start="b", sampler="random"),
        "search.sampler, with warm_start: got 'random'; accepted: auto, gp, tpe",
    ),
    "warm start for each task": (
        {**search(warm_start="b"), **select("seen-tasks")},
        "selection seen-tasks: search.warm_start: got 'b'; accepted: none: each task forks",
    ),
    "unknown logger": (
        {"loggers": "tensorbord"},
        "loggers: got 'tensorbord'; accepted: mlflow, tensorboard, wandb. Did you mean 'tensorboar",
    ),
    "logger twice": ({"loggers": ["tensorboard"] * 2}, "loggers: got 'tensorboard'; accepted: eac"),
    "logger's option": (
        {"loggers": [{"name": "tensorboard", "dir": "x"}]},
        "loggers: tensorboard: got 'dir'; accepted: nothing",
    ),
    "name of a path": ({"name": "a/b"}, "job.yaml: name: got 'a/b'; accepted: letters, digits, do"),
}


@pytest.fixture(autouse=True)
def _nothing_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(*arguments: Any) -> None:
        raise AssertionError("slots were started")

    monkeypatch.setattr(running, "Slots", start)


@pytest.mark.parametrize("name", BENCHMARKS)
def test_benchmarks_and_methods(name: str, clray: Clray, here: Path) -> None:
    assert_job_refused(clray, here, *BENCHMARKS[name])


@pytest.mark.parametrize("name", SEARCHES)
def test_search(name: str, clray: Clray, here: Path) -> None:
    assert_job_refused(clray, here, *SEARCHES[name])


def test_first_stage_by_a_method_without_training_knobs(clray: Clray, here: Path) -> None:
    write(here / "my_lab/method.py", METHOD)
    changes = select("two-stage", method="my_lab.method")
    piece = "method: got 'my_lab.method'; accepted: a method whose search space has training knobs"
    assert_job_refused(clray, here, changes, piece)


@pytest.mark.parametrize(
    ("override", "piece"),
    [
        ("protocol.selection=fist-k", "job a with overrides: protocol.selection: got 'fist-k'"),
        ("protocol.selection=[first-k,chff]", "protocol.selection.1: got 'chff'; accepted: adap"),
        ("protocol.selection.k=2", "protocol.selection: got {'k': 2}; accepted: a name: adaptive"),
        ("search.objective=[growth,growth]", "search.objective: got 'growth'; accepted: objectiv"),
        (
            "methods.ewcc.trials=3",
            "job a: methods.ewcc: method: got 'ewcc'; accepted: agem, apd, ",
        ),
    ],
)
def test_overrides(override: str, piece: str, clray: Clray, here: Path) -> None:
    write(here / "job.yaml", JOB)
    before = contents(here)
    assert_refused(clray("sweep", "job.yaml", override), piece)
    assert contents(here) == before


def test_fewer_trials_than_points_are_fine(clray: Clray, here: Path) -> None:
    points = [{"optimizer": {"lr": rate}} for rate in (0.01, 0.02, 0.03)]
    write(here / "job.yaml", {**JOB, "methods": {"finetune": {"enqueue": points, "trials": 2}}})
    code, out, err = clray("sweep", "job.yaml", "--dry-run")
    assert (code, err) == (0, "")
    assert "2 search trials" in " ".join(out.split())


def test_in_a_process_of_its_own(tmp_path: Path) -> None:
    write(tmp_path / "job.yaml", {**JOB, "protocol": {"selection": "chff"}})
    command = [sys.executable, "-m", "clray", "sweep", "job.yaml"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    said = Said(done.returncode, done.stdout, done.stderr)
    assert_refused(said, "protocol.selection: got 'chff'", "Did you mean 'chf'?")
    assert [path.name for path in tmp_path.iterdir()] == ["job.yaml"]
