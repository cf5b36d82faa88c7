"""The README's examples are what they say: they are taken from it and used."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from clray.__main__ import invoke
from clray.job import JobSpec
from clray.parsing import parse
from clray.space import SearchSpace

README = Path(__file__).parent.parent / "README.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README.read_text(), flags=re.DOTALL)


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder as a user would have it, with the README's method, benchmark, space and job."""
    method, benchmark = blocks("python")
    _, space, job = blocks("yaml")
    for name, content in {
        "my_lab/l2.py": method,
        "my_lab/even_odd.py": benchmark,
        "search_spaces/my_lab.l2.yaml": space,
        "jobs/even-odd.yaml": job,
    }.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(content)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def test_the_method_and_the_benchmark_run(lab: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["method.strength=0.1", "protocol.epochs=2", "--here"]
    assert invoke(["run", "my_lab.l2", "my_lab.even_odd", *arguments]) == 0
    assert "0-2-4-6-8" in capsys.readouterr().out


def test_the_space_and_the_job_are_valid(lab: Path) -> None:
    search, space, job = (yaml.safe_load(text) for text in blocks("yaml"))
    assert parse(JobSpec, {**job, **search}, "job").search.early is not None
    assert set(parse(SearchSpace, space, "space").searched) == {"method.strength", "optimizer.lr"}
    assert list(parse(JobSpec, job, "job").methods) == ["finetune", "ewc", "l2"]


def test_the_two_commands_stand_in_it() -> None:
    commands = blocks("sh")
    assert commands[0] == "pip install . && clray sweep jobs/quickstart.yaml\n"
    assert commands[1] == "pip install '.[test]' && pytest\n"
    script = README.parent / ".ci" / "run"
    assert "pip install '.[test]' && pytest\n" in script.read_text()


def test_every_file_of_the_package_has_its_line() -> None:
    tree = blocks("text")[1]
    package = README.parent / "clray"
    for path in package.iterdir():
        if path.name not in ("__init__.py", "__pycache__", "py.typed", "_files"):
            assert path.name in tree, path.name
