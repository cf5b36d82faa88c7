"""A job written as a file that others start: a KubeRay RayJob, a SkyPilot task."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rich.text import Text

from clray.cli.terminal import out
from clray.errors import BadSpec

if TYPE_CHECKING:
    from clray.cluster.submission import Submission


def write_files(files: dict[str, tuple[str, bytes]], submission: Submission, dry_run: bool) -> None:
    """Write files that tell others how to run a job; all of them, or none.

    Args:
        files: by path, the option that named it and its content.
        submission: what they hold.
        dry_run: whether only to tell.

    Raises:
        BadSpec: a path that cannot be written to, or that holds something else.
    """
    from clray.cli.sent_page import sent_page
    from clray.cluster.manifest import fill_ins
    from clray.store import Folder

    for path, (option, content) in files.items():
        _refuse(option, Path(path), content)
    console = out()
    console.print(sent_page(submission, None))
    for path, (option, content) in files.items():
        if dry_run:
            console.print(f"{path}: would be written, {len(content) / 1e3:,.0f} kB")
            continue
        target = Path(path)
        try:
            Folder(str(target.parent), option).write(target.name, content)
        except OSError as error:
            raise BadSpec(option, path, f"a file that can be written ({error.strerror})") from None
        console.print(f"{path}: written")
        if not path.endswith(".zip"):
            for line in fill_ins(content.decode()):
                console.print(Text(f"  to be filled in: {line}", style="yellow"))


def _refuse(option: str, path: Path, content: bytes) -> None:
    """Nothing that a person wrote or filled in is lost."""
    if path.is_dir() or not path.parent.is_dir():
        raise BadSpec(option, str(path), "a file in a folder that exists")
    if path.exists() and path.read_bytes() != content:
        accepted = "a new file: this one exists and holds something else"
        raise BadSpec(option, str(path), accepted)
