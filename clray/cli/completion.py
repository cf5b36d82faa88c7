"""Names for the shell to complete, read from file names: nothing heavy is imported."""

from __future__ import annotations

from pathlib import Path

import clray

KINDS = (
    "methods",
    "benchmarks",
    "models",
    "spaces",
    "jobs",
    "selections",
    "samplers",
    "measures",
    "loggers",
    "sections",
)
"""What there is to list; sections are those of a job."""

_FOLDERS = {
    "methods": "methods",
    "benchmarks": "streams/benchmarks",
    "models": "models",
}


def component_names(kind: str) -> list[str]:
    """The files of a package that define a Config, by name."""
    folder = Path(clray.__file__).parent / _FOLDERS[kind]
    stems = [
        path.stem
        for path in sorted(folder.glob("*.py"))
        if "\nclass Config(" in path.read_text(encoding="utf-8")
    ]
    return [stem.replace("_", "-") if kind == "benchmarks" else stem for stem in stems]


def complete_method(incomplete: str) -> list[str]:
    """Methods that begin so."""
    return _beginning(component_names("methods"), incomplete)


def complete_benchmark(incomplete: str) -> list[str]:
    """Benchmarks that begin so."""
    return _beginning(component_names("benchmarks"), incomplete)


def complete_job(incomplete: str) -> list[str]:
    """Jobs that begin so, and files."""
    from clray import files

    files_here = [str(path) for path in Path().glob(f"{incomplete}*.yaml")] if incomplete else []
    return _beginning(files.job_names(), incomplete) + sorted(files_here)


def complete_kind(incomplete: str) -> list[str]:
    """What there is to list that begins so."""
    return _beginning(list(KINDS), incomplete)


def _beginning(names: list[str], incomplete: str) -> list[str]:
    return [name for name in names if name.startswith(incomplete)]
