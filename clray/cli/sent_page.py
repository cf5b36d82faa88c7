"""What ``clray submit`` would send, start and need, as a page."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.text import Text

from clray.capacity import slots_on
from clray.cli.job_settings import counted
from clray.cluster.submission import Submission, machines
from clray.report.numbers import size
from clray.report.tables import indented, plain_table
from clray.spec import Resources

if TYPE_CHECKING:
    from clray.cluster.places import Place


def sent_page(
    submission: Submission, place: Place | None, install: bool = False, steps: tuple[str, ...] = ()
) -> RenderableType:
    """What would be sent, where to, and what it needs there.

    Args:
        submission: the job, ready to be sent.
        place: the cluster; none where a file is written that others start.
        install: whether requirements are installed for the job.
        steps: what would be done to the cluster.
    """
    sent, package = submission.sent, submission.package
    table = plain_table(2)
    packed = f"{counted(len(package.files), 'file')}, {size(package.size)}, "
    packed += f"{size(len(sent.package))} packed"
    table.add_row("sent", packed)
    yours = [path for path in package.files if not path.startswith("clray/")]
    table.add_row("of yours", ", ".join(sorted(yours)))
    table.add_row("runs", sent.command)
    table.add_row("results", sent.results)
    if install:
        table.add_row("installed", ", ".join(sent.requirements))
    table.add_row("needs", needs(sent.resources))
    if place is not None:
        table.add_row("cluster", str(place))
        if place.file is not None:
            for line in place.file.summary():
                table.add_row("", line)
        if place.file is not None and (nodes := place.file.node_types()):
            kinds = [f"{number} {name}" for number, name in machines(sent.resources, nodes)]
            table.add_row("machines", f"up to {', '.join(kinds)}, beside the head")
            table.add_row("at once", counted(slots_on(sent.resources, nodes), "trial"))
    for step in steps:
        table.add_row("then", step)
    return Group(Text("to be sent", style="bold"), indented(table))


def needs(resources: Resources) -> str:
    """What all slots of a job take."""
    worker = f"{resources.cpus_per_worker:g} CPU"
    if resources.gpus_per_worker:
        worker += f" and {resources.gpus_per_worker:g} GPU"
    slots, workers = resources.slots, resources.workers
    text = f"up to {counted(slots, 'trial')} at once, each with "
    text += f"{counted(workers, 'worker')} of {worker}: in all "
    text += f"{slots * workers * resources.cpus_per_worker:g} CPUs"
    if resources.gpus_per_worker:
        text += f" and {slots * workers * resources.gpus_per_worker:g} GPUs"
    return text
