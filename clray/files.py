"""Job and search-space files, by path or by name: yours first, then those that come with clray."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel

from clray.errors import BadSpec, UnknownName
from clray.job import JobSpec
from clray.parsing import parse, read_yaml
from clray.space import SearchSpace

Model = TypeVar("Model", bound=BaseModel)

_PACKAGE = Path(__file__).resolve().parent


def _folders(kind: str) -> list[Path]:
    """Where files of a kind may lie; an installed clray carries its own, a checkout has them
    beside the package."""
    places = [Path(kind), _PACKAGE / "_files" / kind, _PACKAGE.parent / kind]
    return [place for place in places if place.is_dir()]


def _names(kind: str) -> list[str]:
    return sorted({path.stem for place in _folders(kind) for path in place.glob("*.yaml")})


def _path(kind: str, singular: str, name: str) -> Path:
    path = Path(name)
    if path.suffix in (".yaml", ".yml") or len(path.parts) > 1:
        if path.is_dir():
            raise BadSpec(singular, name, "a YAML file, not a folder")
        if path.is_file():
            return path
        known = [str(found) for found in path.parent.glob("*.yaml")] if path.parent.is_dir() else []
        raise UnknownName(f"{singular} file", name, known or "the path of a YAML file")
    for place in _folders(kind):
        if (place / f"{name}.yaml").is_file():
            return place / f"{name}.yaml"
    raise UnknownName(singular, name, _names(kind))


def _load(model: type[Model], path: Path) -> Model:
    data = read_yaml(path)
    if not isinstance(data, dict):
        raise BadSpec(str(path), data, "a mapping of keys to values")
    return parse(model, data, str(path))


def job_names() -> list[str]:
    """The names of the jobs at hand."""
    return _names("jobs")


def space_names() -> list[str]:
    """The names of the search spaces at hand."""
    return _names("search_spaces")


def job_path(name: str) -> Path:
    """The file of a job, given by path or name.

    Raises:
        UnknownName: there is none.
    """
    return _path("jobs", "job", name)


def space_path(name: str) -> Path:
    """The file of a search space, given by path or name.

    Raises:
        UnknownName: there is none.
    """
    return _path("search_spaces", "search space", name)


def load_job(name: str) -> JobSpec:
    """The job in a file, given by path or name.

    Raises:
        UnknownName, BadSpec: there is none, or it is not a job.
    """
    return _load(JobSpec, job_path(name))


def load_space(name: str) -> SearchSpace:
    """The search space in a file, given by path or name.

    Raises:
        UnknownName, BadSpec: there is none, or it is not a search space.
    """
    return _load(SearchSpace, space_path(name))
