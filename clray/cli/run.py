"""``clray run``: one method on one stream, once."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from clray.cli.completion import complete_benchmark, complete_method
from clray.cli.terminal import Debug, Directory, keep_on_interrupt, out


def run(
    context: typer.Context,
    method: Annotated[
        str, typer.Argument(metavar="METHOD", autocompletion=complete_method, help="Such as ewc.")
    ],
    benchmark: Annotated[
        str,
        typer.Argument(
            metavar="BENCHMARK", autocompletion=complete_benchmark, help="Such as split-digits."
        ),
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="KEY=VALUE",
            help="Fields of the trial: method.strength=100 model=lenet seed=3 store.model=true",
            show_default=False,
        ),
    ] = None,
    here: Annotated[bool, typer.Option("--here", help="In this process, without Ray.")] = False,
    test: Annotated[
        bool, typer.Option("--test", help="Grade on test examples, not on validation examples.")
    ] = False,
    results: Directory = None,
    debug: Debug = False,
) -> None:
    """Train one method on one benchmark, once.

    Shows the accuracy matrix and the metrics, on validation examples unless --test is given. A
    trial that is stored already is only shown.
    """
    keep_on_interrupt(context)
    overriding = _overriding(method, benchmark, overrides or [], here, test)

    from clray import registry, trial
    from clray.addresses import results_at
    from clray.cli.task_progress import TaskProgress
    from clray.errors import RunFailed
    from clray.events import ignore
    from clray.parsing import parse
    from clray.report.naming import benchmark_title
    from clray.report.stored import Trial
    from clray.report.trial import trial_page
    from clray.spec import Resources, Storing, TrialSpec
    from clray.store import check_writable, trial_folder

    results = results_at(results)
    resources = parse(Resources, overriding.pop("resources", {}), "resources")
    storing = parse(Storing, overriding.pop("store", {}), "store")
    spec = registry.complete(parse(TrialSpec, overriding, "trial"))
    stream = registry.configure("benchmark", spec.benchmark)
    num_tasks = stream.check()
    stream.check_resources(resources)
    console = out()
    if told := stream.remark():
        console.print(told, soft_wrap=True)
    if trial.ended(trial_folder(results, spec.key)):  # needs neither Ray nor a progress line
        summary = trial.run_here(spec, results, storing, ignore)
    else:
        check_writable(results)
        name = f"{spec.method.name} on {benchmark_title(spec.benchmark.model_dump())}"
        with TaskProgress(console, name, num_tasks) as progress:
            if here:
                summary = trial.run_here(spec, results, storing, progress.watch, resources)
            else:
                from clray import ray_train

                summary = ray_train.run_trial(spec, results, resources, storing, progress.watch)
    shown = Trial.model_validate({**summary, "spec": spec.model_dump(mode="json")})
    console.print(trial_page(shown, console.width))
    if shown.state != "completed":
        raise RunFailed(f"the trial {shown.state}" + (f": {shown.error}" if shown.error else ""))


def _overriding(
    method: str, benchmark: str, overrides: list[str], here: bool, test: bool
) -> dict[str, Any]:
    """The trial's fields as the command line gives them.

    Raises:
        BadSpec: overrides that are malformed or contradict the arguments.
    """
    from clray.errors import BadSpec
    from clray.parsing import merge, parse_overrides
    from clray.spec import Component, Resources, Storing, TrialSpec

    given = parse_overrides(
        overrides, {**TrialSpec.model_fields, "resources": Resources, "store": Storing}
    )
    for section, argument in (("method", method), ("benchmark", benchmark)):
        knobs = given.get(section, {})
        if not isinstance(knobs, dict) or "name" in knobs:
            name = knobs.get("name") if isinstance(knobs, dict) else knobs
            accepted = f"{section}.KNOB=VALUE: the {section} is the argument {argument!r} already"
            raise BadSpec(f"override: {section}", name, accepted)
    slots = sorted(set(given.get("resources", {})) - {"reading", "memory"})
    if here and slots:
        accepted = "reading and memory alone with --here, which runs in this process"
        raise BadSpec("override: resources", slots[0], accepted)
    if test and given.get("split", "test") != "test":
        raise BadSpec("override: split", given["split"], "test, as --test says")
    default: Component = TrialSpec.model_fields["model"].default
    named = {"method": method, "benchmark": benchmark, "model": default.name}
    below = {section: {"name": name} for section, name in named.items()}
    return merge(below, {**given, "split": "test"} if test else given)
