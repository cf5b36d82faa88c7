"""What is different between a job and the one that its folder holds.

A job's folder is its memory: the same command goes on where it stopped. A job that would come to
other results is not the same one, and is refused under that name.

What cannot change a result is passed over: the job's name, ``results``, ``store``, ``loggers``,
where a stored stream lies (its content counts), and ``resources``. ``resources.slots`` alone
counts where the search is deterministic: trial n is then proposed from the results of the trials up
to n minus the slots.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from clray.errors import BadSpec
from clray.job import JobSpec
from clray.parsing import parse
from clray.spec import PIN
from clray.store import Folder, job_folder

FILE = "job.yaml"
PASSED_OVER = ("name", "results", "store", "loggers", "resources")
MOST_LINES = 12
"""Changes that are shown."""
MOST_CHARACTERS = 40
"""Of a value that is shown."""
LONGEST_NAME = 100


class _Missing:
    """Stands where there is nothing."""

    def __repr__(self) -> str:
        return "nothing"


MISSING = _Missing()


@dataclass(frozen=True)
class Change:
    """A field that is different.

    Attributes:
        path: dotted.
        was: in the job that is stored; MISSING where it had no such field.
        now: in the job that is asked for; MISSING where it has none.
    """

    path: str
    was: Any
    now: Any

    def __str__(self) -> str:
        return f"{self.path}: {_shown(self.was)} -> {_shown(self.now)}"


def changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[Change]:
    """What is different, but for what cannot change a result.

    Args:
        old: a job in full, as plain JSON.
        new: another.
    """
    return list(_differences(_telling(old), _telling(new), ""))


def refuse_changed(folder: Folder, job: JobSpec) -> None:
    """Do nothing where the folder holds no job, or this one.

    Args:
        folder: the job's.
        job: as planned: its spaces written out, every knob filled in.

    Raises:
        BadSpec: it holds another one; the message shows what changed.
    """
    found = _changes_in(folder, job)
    if not found:
        return
    accepted = f"the job as it was started; or --anew, which starts it beside, as {job.name}-2"
    error = BadSpec(f"job {job.name}", "a job that changed", accepted)
    lines = found[:MOST_LINES]
    if len(found) > MOST_LINES:
        lines.append(f"and {len(found) - MOST_LINES} more")
    held = f"job {job.name}: {folder.uri} holds another job of that name:"
    error.args = ("\n".join([held, *(f"  {line}" for line in lines), f"accepted: {accepted}"]),)
    raise error


def beside(results: str, job: JobSpec) -> JobSpec:
    """The job under the first of NAME, NAME-2, NAME-3, … that is free, or that holds this very
    job, so that the same command goes on.

    Args:
        results: the folder of all results.
        job: as planned.
    """
    number = 1
    while True:
        suffix = "" if number == 1 else f"-{number}"
        name = job.name[: LONGEST_NAME - len(suffix)] + suffix
        if not _changes_in(job_folder(results, name), job):
            return job.model_copy(update={"name": name})
        number += 1


def _changes_in(folder: Folder, job: JobSpec) -> list[str]:
    """In words, between the job that a folder holds and another."""
    if not folder.has(FILE):
        return []
    try:
        written = yaml.safe_load(folder.read(FILE))
    except (yaml.YAMLError, UnicodeDecodeError):
        return [f"{FILE} is damaged"]
    if not isinstance(written, dict):
        return [f"{FILE} is damaged"]
    try:
        old = parse(JobSpec, written, FILE).model_dump(mode="json")
    except BadSpec as error:
        return [f"{FILE} was written by another version of clray ({error})"]
    # A field that came later is filled in; one that reads otherwise than it was written is of an
    # earlier form, and may have meant something else.
    if any(change.was is not MISSING for change in changes(written, old)):
        return [f"{FILE} was written by another version of clray"]
    return [str(change) for change in changes(old, job.model_dump(mode="json"))]


def _telling(job: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that a result may depend on."""
    kept = {key: value for key, value in job.items() if key not in PASSED_OVER}
    search = job.get("search") or {}
    scheduler = search.get("scheduler") or {}
    ordered = search.get("deterministic", True) and scheduler.get("name", "none") == "none"
    if ordered and "slots" in (job.get("resources") or {}):
        kept["resources"] = {"slots": job["resources"]["slots"]}
    return kept


def _differences(old: Any, new: Any, path: str) -> Iterator[Change]:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in dict.fromkeys([*old, *new]):
            at = f"{path}.{key}" if path else str(key)
            yield from _differences(old.get(key, MISSING), new.get(key, MISSING), at)
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for index, (was, now) in enumerate(zip(old, new, strict=True)):
            yield from _differences(was, now, f"{path}.{index}")
    elif _content(old) != _content(new):
        yield Change(path, old, new)


def _content(value: Any) -> Any:
    """Of an address with a hash of what lies there, the hash; and numbers apart from truth."""
    if isinstance(value, str) and PIN in value:
        return value[value.index(PIN) :]
    return ("truth", value) if isinstance(value, bool) else value


def _shown(value: Any) -> str:
    if value is MISSING:
        return "nothing"
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= MOST_CHARACTERS else f"{text[: MOST_CHARACTERS - 1]}…"
