"""Where a job's numbers come from: its file, versions, machine, seeds, keys, and the command."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from clray.report.numbers import NONE
from clray.report.numbers import knob as written
from clray.report.reading import Job

Rows = list[tuple[str, ...]]


@dataclass(frozen=True)
class Provenance:
    """What makes a job's numbers come out again.

    Attributes:
        job_file: the job as it was started, as YAML; "" where it is not known.
        command: what runs it again.
        facts: (what, value), of the latest start.
        versions: (package, version), of the latest start.
        starts: (when, clray, git revision, host, command), the first one first.
        keys: (board, method, stage, trial, state, key) of each run of the search and on test.
    """

    job_file: str
    command: str
    facts: Rows
    versions: Rows
    starts: Rows
    keys: Rows


def provenance(job: Job) -> Provenance:
    """What a job's folder tells about where its numbers come from."""
    last = job.starts[-1] if job.starts else {}
    spec = job.spec.model_dump(mode="json", exclude_defaults=True) if job.spec else None
    command = _command(last.get("command")) or f"clray sweep {job.path}/job.yaml"
    return Provenance(
        job_file=yaml.safe_dump(spec, sort_keys=False, allow_unicode=True) if spec else "",
        command=command,
        facts=_facts(job, last),
        versions=sorted(_pairs(last.get("versions"))),
        starts=[
            (
                _text(start.get("started")),
                _text(start.get("clray")),
                _revision(start.get("git")),
                _text(_mapping(start.get("machine")).get("host")),
                _command(start.get("command")) or NONE,
            )
            for start in job.starts
        ],
        keys=_keys(job),
    )


def _facts(job: Job, last: Mapping[str, Any]) -> Rows:
    facts: Rows = [("folder", job.path)]
    facts.append(("clray", _text(last.get("clray"))))
    facts.append(("git revision", _revision(last.get("git"))))
    facts += [(f"machine: {name}", value) for name, value in _pairs(last.get("machine"))]
    if job.spec is not None:
        search, final = job.spec.search, job.spec.final
        names = ", ".join(selection.title for selection in job.spec.protocol.selection)
        facts += [
            ("selection", names),
            ("seed of the search", str(search.seed)),
            ("seeds of each trial", str(search.seeds)),
            ("seeds of the final runs", str(final.seeds)),
            ("sampler", search.sampler),
            ("deterministic", "yes" if search.deterministic and not search.early else "no"),
        ]
    return [(name, value) for name, value in facts if value != NONE]


def _keys(job: Job) -> Rows:
    searched: Rows = [
        (line.board or NONE, line.label, line.stage, str(line.number), line.state, key)
        for line in job.trials
        for key in line.keys
    ]
    tested: Rows = [
        (board.name or NONE, row.name, "test", str(place), "", key)
        for board in (job.final.boards if job.final else [])
        for row in board.rows
        for place, key in enumerate(row.test_keys)
    ]
    return [*searched, *tested]


def _pairs(value: Any) -> Rows:
    return [(str(name), _text(inner)) for name, inner in _mapping(value).items()]


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _revision(value: Any) -> str:
    """A revision as text, or as clray wrote it with what else is known of it."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_text(inner)}" for name, inner in value.items())
    return _text(value)


def _command(value: Any) -> str:
    return shlex.join(map(str, value)) if isinstance(value, list) else str(value or "")


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(_text(one) for one in value)
    return NONE if value in (None, "") else written(value)
