"""``clray submit``: a job on a cluster, followed from here, its results brought home."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.text import Text

from clray.cli.cluster_options import Address, ClusterPath
from clray.cli.completion import complete_job
from clray.cli.homecoming import bring_home, follow
from clray.cli.preparing import check_here, prepare_here, results_there
from clray.cli.sweep import load
from clray.cli.terminal import Debug, out, settings

if TYPE_CHECKING:
    from clray.cluster.jobs import Cluster, Submitted
    from clray.cluster.places import Place
    from clray.cluster.submission import Submission
    from clray.job import JobSpec


def submit(
    context: typer.Context,
    job: Annotated[
        str,
        typer.Argument(metavar="JOB", autocompletion=complete_job, help="A job's file or name."),
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="KEY=VALUE",
            help="Fields of the job: resources.slots=16 resources.gpus_per_worker=0.25",
            show_default=False,
        ),
    ] = None,
    address: Address = None,
    cluster: ClusterPath = None,
    up: Annotated[
        bool, typer.Option("--up", help="Start the cluster of --cluster if it is down.")
    ] = False,
    down: Annotated[
        bool,
        typer.Option("--down", help="Tear it down when the job has ended, however it ended."),
    ] = False,
    kubernetes: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Only write a KubeRay RayJob, for kubectl apply -f."),
    ] = None,
    skypilot: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Only write a SkyPilot task, for sky launch."),
    ] = None,
    results: Annotated[
        str | None,
        typer.Option(
            metavar="DIR",
            help="Where the machines write results: s3://…, gs://… or a folder that they share; "
            "by default what the job or the cluster file says.",
        ),
    ] = None,
    to: Annotated[
        str, typer.Option(metavar="DIR", help="The folder of results here that they come home to.")
    ] = "results",
    include: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATH", help="A file or folder of yours to take along.", show_default=False
        ),
    ] = None,
    install: Annotated[
        bool,
        typer.Option(
            "--install", help="Install what clray needs for this job, with pip, on each machine."
        ),
    ] = False,
    detach: Annotated[
        bool, typer.Option("--detach", help="Send the job and leave; do not follow it.")
    ] = False,
    anew: Annotated[
        bool, typer.Option("--anew", help="Start a changed job beside the stored one, as NAME-2.")
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Check, show what would be sent and started; start nothing."
        ),
    ] = False,
    debug: Debug = False,
) -> int:
    """Run a job on a cluster, follow it, and bring its results home.

    The job goes on when this machine sleeps or leaves; the same command, and clray status, logs,
    stop and fetch, find it again. A job whose results are stored goes on where it stopped.
    """
    from clray.errors import BadInput

    written = [file for file in (kubernetes, skypilot) if file is not None]
    if written and (address or cluster or up or down or detach):
        accepted = "neither --address nor --cluster, --up, --down, --detach: a file is written"
        raise BadInput("--kubernetes" if kubernetes else "--skypilot", written[0], accepted)
    if (up or down) and cluster is None:
        raise BadInput("--up" if up else "--down", "given", "--cluster FILE beside it")
    if down and detach:
        raise BadInput("--detach", "given with --down", "one of them: who leaves cannot tear down")
    spec = load(job, overrides or [])
    if written:
        return _write(spec, kubernetes, skypilot, results, include or [], dry_run)

    from clray.cli.sent_page import sent_page
    from clray.cluster.places import given_place

    place = given_place(address, cluster)
    if place is None:
        accepted = "--address URL, --cluster FILE, --kubernetes FILE or --skypilot FILE"
        raise BadInput("submit", "no cluster", accepted)
    submission = prepare_here(spec, place, results, include or [], to, anew)
    console = out()
    if dry_run:
        steps = ("ray up, if it is down",) * up + ("ray down, when the job has ended",) * down
        _show_plan(console, spec)
        console.print(sent_page(submission, place, install, steps))
        console.print(Text("Nothing was sent or started: this is a dry run.", style="dim"))
        return 0
    return _Submit(context, console, place, submission, to, install, detach, down).run(up)


class _Submit:
    """One submission, from the first connection to the results at home."""

    def __init__(
        self,
        context: typer.Context,
        console: Console,
        place: Place,
        submission: Submission,
        to: str,
        install: bool,
        detach: bool,
        down: bool,
    ) -> None:
        self.context, self.console, self.place, self.to = context, console, place, to
        self.submission, self.install, self.detach = submission, install, detach
        self.sent = submission.sent
        self.down = down

    def say(self, text: str) -> None:
        """A line about the cluster, not the job."""
        self.console.print(Text(text, style="dim"), soft_wrap=True)

    def run(self, up: bool) -> int:
        """Do all of it; the job's exit code."""
        over = True
        try:
            self._ready(up)
            with self.place.open() as cluster:
                job = self._send(cluster)
            over = False
            self._remember(job)
            if self.detach:
                self._how_to_find()
                return 0
            job = self._follow(job)
            over = True
            return bring_home(self.context, self.console, self.place, job, self.to)
        finally:
            if self.down:
                self._tear_down(over)

    def _ready(self, up: bool) -> None:
        """See that the cluster of a file is up.

        Raises:
            Unreachable: it is down, and nobody asked to start it.
        """
        from clray.cluster import launcher
        from clray.errors import Unreachable

        file = self.place.file
        if file is None or launcher.is_up(file):
            return
        if not up:
            raise Unreachable("--cluster", f"{file.name}, which is down", "--up, which starts it")
        launcher.up(file, self.say)

    def _tear_down(self, over: bool) -> None:
        from clray.cluster import launcher

        assert self.place.file is not None
        if over:
            launcher.down(self.place.file, self.say)
        else:
            text = f"the cluster stays up, since {self.sent.name} goes on; the same command "
            self.say(f"{text}follows it again and tears down at its end")

    def _send(self, cluster: Cluster) -> Submitted:
        from clray.errors import BadSpec

        if cluster.is_open_road:
            self.say(f"warning: the token travels unencrypted to {cluster.address}")
        running = cluster.find(self.sent.name)
        if running is not None and not running.is_over:
            if (running.digest, running.results) != (self.sent.digest, self.sent.results):
                accepted = f"the same job and results as are running, or clray stop {running.name}"
                raise BadSpec("submit", f"another version of {running.name}", accepted)
            self.say(f"{running.name} is running already as {running.id}; following it")
            return running
        size = f"{len(self.sent.package) / 1e3:,.0f} kB"
        number = cluster.submit(self.sent, self.install)
        self.say(f"sent {size} to {self.place} as {number}")
        return cluster.get(number)

    def _remember(self, job: Submitted) -> None:
        from clray.cluster.known import Known, remember

        file = self.place.file
        path = str(file.path.resolve()) if file else None
        remember(Known(job.name, job.id, self.place.address, path, job.results))

    def _how_to_find(self) -> None:
        name = self.sent.name
        commands = ("status {}", "logs {} --follow", "stop {}", "fetch {}")
        self.say(", ".join(f"clray {command.format(name)}" for command in commands))

    def _follow(self, job: Submitted) -> Submitted:
        name = job.name
        settings(self.context).on_interrupt = (
            f"left; the job goes on: clray logs {name} --follow, clray status {name}, "
            f"clray stop {name}"
        )
        return follow(self.console, self.place, job)


def _show_plan(console: Console, spec: JobSpec) -> None:
    """The trials, as far as the data that are here tell."""
    from clray import protocols
    from clray.cli.plan import plan_page
    from clray.cli.sweep import shown
    from clray.errors import BadData

    try:
        planned = protocols.plan(spec)
        console.print(plan_page(planned, shown(protocols.planned_boards(planned))))
    except BadData:
        console.print(plan_page(spec, []))
    console.print()


def _write(
    spec: JobSpec,
    kubernetes: str | None,
    skypilot: str | None,
    results: str | None,
    include: list[str],
    dry_run: bool,
) -> int:
    """Write what others start: a RayJob, a SkyPilot task."""
    from clray.cli.written import write_files
    from clray.cluster.kubernetes import ray_job
    from clray.cluster.skypilot import package_beside, sky_task
    from clray.cluster.submission import prepare

    check_here(spec, None, anew=False)
    submission = prepare(spec, results_there(results, spec), include)
    files: dict[str, tuple[str, bytes]] = {}
    if kubernetes is not None:
        files[kubernetes] = ("--kubernetes", ray_job(submission.sent).encode())
    if skypilot is not None:
        text = sky_task(submission.sent, skypilot)
        files[str(package_beside(skypilot))] = ("--skypilot", submission.sent.package)
        files[skypilot] = ("--skypilot", text.encode())
    write_files(files, submission, dry_run)
    return 0
