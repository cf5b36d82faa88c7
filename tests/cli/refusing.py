"""Whether a command line refuses bad input as it should, and leaves everything as it was."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from clray.parsing import merge
from tests.cli.conftest import Clray, Said

JOB: dict[str, Any] = {
    "name": "a",
    "benchmark": {"name": "split-digits", "num_tasks": 2, "class_order": [0, 1, 2, 3]},
    "protocol": {"memory": 20},
    "methods": {"finetune": {}},
    "search": {"trials": 2, "startup": 2},
    "final": {"seeds": 1},
}
Cases = dict[str, tuple[dict[str, Any], str]]
"""What is different from ``JOB``, and a piece of the message."""


def write(path: Path, content: Any) -> None:
    """Write text, or a value as JSON, which is YAML too."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))


def contents(folder: Path) -> dict[str, bytes]:
    """All files below, by path."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def assert_refused(said: Said, *pieces: str) -> None:
    """One error, exit code 2, no traceback; it says what is accepted, and the pieces."""
    code, out, err = said
    assert code == 2, said
    assert err.startswith("clray: error: "), err
    assert err.count("clray: error:") == 1, err
    assert "accepted: " in err
    assert "Traceback" not in out + err
    for piece in pieces:
        assert piece in err, err


def assert_job_refused(clray: Clray, here: Path, changes: dict[str, Any], piece: str) -> None:
    """The job with these changes is refused before anything is written."""
    write(here / "job.yaml", merge(JOB, changes))
    before = contents(here)
    assert_refused(clray("sweep", "job.yaml"), piece)
    assert contents(here) == before
