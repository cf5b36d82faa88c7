"""Which jobs this machine has sent where, so that they are found again by name."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from clray.store import Folder

FILE = "submitted.json"


@dataclass(frozen=True)
class Known:
    """A job that was sent.

    Attributes:
        name: of the job.
        id: of its last submission.
        address: of the cluster's dashboard; none where a cluster file leads there.
        cluster: that file, as an absolute path.
        results: where the job's results go.
    """

    name: str
    id: str
    address: str | None
    cluster: str | None
    results: str

    @property
    def place(self) -> str:
        """What leads to the cluster, for a person."""
        return self.cluster or self.address or ""


def remember(job: Known) -> None:
    """Take note of a job; an earlier one of that name is forgotten."""
    jobs = dict(known())
    jobs.pop(job.name, None)
    _folder().write_json(FILE, [asdict(one) for one in (*jobs.values(), job)])


def known() -> Mapping[str, Known]:
    """The jobs by name, the last one sent last. What cannot be read is not known."""
    folder = _folder()
    if not folder.has(FILE):
        return {}
    try:
        jobs = [Known(**one) for one in json.loads(folder.read(FILE))]
    except (ValueError, TypeError):
        return {}
    return {job.name: job for job in jobs}


def _folder() -> Folder:
    """Where a machine's programs keep what they know (the XDG base directories)."""
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Folder(str(Path(state) / "clray"))
