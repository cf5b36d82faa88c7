"""Whatever is wrong with the input: one message that says where and what, exit code 2, nothing
written, no traceback."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

GOOD_JOB: dict[str, Any] = {"name": "a", "benchmark": "split-digits", "methods": ["finetune"]}

LIMITED = '''"""A method that needs to be told the task."""
from clray.learner import Learner, MethodConfig
class Config(MethodConfig): "No knobs."
class Limited(Learner):
    scenarios = frozenset({"task-incremental"})
    def observe(self, x, y, task): return {}
'''

RUN = ("run", "finetune", "split-digits", "--here")
SPLIT = ("benchmark.num_tasks=5", "benchmark.scenario=class-incremental", "--here")

COMMAND_LINES = {
    # What is typed wrong.
    "no such command": (["swep"], "Did you mean 'sweep'?"),
    "no such option": ([*RUN, "--tset"], "--test"),
    "no method": (["run"], "Missing argument 'METHOD'"),
    "no benchmark": (["run", "finetune"], "Missing argument 'BENCHMARK'"),
    "no job": (["sweep"], "Missing argument 'JOB'"),
    "too many arguments": (["list", "methods", "ewc", "er"], "unexpected extra argument"),
    # Names.
    "unknown method": (["run", "finetun", "split-digits"], "Did you mean 'finetune'?"),
    "unknown benchmark": (["run", "finetune", "split-digit"], "Did you mean 'split-digits'?"),
    "unknown model": ([*RUN, "model=lennet"], "Did you mean 'lenet'?"),
    "unknown variant": ([*RUN, "model=mlp/big"], "'big'"),
    "unknown job": (["sweep", "quickstrat"], "Did you mean 'quickstart'?"),
    "unknown dataset": (
        ["run", "finetune", "split", "benchmark.dataset=torchvision/CIFAR11", *SPLIT],
        "CIFAR11",
    ),
    "unknown source": (
        ["run", "finetune", "split", "benchmark.dataset=digitz", *SPLIT],
        "digitz",
    ),
    "missing dataset": (
        ["run", "finetune", "split", "benchmark.dataset=parquet:nowhere", *SPLIT],
        "nowhere",
    ),
    "path as a method": (["run", "../finetune", "split-digits"], "got '../finetune'"),
    "module that is none": (["run", "my_lab.nothing", "split-digits"], "my_lab.nothing"),
    "module that is no method": (["run", "json.decoder", "split-digits"], "class Config"),
    "unknown kind": (["list", "method"], "Did you mean 'methods'?"),
    "unknown method to list": (["list", "methods", "ewcc"], "Did you mean 'ewc'?"),
    "unknown space to list": (["list", "spaces", "ewcc"], "Did you mean 'ewc'?"),
    "unknown job to list": (["list", "jobs", "quickstrat"], "Did you mean 'quickstart'?"),
    # Overrides.
    "no value": ([*RUN, "protocol.epochs"], "KEY=VALUE"),
    "no key": ([*RUN, "=3"], "KEY=VALUE"),
    "empty part": ([*RUN, "protocol..epochs=3"], "KEY=VALUE"),
    "unknown section": ([*RUN, "protocl.epochs=3"], "Did you mean 'protocol'?"),
    "unknown key": ([*RUN, "protocol.epoch=3"], "Did you mean 'epochs'?"),
    "unknown knob": (["run", "ewc", "split-digits", "method.strenght=1"], "'strength'"),
    "knob of another": ([*RUN, "method.strength=1"], "'strength'"),
    "given twice": ([*RUN, "seed=1", "seed=2"], "seed only once"),
    "whole and part": ([*RUN, "model=mlp", "model.hidden=[8]"], "either as a whole"),
    "wrong type": ([*RUN, "protocol.epochs=many"], "protocol.epochs: got 'many'"),
    "fraction of a number": ([*RUN, "protocol.epochs=1.5"], "protocol.epochs: got 1.5"),
    "out of range": ([*RUN, "protocol.epochs=0"], "greater than or equal to 1"),
    "not finite": ([*RUN, "optimizer.lr=.inf"], "finite"),
    "too large a seed": ([*RUN, "seed=9223372036854775808"], "seed: got 9223372036854775808"),
    "no such choice": ([*RUN, "optimizer.name=sdg"], "Did you mean 'sgd'?"),
    "scenario of no name": ([*RUN, "benchmark.scenario=class"], "class-incremental"),
    "too many tasks": ([*RUN, "benchmark.num_tasks=11"], "benchmark.num_tasks: got 11"),
    "momentum without sgd": ([*RUN, "optimizer.name=adam", "optimizer.momentum=0.9"], "momentum"),
    "memory too small": (["run", "er", "split-digits", "--here"], "protocol.memory"),
    "method by override": ([*RUN, "method=ewc"], "the method is the argument 'finetune'"),
    "benchmark by override": ([*RUN, "benchmark.name=x"], "is the argument 'split-digits'"),
    "resources without Ray": ([*RUN, "resources.workers=2"], "--here"),
    "two splits": ([*RUN, "--test", "split=validation"], "test, as --test says"),
    "bad storing": ([*RUN, "store.checkpoint_epochs=0"], "store: checkpoint_epochs: got 0"),
    "bad results": ([*RUN, "--results", "s4://bucket"], "results: got 's4://bucket"),
    # Files.
    "no such job file": (["sweep", "jobs/none.yaml"], "job file: got 'jobs/none.yaml'"),
    "folder as a job": (["sweep", "../.."], "a YAML file, not a folder"),
    "no such results": (["report", "nowhere"], "no such folder"),
    "overridden job": (["sweep", "quickstart", "serch.trials=3"], "Did you mean 'search'?"),
    "overridden job's value": (["sweep", "quickstart", "search.trials=0"], "search.trials: got 0"),
}


@pytest.mark.parametrize("name", COMMAND_LINES)
def test_command_line(name: str, clray: Any, here: Path) -> None:
    arguments, piece = COMMAND_LINES[name]
    said = clray(*arguments)
    _assert_refused(said, piece)
    assert list(here.iterdir()) == []


JOBS: dict[str, tuple[Any, str]] = {
    "empty": ("", "a mapping of keys to values"),
    "text": ("hello", "got 'hello'"),
    "no YAML": ("name: [", "valid YAML"),
    "tab": ("name: a\n\tbenchmark: b", "job.yaml:2"),
    "binary": (b"\xff\xfe\x00", "job.yaml"),
    "key twice": ("name: a\nname: b", "stands twice"),
    "no name": ({**GOOD_JOB, "name": None}, "name"),
    "a path as a name": ({**GOOD_JOB, "name": "../a"}, "name: got '../a'"),
    "no benchmark": ({k: v for k, v in GOOD_JOB.items() if k != "benchmark"}, "required"),
    "no methods": ({**GOOD_JOB, "methods": {}}, "methods"),
    "unknown key": ({**GOOD_JOB, "serach": {}}, "Did you mean 'search'?"),
    "unknown deep key": ({**GOOD_JOB, "search": {"trails": 3}}, "Did you mean 'trials'?"),
    "unknown method": ({**GOOD_JOB, "methods": ["finetun"]}, "Did you mean 'finetune'?"),
    "unknown model": ({**GOOD_JOB, "model": "mpl"}, "Did you mean 'mlp'?"),
    "unknown space": ({**GOOD_JOB, "methods": {"ewc": {"space": "ecw"}}}, "Did you mean 'ewc'?"),
    "unknown sampler": ({**GOOD_JOB, "search": {"sampler": "tbe"}}, "Did you mean 'tpe'?"),
    "unknown objective": ({**GOOD_JOB, "search": {"objective": "accuracy"}}, "average_accuracy"),
    "grace too short": (
        {**GOOD_JOB, "search": {"scheduler": {"name": "asha", "grace": 0.1}}},
        "search.scheduler.grace: got 0.1",
    ),
    "no seeds": ({**GOOD_JOB, "final": {"seeds": 0}}, "final.seeds: got 0"),
    "too much": ({**GOOD_JOB, "resources": {"cpus_per_worker": 10**6}}, "resources"),
}

SPACES: dict[str, tuple[Any, str]] = {
    "range reversed": ({"range": [1, 0.1]}, "low < high"),
    "range of one": ({"range": [1]}, "optimizer.lr.range"),
    "log of zero": ({"range": [0, 1], "log": True}, "low > 0"),
    "log of a choice": ({"choice": [1, 2], "log": True}, "go with range"),
    "log and step": ({"range": [1, 2], "log": True, "step": 1}, "exclude each other"),
    "bare list": ([0.1, 0.2], "choice: [...] or range: [low, high]"),
    "both": ({"range": [0.1, 1], "choice": [1]}, "exactly one"),
    "empty choice": ({"choice": []}, "at least one"),
    "outside the knob": ({"choice": [0.1, -1]}, "greater than 0"),
    "of another type": ({"choice": ["fast"]}, "got 'fast'"),
}


@pytest.mark.parametrize("name", JOBS)
def test_job_file(name: str, clray: Any, here: Path) -> None:
    content, piece = JOBS[name]
    _write(here / "job.yaml", content)
    dry = [] if name == "too much" else ["--dry-run"]
    said = clray("sweep", "job.yaml", *dry)
    _assert_refused(said, piece)


@pytest.mark.parametrize("name", SPACES)
def test_search_space(name: str, clray: Any, here: Path) -> None:
    dimension, piece = SPACES[name]
    space = {"optimizer": {"lr": dimension}}
    job = {**GOOD_JOB, "methods": {"finetune": {"space": "space.yaml"}}}
    _write(here / "space.yaml", space)
    _write(here / "job.yaml", job)
    _assert_refused(clray("sweep", "job.yaml", "--dry-run"), piece)


def test_unknown_section_of_a_space(clray: Any, here: Path) -> None:
    space = {"optimiser": {"lr": 0.1}}
    _write(here / "job.yaml", {**GOOD_JOB, "methods": {"finetune": {"space": space}}})
    _assert_refused(clray("sweep", "job.yaml", "--dry-run"), "Did you mean 'optimizer'?")


def test_scenario_that_the_method_cannot_serve(clray: Any, here: Path) -> None:
    (here / "my_lab").mkdir()
    (here / "my_lab" / "limited.py").write_text(LIMITED)
    said = clray("run", "my_lab.limited", "split-digits", "--here")
    _assert_refused(said, "got 'class-incremental'; accepted: task-incremental")


DAMAGED: dict[str, tuple[str, Any, str]] = {
    "final cut short": ("jobs/a/final.json", '{"job": "a", "rows": [', "final.json"),
    "final no mapping": ("jobs/a/final.json", "[]", "a mapping"),
    "final without rows": ("jobs/a/final.json", {"job": "a"}, "required"),
    "trial log cut short": ("jobs/a/trials.jsonl", '{"label": "ew', "trials.jsonl"),
    "trial log of another kind": ("jobs/a/trials.jsonl", '{"label": 3}', "trials.jsonl:1"),
    "job file of another kind": ("jobs/a/job.yaml", "{}", "job.yaml"),
    "job file cut short": ("jobs/a/job.yaml", "name: [", "job.yaml"),
    "job folder without a job": ("jobs/a/trials.jsonl", "", "job.yaml"),
    "not of clray": ("jobs.txt", "hello", "nothing that clray wrote"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_results(name: str, clray: Any, here: Path) -> None:
    path, content, piece = DAMAGED[name]
    if path == "jobs/a/trials.jsonl" and content:
        _write(here / "results/jobs/a/job.yaml", GOOD_JOB)
    _write(here / "results" / path, content)
    _assert_refused(clray("report", "results"), piece)


@pytest.mark.parametrize(
    ("file", "content"),
    [("spec.json", "{"), ("records.jsonl", "[1]"), ("result.json", "[]"), ("timing.json", "3")],
)
def test_damaged_trial(file: str, content: str, clray: Any, here: Path) -> None:
    _write(here / "trial/spec.json", {"method": {"name": "er"}})
    _write(here / "trial/result.json", {"state": "completed", "metrics": {}})
    _write(here / "trial" / file, content)
    said = clray("report", "trial")
    _assert_refused(said, "trial")


def test_file_as_results(clray: Any, here: Path) -> None:
    _write(here / "results", "hello")
    _assert_refused(clray("report", "results"), "a folder, not a file")


@pytest.mark.parametrize(
    ("arguments", "piece"),
    [
        (["run", "finetun", "split-digits"], "Did you mean 'finetune'?"),
        (["sweep"], "Missing argument 'JOB'"),
        (["report", "nowhere"], "no such folder"),
    ],
)
def test_real_process(arguments: list[str], piece: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "clray", *arguments]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    _assert_refused((done.returncode, done.stdout, done.stderr), piece)
    assert "\x1b" not in done.stderr


def _write(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        path.write_text(content if isinstance(content, str) else json.dumps(content))


def _assert_refused(said: Any, piece: str) -> None:
    code, out, err = said
    assert code == 2, (code, out, err)
    assert err.startswith("clray: error: "), err
    assert piece in err, err
    assert "Traceback" not in err + out
    assert err.count("clray: error:") == 1
