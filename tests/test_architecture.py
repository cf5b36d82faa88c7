"""Rules that the import contracts in pyproject.toml cannot express."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import clray
from clray import registry

PACKAGE = Path(clray.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
FRAME = [path for path in FILES if path.parent == PACKAGE]

ALLOWED = {
    "ray.tune": {"tune_search.py", "searcher.py", "tune_trial.py"},
    "optuna": {"study.py", "samplers.py", "study_log.py", "importance.py"},
    "ray.train": {"ray_train.py"},
    "ray.data": {"ray_rounds.py", "spreading.py", "features.py"},
}


def imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("module", ALLOWED)
def test_one_place_for_each_part_of_ray(module: str) -> None:
    users = {
        path.name
        for path in FILES
        if any(name == module or name.startswith(f"{module}.") for name in imports(path))
    }
    assert users <= ALLOWED[module]


@pytest.mark.parametrize("path", FRAME, ids=lambda path: path.name)
def test_the_frame_never_names_a_method(path: Path) -> None:
    names = set(registry.names("method"))
    tree = ast.parse(path.read_text())
    docstrings = {
        node.body[0].value
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and node not in docstrings:
            assert node.value not in names, f"{path.name}:{node.lineno} names {node.value}"


def test_no_file_is_called_something_that_says_nothing() -> None:
    nothing = {"utils", "common", "core", "base", "helpers", "manager"}
    assert not {path.stem for path in FILES} & nothing
