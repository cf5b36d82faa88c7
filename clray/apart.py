"""Tasks that are learned apart from one another: once for all orders that begin with the same one.

Where a method promises that, after the first task, no task's results depend on the others
(``Learner.independent_after_first``), a stream of tasks a, b, c falls into parts: a alone, b after
a, and c after a. Each is a trial of its own in the store, whose key knows neither where its task
stands nor what else is learned; the trial of the whole stream puts them together
(``clray.together``). Orders a, b, c and a, c, b have the same parts.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Sequence
from typing import Any

import torch

import clray
from clray import registry
from clray.spec import TrialSpec
from clray.store import Folder

NAME = "learned"
"""What a part leaves of its task, for those who put a stream together."""


def is_promised(spec: TrialSpec) -> bool:
    """Whether the spec's method, with its knobs, learns later tasks apart."""
    learner = registry.find("method", spec.method.name).learner
    return learner.independent_after_first(registry.configure("method", spec.method))


def is_whole(spec: TrialSpec) -> bool:
    """Whether a trial is put together from parts.

    Not one whose knobs change on the way; nor one that is graded on what its protocol looks at
    while it goes on, which is how parts are graded; nor one that is graded while it learns.
    """
    plain = not spec.changes and spec.protocol.evaluation is None
    return is_promised(spec) and plain and spec.graded in ("stream", "seen")


def is_part(spec: TrialSpec) -> bool:
    """Whether others may be put together from a trial."""
    return (
        is_promised(spec)
        and not spec.changes
        and spec.graded == "current"
        and spec.tasks is not None
        and spec.until in (1, 2)
    )


def part(spec: TrialSpec, num_tasks: int, index: int) -> TrialSpec:
    """The trial that learns one task of a stream, after the first one, and is graded on it alone.

    Args:
        spec: of the whole.
        num_tasks: length of its stream.
        index: the task's position; 0: the first one alone.
    """
    places = spec.tasks or tuple(range(num_tasks))
    head = tuple(dict.fromkeys((places[0], places[index])))
    rest = sorted(set(places) - set(head))  # known to come, in an order that says nothing
    update = {"tasks": (*head, *rest), "until": len(head), "graded": "current"}
    return spec.model_copy(update=update)


def beginnings(spec: TrialSpec) -> Iterator[TrialSpec]:
    """The trials that a trial may begin from, the longest first.

    Only one that says how many tasks it learns (``until``) has any.
    """
    for until in range((spec.until or 1) - 1, 0, -1):
        first = spec.first(until)
        yield first
        if is_part(spec):
            yield part(first, 0, 0)


def waves(specs: Sequence[TrialSpec], num_tasks: int) -> list[list[TrialSpec]]:
    """The parts of several trials, each once: first tasks, and then what follows them."""
    wholes = [spec for spec in specs if is_whole(spec)]
    firsts = {first.key: first for spec in wholes for first in [part(spec, num_tasks, 0)]}
    later = {
        one.key: one
        for spec in wholes
        for index in range(1, spec.until or num_tasks)
        for one in [part(spec, num_tasks, index)]
    }
    return [list(wave.values()) for wave in (firsts, later) if wave]


def save(learned: Any, spec: TrialSpec, folder: Folder) -> None:
    """Store what a part has learned of its task."""
    buffer = io.BytesIO()
    buffer.write(_head(spec))
    torch.save(learned, buffer)
    folder.write(NAME, buffer.getvalue())


def find(spec: TrialSpec, folder: Folder) -> bytes | None:
    """What that part has left, by this version of clray; None: nothing."""
    content = folder.find(NAME)
    return content if content is not None and content.startswith(_head(spec)) else None


def load(content: bytes, device: torch.device) -> Any:
    """What was found, on the device."""
    payload = io.BytesIO(content[content.index(b"\n") + 1 :])
    return torch.load(payload, map_location=device, weights_only=True)


def _head(spec: TrialSpec) -> bytes:
    return json.dumps({"version": clray.__version__, "key": spec.key}).encode() + b"\n"
