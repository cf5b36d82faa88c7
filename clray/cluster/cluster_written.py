"""A cluster file as it is written: its values, their lines, and what is said about them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from clray.errors import BadSpec
from clray.parsing import read_yaml

Place = tuple[str | int, ...]
"""The keys and positions that lead to a value."""

_MARKER = re.compile(r"<FILL-IN:?\s*([^>]*)>?|FILL-IN")


@dataclass(frozen=True)
class Complaint:
    """What is wrong at one place of a cluster file.

    Attributes:
        at: where.
        given: the offending value.
        accepted: a phrase, or the accepted names (then the nearest to ``given`` is suggested).
        key: the offending key below ``at``, whose line is told.
    """

    at: Place
    given: object
    accepted: str | Sequence[str]
    key: str | None = None


@dataclass(frozen=True)
class Written:
    """The content of a cluster file.

    Attributes:
        path: the file.
        data: its values.
        lines: the line, from 1, of each key and each item of a list.
    """

    path: Path
    data: dict[str, Any]
    lines: dict[Place, int]

    def refuse(self, complaints: Sequence[Complaint]) -> None:
        """Tell all complaints at once.

        Raises:
            BadSpec: there is one.
        """
        # Of an alias, what is wrong is told where it stands, once.
        once = {
            (self._line(each), each.at[-1:], str(each.given)): each for each in reversed(complaints)
        }
        errors = [self._error(each) for each in complaints if each in once.values()]
        if len(errors) == 1:
            raise errors[0]
        if errors:
            error = BadSpec(str(self.path), f"{len(errors)} mistakes", "none")
            listed = "\n".join(f"  {each}" for each in errors)
            error.args = (f"{self.path}: {len(errors)} things to put right\n{listed}",)
            raise error

    def _error(self, complaint: Complaint) -> BadSpec:
        line, place = self._line(complaint), dotted(complaint.at)
        where = f"{self.path}:{line}" if line else str(self.path)
        return BadSpec(f"{where}: {place}" if place else where, complaint.given, complaint.accepted)

    def _line(self, complaint: Complaint) -> int | None:
        """The line of the offending key, or of the nearest key above it that is written."""
        at = complaint.at if complaint.key is None else (*complaint.at, complaint.key)
        known = (at[:end] for end in range(len(at), 0, -1) if at[:end] in self.lines)
        return next((self.lines[place] for place in known), None)


def read_written(path: Path) -> Written:
    """Read a cluster file.

    Raises:
        BadSpec: it is missing, unreadable, no YAML, no mapping, or has a key that is no text.
    """
    data = read_yaml(path)
    if not isinstance(data, dict) or not data:
        raise BadSpec(str(path), data, "a cluster file: a mapping of keys to values")
    node = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    written = Written(path, data, dict(_lines(node, (), ())))
    written.refuse(list(_keys_that_are_no_text(data, ())))
    return written


def markers(value: Any, at: Place = (), seen: set[int] | None = None) -> Iterator[Complaint]:
    """What a person has still to fill in: each ``<FILL-IN: what>``, an alias's only once."""
    seen = set() if seen is None else seen
    if isinstance(value, dict | list):
        if id(value) in seen:
            return
        seen.add(id(value))
    if isinstance(value, dict):
        for key, inside in value.items():
            if found := _MARKER.search(key):
                yield Complaint(at, "FILL-IN", _wanted(found), key)
            yield from markers(inside, (*at, key), seen)
    elif isinstance(value, list):
        for position, inside in enumerate(value):
            yield from markers(inside, (*at, position), seen)
    elif isinstance(value, str):
        for found in _MARKER.finditer(value):
            yield Complaint(at, "FILL-IN", _wanted(found))


def dotted(at: Place) -> str:
    """``provider.worker_ips[0]``."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in at)
    return text.removeprefix(".")


def _wanted(found: re.Match[str]) -> str:
    return (found.group(1) or "").strip() or "a value in its place"


def _keys_that_are_no_text(value: Any, at: Place) -> Iterator[Complaint]:
    if isinstance(value, dict):
        for key, inside in value.items():
            if not isinstance(key, str):
                yield Complaint(at, key, "text as a key")
            else:
                yield from _keys_that_are_no_text(inside, (*at, key))
    elif isinstance(value, list):
        for position, inside in enumerate(value):
            yield from _keys_that_are_no_text(inside, (*at, position))


def _lines(node: Any, at: Place, above: tuple[int, ...]) -> Iterator[tuple[Place, int]]:
    if id(node) in above:  # an alias of what it stands in
        return
    above = (*above, id(node))
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            place = (*at, str(key.value))
            yield place, key.start_mark.line + 1
            yield from _lines(value, place, above)
    elif isinstance(node, yaml.SequenceNode):
        for position, value in enumerate(node.value):
            yield (*at, position), value.start_mark.line + 1
            yield from _lines(value, (*at, position), above)
