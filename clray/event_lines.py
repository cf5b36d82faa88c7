"""Events as lines of text: how a job on a cluster tells them to a laptop."""

from __future__ import annotations

import dataclasses
import json
import time
import typing
from typing import Any

from clray import events
from clray.events import Event

MARK = "clray-event "
"""What a line with an event begins with."""
_KINDS: dict[str, type[Any]] = {kind.__name__: kind for kind in typing.get_args(Event)}


def as_line(event: Event) -> str:
    """An event as one line of JSON, with the time."""
    content: dict[str, Any] = {"event": type(event).__name__, "at": round(time.time(), 3)}
    for one in dataclasses.fields(event):
        content[one.name] = _plain(getattr(event, one.name))
    return MARK + json.dumps(content)


def of_line(line: str) -> tuple[float, Event] | None:
    """The time (seconds since 1970) and the event of a line; None for a line that is no event, or
    one of another version's."""
    if not line.startswith(MARK):
        return None
    try:
        content = json.loads(line.removeprefix(MARK))
        kind = _KINDS[content.pop("event")]
        at = float(content.pop("at"))
        known = {one.name for one in dataclasses.fields(kind)}
        values = {name: value for name, value in content.items() if name in known}
        if kind is events.BoardStarted:
            values["planned"] = {(label, stage): n for label, stage, n in values["planned"]}
        if kind is events.JobStarted:
            values["boards"] = tuple(values["boards"])
        return at, kind(**values)
    except (ValueError, KeyError, TypeError):
        return None


def _plain(value: Any) -> Any:
    """JSON has no tuples as keys, and no numbers that are none."""
    if isinstance(value, dict) and any(isinstance(key, tuple) for key in value):
        return [[*key, inner] for key, inner in value.items()]
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, float) and value != value:
        return None
    return value
