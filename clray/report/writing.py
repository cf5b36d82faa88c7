"""Puts a report where it belongs: the page, its figures as pictures, and its tables."""

from __future__ import annotations

from collections.abc import Sequence

from clray.errors import BadInput, StorageFailed
from clray.report.exports import write_tables
from clray.report.page import job_page, jobs_page
from clray.report.pictures import pictures
from clray.report.reading import Job
from clray.store import Folder

PAGE = "report.html"


def write_report(job: Job, folder: Folder, as_pictures: bool = True) -> str:
    """Write a job's page, ``figures/*.png`` and ``tables/*`` into a folder; the page's address.

    Args:
        job: finished or running.
        folder: where to.
        as_pictures: whether the figures are also drawn as PNG, 0.2 s each.

    Raises:
        BadInput: the folder cannot be written to.
        BadData: the records of a final run are damaged.
    """
    page = job_page(job)
    try:
        folder.write(PAGE, page.html)
        for name, content in pictures(page.pictures if as_pictures else {}):
            folder.write(f"figures/{name}.png", content)
        write_tables(job, folder)
    except OSError as error:
        raise _unwritable(folder, error) from None
    return _address(folder, PAGE)


def write_comparison(jobs: Sequence[Job], folder: Folder, name: str = PAGE) -> str:
    """Write the page of several jobs side by side; its address.

    Raises:
        BadInput: the folder cannot be written to.
        BadData: the records of a final run are damaged.
    """
    page = jobs_page(jobs)
    try:
        folder.write(name, page.html)
    except OSError as error:
        raise _unwritable(folder, error) from None
    return _address(folder, name)


def _address(folder: Folder, name: str) -> str:
    return (folder / name).uri if not folder.is_local else f"{folder.uri}/{name}"


def _unwritable(folder: Folder, error: OSError) -> BadInput:
    text = error.happened if isinstance(error, StorageFailed) else error.strerror
    reason = text or str(error).partition("\n")[0]
    accepted = "a folder that can be written to; --to DIR writes elsewhere, --no-page only prints"
    return BadInput("report", f"{folder.uri} ({reason})", accepted)
