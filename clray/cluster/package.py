"""What a cluster needs of this machine to run a job: clray itself, the job, and your own modules.

What is not needed never goes along: of your files only the modules that the job names, and what
they import from the same place. Results, data, virtual environments and secrets stay here.
"""

from __future__ import annotations

import fnmatch
import hashlib
import io
import subprocess
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

import clray
from clray import files
from clray.cluster.local_modules import local_modules
from clray.errors import BadSpec
from clray.job import JobSpec
from clray.space import SearchSpace

JOB = "job.yaml"
LIMIT = 25 * 1000**2
"""Bytes that a package may have before it is packed. Data do not travel this way."""
MOST_OFFENDERS = 5
TEXT = {".py", ".pyi", ".yaml", ".yml", ".json", ".toml", ".txt", ".cfg", ".ini", ".md"}
"""What goes along of a package of modules: sources and small settings, never data."""
SECRETS = (
    *(".env*", "*.env", ".netrc", "_netrc", ".pgpass", ".git-credentials", ".npmrc", ".pypirc"),
    *("*.pem", "*.key", "*.p12", "*.pfx", "*.jks", "*.kdbx", "id_rsa*", "id_ed25519*", "id_ecdsa*"),
    *("*credential*", "*secret*", "auth_token*", "*service?account*", "kubeconfig*"),
)
"""File names that look like secrets."""
LEFT_OUT = {"results", "data", "datasets", "wandb", "mlruns", "node_modules", "site-packages"}
"""Folders that are never looked into."""
_CLRAY = Path(clray.__file__).resolve().parent


@dataclass(frozen=True)
class Package:
    """What is sent.

    Attributes:
        files: content by path.
        modules: the top-level modules of yours among them.
    """

    files: Mapping[str, bytes]
    modules: tuple[str, ...]

    @property
    def size(self) -> int:
        """Bytes, not packed."""
        return sum(map(len, self.files.values()))

    @property
    def digest(self) -> str:
        """SHA-256 over paths and contents, hexadecimal."""
        digest = hashlib.sha256()
        for path, content in sorted(self.files.items()):
            digest.update(f"{path}\0{len(content)}\0".encode())
            digest.update(content)
        return digest.hexdigest()

    def zipped(self) -> bytes:
        """As a zip: the same files give the same bytes."""
        target = io.BytesIO()
        with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
            for path, content in sorted(self.files.items()):
                entry = zipfile.ZipInfo(path, (1980, 1, 1, 0, 0, 0))
                entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
                archive.writestr(entry, content)
        return target.getvalue()


def pack(job: JobSpec, include: Iterable[str] = (), limit: int = LIMIT) -> Package:
    """Gather what a job needs.

    Args:
        job: as written, with overrides.
        include: files and folders of yours to take along, relative to where you stand.
        limit: bytes, not packed.

    Raises:
        BadSpec: a file to include that is missing, elsewhere or a secret; too much.
        UnknownName: a module or a search space that there is not.
    """
    found = dict(own().files)
    named = local_modules(_component_names(job))
    for path in named.paths:
        found |= _below(path, path.parent)
    spaces, job = _spaces(job)
    found |= spaces
    for given in include:
        found |= _included(given)
    plain = {"model": job.model.name, **job.model_dump(mode="json", exclude_unset=True)}
    found[JOB] = yaml.safe_dump(plain, sort_keys=False).encode()
    package = Package(found, named.names)
    if package.size > limit:
        raise BadSpec("what would be sent", _offenders(found), f"at most {limit / 1e6:.0f} MB")
    return package


def own() -> Package:
    """clray alone."""
    return Package({f"clray/{path}": content for path, content in _own_files()}, ())


def _own_files() -> Iterator[tuple[str, bytes]]:
    """clray as it is here, installed or a checkout, with its jobs and search spaces."""
    for path in sorted(_CLRAY.rglob("*")):
        inside = path.relative_to(_CLRAY)
        if path.is_file() and "__pycache__" not in inside.parts:
            yield inside.as_posix(), path.read_bytes()
    if not (_CLRAY / "_files").is_dir():
        for kind in ("jobs", "search_spaces"):
            for path in sorted((_CLRAY.parent / kind).glob("*.yaml")):
                yield f"_files/{kind}/{path.name}", path.read_bytes()


def _component_names(job: JobSpec) -> set[str]:
    """Names of methods, benchmarks, models and loggers."""
    components: list[Any] = [job.benchmark, job.model, *job.loggers]
    components += [part for entry in job.methods.values() for part in (entry.method, entry.model)]
    components += [part for arena in job.benchmarks.values() for part in _parts(arena)]
    return {component.name for component in components if component is not None}


def _parts(arena: Any) -> list[Any]:
    return [arena.benchmark, arena.model]


def _spaces(job: JobSpec) -> tuple[dict[str, bytes], JobSpec]:
    """Search spaces that are not clray's own, and the job with names for paths."""
    found: dict[str, bytes] = {}
    methods = dict(job.methods)
    for label, entry in job.methods.items():
        if isinstance(entry.space, SearchSpace):
            continue
        method = entry.method.name if entry.method else label.partition(".")[0]
        known = set(files.space_names())
        wanted = [entry.space] if entry.space else [n for n in (label, method) if n in known][:1]
        if not entry.space and method in known:
            wanted.append(method)  # for its published values
        for name in filter(None, dict.fromkeys(wanted)):
            path = files.space_path(name)
            if path.resolve().is_relative_to(_CLRAY):
                continue
            stem = name if name in known else _free(path.stem, found, path.read_bytes())
            found[f"search_spaces/{stem}.yaml"] = path.read_bytes()
            if name == entry.space:
                methods[label] = entry.model_copy(update={"space": stem})
    return found, job.model_copy(update={"methods": methods})


def _free(stem: str, found: Mapping[str, bytes], content: bytes) -> str:
    """A name for a space that no other one has."""
    known, number, name = set(files.space_names()), 2, stem
    while name in known or found.get(f"search_spaces/{name}.yaml", content) != content:
        name, number = f"{stem}-{number}", number + 1
    return name


def _below(path: Path, root: Path) -> dict[str, bytes]:
    """A module, or a package's sources and settings, by path from the root."""
    if path.is_file():
        return {path.relative_to(root).as_posix(): path.read_bytes()}
    inside = [p for p in _walk(path) if p.suffix in TEXT and not is_secret(p)]
    kept = _not_ignored(inside, root)
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in sorted(kept)}


def _walk(folder: Path) -> Iterator[Path]:
    """Files below a folder, but for what never goes along."""
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or path.name in LEFT_OUT or path.name == "__pycache__":
            continue
        if path.is_dir() and not (path / "pyvenv.cfg").exists():
            yield from _walk(path)
        elif path.is_file():
            yield path


def _not_ignored(paths: list[Path], root: Path) -> list[Path]:
    """Without what git ignores, where there is git."""
    if not paths:
        return []
    given = "\0".join(map(str, paths)).encode()
    command = ["git", "-C", str(root), "check-ignore", "--stdin", "-z"]
    try:
        done = subprocess.run(command, input=given, capture_output=True, check=False)
    except OSError:
        return paths
    ignored = {Path(name.decode()) for name in done.stdout.split(b"\0") if name}
    return [path for path in paths if path not in ignored]


def is_secret(path: PurePosixPath | Path) -> bool:
    """Whether a file is named like one that holds keys or passwords."""
    name = path.name.lower()
    if path.suffix in (".py", ".pyi"):
        return False
    return any(fnmatch.fnmatch(name, pattern) for pattern in SECRETS)


def _included(given: str) -> dict[str, bytes]:
    """What a person asked for by name; nothing in it is passed over silently but caches."""
    where, here = "--include", Path.cwd()
    path = Path(given)
    if not path.exists():
        raise BadSpec(where, given, "a file or folder that exists")
    if not path.resolve().is_relative_to(here.resolve()):
        raise BadSpec(where, given, "a file or folder below the one you stand in")
    inside = [path] if path.is_file() else list(_walk(path))
    for one in inside:
        if is_secret(one):
            accepted = "nothing that is named like a secret: credentials belong to the machines"
            raise BadSpec(where, str(one), accepted)
    return {p.resolve().relative_to(here.resolve()).as_posix(): p.read_bytes() for p in inside}


def _offenders(found: Mapping[str, bytes]) -> str:
    largest = sorted(found.items(), key=lambda item: -len(item[1]))[:MOST_OFFENDERS]
    listed = ", ".join(f"{path} {len(content) / 1e6:.1f} MB" for path, content in largest)
    total = sum(map(len, found.values()))
    return f"{total / 1e6:.1f} MB in {len(found)} files, the largest {listed}"
