"""The command line starts fast, and its global options."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

import clray as package
from clray.cli import completion


@pytest.mark.parametrize("arguments", [["--help"], ["sweep", "--help"], ["--version"], []])
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    code = (
        "import sys\n"
        "from clray.__main__ import invoke\n"
        f"assert invoke({arguments!r}) == 0\n"
        "heavy = {'torch', 'ray', 'optuna', 'sklearn', 'pyarrow'} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "clray" in done.stdout


def test_completion_imports_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "from clray.cli import completion as c\n"
        "assert 'ewc' in c.complete_method('e')\n"
        "assert 'split-digits' in c.complete_benchmark('split')\n"
        "c.complete_job('q')\n"
        "heavy = {'torch', 'ray', 'optuna'} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.parametrize(
    ("plural", "kind"), [("methods", "method"), ("benchmarks", "benchmark"), ("models", "model")]
)
def test_completion_knows_what_the_registry_knows(plural: str, kind: Any) -> None:
    from clray import registry

    assert completion.component_names(plural) == registry.names(kind)


def test_version(clray: Any) -> None:
    assert clray("--version") == (0, f"clray {package.__version__}\n", "")


def test_no_arguments_is_help(clray: Any) -> None:
    said = clray()
    assert said.code == 0
    assert "sweep" in said.out
    assert said.err == ""


def test_an_unexpected_exception_is_one_line(clray: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def explode(name: str) -> None:
        raise ZeroDivisionError("it was zero")

    monkeypatch.setattr("clray.files.load_job", explode)
    code, _, err = clray("sweep", "a")
    assert code == 1
    assert err == "clray: error: unexpected ZeroDivisionError: it was zero; --debug shows where\n"


@pytest.mark.parametrize("arguments", [["--debug", "sweep", "a"], ["sweep", "a", "--debug"]])
def test_debug_shows_the_traceback(arguments: list[str], clray: Any) -> None:
    code, _, err = clray(*arguments)
    assert code == 2
    assert err.startswith("clray: error: job: got 'a'")
    assert "Traceback" in err
    assert "UnknownName" in err
