"""Files for other tools to read: their names, their YAML, and what a person must fill in."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import urlsplit

import yaml

from clray.cluster.sent import Sent
from clray.errors import BadSpec

FILL_IN = "FILL-IN"
"""The value of what only a person knows."""
RESERVED = frozenset({"PYTHONPATH", "RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN"})
"""Variables that a file sets itself."""

_NOTE = re.compile(r"^(\s*)'#\d+': (.*)$")
_OPEN = re.compile(rf"^\s*(?:- )*([\w.-]+): {FILL_IN}$")
_SECRET = re.compile(r"(^|_)(SECRET|TOKEN|PASSWORD|API_KEY|ACCESS_KEY)(_|$)", re.IGNORECASE)
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_RAY = re.compile(r"ray\s*(\[[^\]]*\])?\s*([<>=!~;@].*)?")


class _Dumper(yaml.CSafeDumper):
    """Block style, texts of several lines as they are, and no aliases."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: yaml.CSafeDumper, value: str) -> yaml.ScalarNode:
    style = "|" if "\n" in value else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)


_Dumper.add_representer(str, _text)


def to_yaml(header: str, documents: Iterable[Mapping[str, Any]]) -> str:
    """The documents as YAML that says the same each time.

    Args:
        header: stands above them as a comment.
        documents: what to write. A key such as ``#1`` becomes a comment, the value its text.
    """
    parts = []
    for document in documents:
        text = yaml.dump(
            dict(document), Dumper=_Dumper, sort_keys=False, width=2**20, allow_unicode=True
        )
        parts.append("\n".join(_uncover(line) for line in text.splitlines()) + "\n")
    above = "".join(f"# {line}".rstrip() + "\n" for line in header.splitlines())
    return above + "---\n".join(parts)


def _uncover(line: str) -> str:
    found = _NOTE.match(line)
    return f"{found[1]}# {yaml.load(found[2], yaml.CSafeLoader)}" if found else line


def fill_ins(text: str) -> list[str]:
    """What a person must fill in before a file can be used: line, field, and what belongs there.

    Args:
        text: a file written by ``ray_job`` or ``sky_task``, perhaps filled in since.
    """
    lines = text.splitlines()
    found = []
    for number, line in enumerate(lines, start=1):
        if field := _OPEN.match(line):
            above = next((i for i in range(number - 2, -1, -1) if FILL_IN in lines[i]), None)
            note = lines[above].partition(f"{FILL_IN}: ")[2] if above is not None else ""
            found.append(f"line {number}: {field[1]}: {note}".rstrip(": "))
    return found


def label(name: str, most: int) -> str:
    """A name that Kubernetes and SkyPilot take (RFC 1035): small letters, digits and dashes.

    Two names never become one: what had to be changed ends in a hash of what it was.

    Args:
        name: any text.
        most: how many characters it may have.
    """
    plain = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    if not plain or not plain[0].isalpha():
        plain = f"job-{plain}".rstrip("-")
    if plain == name and len(plain) <= most:
        return plain
    mark = hashlib.sha256(name.encode()).hexdigest()[:6]
    return f"{plain[: most - len(mark) - 1].rstrip('-')}-{mark}"


def check_env(env: Mapping[str, str], taken: Iterable[str]) -> None:
    """Refuse variables that the file must not hold.

    Raises:
        BadSpec: no name of a variable, one that carries a secret, or one that is set here.
    """
    for name in env:
        if not _VARIABLE.fullmatch(name):
            raise BadSpec("env", name, "letters, digits and underscores")
        if _SECRET.search(name):
            raise BadSpec("env", name, "no secrets: they come from the cluster, never from a file")
        if name in set(taken):
            raise BadSpec("env", name, "another name: the file sets this one itself")


def bucket(results: str) -> str | None:
    """The bucket that holds the results, or None for a folder.

    Raises:
        BadSpec: another kind of address, or one that holds credentials.
    """
    if "://" not in results:
        return None
    parts = urlsplit(results)
    if "@" in parts.netloc:
        shown = f"{parts.scheme}://…@{parts.netloc.rpartition('@')[2]}"
        raise BadSpec("results", shown, "an address without credentials")
    if parts.scheme not in {"s3", "gs"} or not parts.netloc:
        raise BadSpec("results", results, "s3://bucket/… or gs://bucket/…")
    return parts.netloc


def requirements_with_ray(sent: Sent) -> list[str]:
    """What pip installs, with the very Ray that is here: all machines must have the same."""
    found = []
    for requirement in sent.requirements:
        match = _RAY.fullmatch(requirement.strip())
        found.append(f"ray{match[1] or ''}=={sent.ray}" if match else requirement)
    return found
