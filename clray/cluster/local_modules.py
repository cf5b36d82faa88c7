"""Modules of yours that a job names, and what they import from where they lie."""

from __future__ import annotations

import ast
import importlib.util
import sys
import sysconfig
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from clray.errors import UnknownName

_INSTALLED = [Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "purelib", "platlib")]


@dataclass(frozen=True)
class LocalModules:
    """Top-level modules and packages that are not installed.

    Attributes:
        names: sorted.
        paths: a file or a folder for each.
    """

    names: tuple[str, ...]
    paths: tuple[Path, ...]


def local_modules(components: Iterable[str]) -> LocalModules:
    """What components of one's own need.

    Args:
        components: names as a spec writes them; those with a dot are modules.

    Raises:
        UnknownName: there is no such module.
    """
    found: dict[str, Path] = {}
    wanted = []
    for name in sorted(components):
        module = name.partition("/")[0]
        if "." in module:
            top = module.partition(".")[0]
            if _find(top) is None and top not in _frozen():
                raise UnknownName("module", module, "one that can be imported from here")
            wanted.append(top)
    while wanted:
        top = wanted.pop()
        path = _find(top)
        if top in found or path is None or _is_installed(path):
            continue
        found[top] = path
        wanted += _imports(path)
    names = tuple(sorted(found))
    return LocalModules(names, tuple(found[name] for name in names))


def _find(top: str) -> Path | None:
    """The file or folder of a top-level module, from here or installed."""
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    spec = importlib.util.find_spec(top) if top.isidentifier() else None
    if spec is None:
        return None
    if spec.submodule_search_locations:
        return Path(next(iter(spec.submodule_search_locations))).resolve()
    return Path(spec.origin).resolve() if spec.origin and spec.has_location else None


def _frozen() -> frozenset[str]:
    return frozenset(sys.builtin_module_names) | sys.stdlib_module_names


def _is_installed(path: Path) -> bool:
    """Whether a module comes with Python, with a package that pip installed, or with clray."""
    if path.name == "clray" or "site-packages" in path.parts:
        return True
    return any(path.is_relative_to(folder) for folder in _INSTALLED)


def _imports(path: Path) -> set[str]:
    """Top-level names that the sources of a module import."""
    names: set[str] = set()
    for source in [path] if path.is_file() else sorted(path.rglob("*.py")):
        try:
            tree = ast.parse(source.read_bytes())
        except (SyntaxError, ValueError):
            continue  # whoever imports it is told
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names.add(node.module.partition(".")[0])
    return names - _frozen()
