"""How hyperparameters are chosen, and what is tested afterwards.

``end-of-training``: each method's hyperparameters are those with the best objective on validation
examples of the whole stream, at its end. The chosen ones then learn from all training examples,
once for each fresh seed, and only these runs touch the test set.
"""

from __future__ import annotations

import contextlib
import fcntl
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml

from clray import registry, sweep, trial
from clray.errors import BadInput, BadSpec, UnknownName
from clray.events import JobStarted, Stage, TaskEnded, TrialEnded, TrialStarted, Watch
from clray.files import load_space, space_names
from clray.metrics import interval
from clray.parsing import merge, parse
from clray.ray_train import Slots
from clray.spec import Entry, JobSpec, SearchSpace, TrialSpec
from clray.store import Folder, job_folder, trial_folder
from clray.streams.benchmark import BenchmarkConfig
from clray.sweep import Candidate, Plan

TESTED = (
    "average_accuracy",
    "average_incremental_accuracy",
    "forgetting",
    "backward_transfer",
    "forward_transfer",
    "learning_accuracy",
)
"""What the final runs report."""


def plan(job: JobSpec) -> JobSpec:
    """``job`` with its spaces written out and every knob filled in, checked.

    Raises:
        BadInput: anything that would fail later, as far as can be told without data.
    """
    entries = {label: _fill_in(job, label, entry) for label, entry in job.methods.items()}
    filled = job.model_copy(update={"methods": entries})
    plans = plans_of(filled)
    for one in plans.values():
        one.check()
    base = next(iter(plans.values())).base
    return filled.model_copy(update={"benchmark": base.benchmark, "model": base.model})


def plans_of(job: JobSpec) -> dict[str, Plan]:
    """The search of each entry of a job that ``plan`` has filled in."""
    benchmark: BenchmarkConfig = registry.configure("benchmark", job.benchmark)
    num_tasks = benchmark.check()
    benchmark.check_resources(job.resources)
    return {
        label: Plan(
            label=label,
            base=_base(job, label, entry),
            space=_written_out(entry),
            trials=entry.trials or 1,
            search=job.search,
            lag=job.resources.slots,
            num_tasks=num_tasks,
        )
        for label, entry in job.methods.items()
    }


def _fill_in(job: JobSpec, label: str, entry: Entry) -> Entry:
    name = entry.method.name if entry.method else label.partition(".")[0]
    try:
        registry.find("method", name)
        space = _space(label, name, entry)
        base = _base(job, label, entry.model_copy(update={"space": space}))
    except BadInput as error:
        error.args = (f"job {job.name}: methods.{label}: {error}",)
        raise
    trials = (entry.trials or job.search.trials) if space.searched else 1
    return entry.model_copy(update={"method": base.method, "space": space, "trials": trials})


def _space(label: str, method: str, entry: Entry) -> SearchSpace:
    """The entry's own space, or the one that is named like it, or like its method."""
    if isinstance(entry.space, SearchSpace):
        return entry.space
    if entry.space is not None:
        return load_space(entry.space)
    names = space_names()
    for name in (label, method):
        if name in names:
            return load_space(name)
    raise UnknownName("search space", label, names)


def _written_out(entry: Entry) -> SearchSpace:
    if not isinstance(entry.space, SearchSpace):
        raise TypeError("the job is not planned")
    return entry.space


def _base(job: JobSpec, label: str, entry: Entry) -> TrialSpec:
    method = entry.method.model_dump() if entry.method else {"name": label.partition(".")[0]}
    plain = {
        "method": method,
        "benchmark": job.benchmark.model_dump(),
        "model": job.model.model_dump(),
        "protocol": job.protocol.model_dump(),
        "optimizer": merge(job.optimizer.model_dump(), entry.optimizer),
        "seed": job.search.seed,
    }
    for path, value in _written_out(entry).fixed.items():
        section, _, knob = path.partition(".")
        plain = merge(plain, {section: {knob: value}})
    return registry.complete(parse(TrialSpec, plain, label))


def run_job(job: JobSpec, results: str, watch: Watch) -> dict[str, Any]:
    """Run a job, or what is left of it, and store it; the content of its ``final.json``.

    Raises:
        BadInput: before anything starts, where it can be told then.
        RunFailed: the machinery failed; what has finished is kept.
    """
    job = plan(job)
    folder = job_folder(results, job.name)
    plans = plans_of(job)
    with _alone(folder), contextlib.ExitStack() as stack:
        folder.write("job.yaml", _as_yaml(job).encode())
        planned: dict[tuple[str, Stage], int] = {}
        for label, one in plans.items():
            planned[label, "search"] = one.trials
            planned[label, "test"] = job.final.seeds
        num_tasks = next(iter(plans.values())).num_tasks
        watch(JobStarted(job.name, folder.uri, num_tasks, planned))
        start = time.monotonic()
        started: list[Slots] = []

        def get_slots() -> Slots:
            if not started:
                slots = Slots(job.resources, results, job.store, watch)
                started.append(stack.enter_context(slots))
            return started[0]

        found: dict[str, list[Candidate]] = {}
        for label, one in plans.items():

            def keep(candidates: list[Candidate], label: str = label) -> None:
                found[label] = candidates
                folder.write_lines("trials.jsonl", _log(found))

            sweep.search(one, results, get_slots, watch, keep)
        chosen = {label: _choose(candidates) for label, candidates in found.items()}
        tested = _test(job, chosen, results, get_slots, watch)
        rows = [_row(job, label, found[label], chosen[label], tested[label]) for label in plans]
        board = {
            "job": job.name,
            "benchmark": job.benchmark.model_dump(mode="json"),
            "model": job.model.model_dump(mode="json"),
            "objective": job.search.objective,
            "selection": job.protocol.selection,
            "deterministic": job.search.deterministic and job.search.scheduler is None,
            "num_tasks": num_tasks,
            "rows": rows,
        }
        folder.write_json("leaderboard.json", board)
        final = {
            **board,
            "results": folder.uri,
            "rows": [
                {**row, "train_seconds": _train_seconds(results, row["test_keys"])} for row in rows
            ],
            "seconds": {"this_run": time.monotonic() - start},
        }
        folder.write_json("final.json", final)
    return final


def _as_yaml(job: JobSpec) -> str:
    return yaml.safe_dump(job.model_dump(mode="json"), sort_keys=False)


def _log(found: dict[str, list[Candidate]]) -> list[dict[str, Any]]:
    return [
        {
            "label": label,
            "number": candidate.number,
            "key": candidate.spec.key,
            "values": candidate.values,
            "state": candidate.result.state,
            "value": candidate.result.value,
            "error": candidate.error,
        }
        for label, candidates in found.items()
        for candidate in candidates
    ]


def _choose(candidates: list[Candidate]) -> Candidate | None:
    """The best completed trial; of equals, the first. None when none completed."""
    completed = [c for c in candidates if c.result.value is not None]
    return max(completed, key=lambda c: (c.result.value or 0.0, -c.number), default=None)


def _test(
    job: JobSpec,
    chosen: dict[str, Candidate | None],
    results: str,
    get_slots: Callable[[], Slots],
    watch: Watch,
) -> dict[str, list[tuple[TrialSpec, trial.Outcome]]]:
    """The final runs: each chosen trial on the test set, once for each fresh seed."""
    runs: list[tuple[str, int, TrialSpec]] = []
    for label, candidate in chosen.items():
        for number in range(job.final.seeds if candidate else 0):
            assert candidate is not None
            update = {"split": "test", "seed": job.search.seed + 1 + number}
            runs.append((label, number, candidate.spec.model_copy(update=update)))
    outcomes: dict[int, trial.Outcome] = {}
    for index, (label, number, spec) in enumerate(runs):
        outcome = trial.ended(trial_folder(results, spec.key))
        if outcome is not None:
            outcomes[index] = outcome
            watch(TrialEnded(label, "test", number, outcome.state, None, stored=True))
    missing = [index for index in range(len(runs)) if index not in outcomes]
    if missing:
        _run_missing(runs, missing, outcomes, results, get_slots(), watch)
    tested: dict[str, list[tuple[TrialSpec, trial.Outcome]]] = {label: [] for label in chosen}
    for index, (label, _, spec) in enumerate(runs):
        tested[label].append((spec, outcomes[index]))
    return tested


def _run_missing(
    runs: list[tuple[str, int, TrialSpec]],
    missing: list[int],
    outcomes: dict[int, trial.Outcome],
    results: str,
    slots: Slots,
    watch: Watch,
) -> None:
    def on_record(place: int, record: dict[str, Any]) -> None:
        label, number, _ = runs[missing[place]]
        if record["task"] == 0:
            watch(TrialStarted(label, "test", number))
        accuracy = record.get("metrics", {}).get("average_accuracy") or 0.0
        watch(TaskEnded(label, "test", number, record["task"], accuracy))

    for place, ended in slots.run([runs[index][2] for index in missing], on_record):
        label, number, spec = runs[missing[place]]
        if "bad_input" in ended:
            raise ended["bad_input"]
        failed = trial.Outcome(ended["state"], error=ended.get("error"))
        is_failed = ended["state"] == "failed"
        outcome = None if is_failed else trial.ended(trial_folder(results, spec.key))
        outcomes[missing[place]] = outcome or failed
        error = ended.get("error")
        watch(TrialEnded(label, "test", number, ended["state"], None, error=error))


def _row(
    job: JobSpec,
    label: str,
    candidates: list[Candidate],
    chosen: Candidate | None,
    tested: list[tuple[TrialSpec, trial.Outcome]],
) -> dict[str, Any]:
    """One line of the leaderboard; nothing in it depends on the clock."""
    states = Counter(candidate.result.state for candidate in candidates)
    entry = job.methods[label]
    completed = [outcome for _, outcome in tested if outcome.state == "completed"]
    footprint = completed[0].records[-1]["footprint"] if completed else {}
    assert entry.method is not None
    return {
        "label": label,
        "method": entry.method.name,
        "bound": entry.bound,
        "values": chosen.values if chosen else {},
        "trials": {s: states[s] for s in ("completed", "diverged", "stopped", "failed")},
        "validation": chosen.result.value if chosen else None,
        "test": {name: _spread(completed, name) for name in TESTED},
        "seeds": len(completed),
        "parameters": footprint.get("parameters"),
        "examples": footprint.get("examples"),
        "bytes": footprint.get("bytes"),
        "key": chosen.spec.key if chosen else None,
        "test_keys": [spec.key for spec, _ in tested],
        "error": _error(candidates, chosen, tested),
    }


def _spread(outcomes: list[trial.Outcome], name: str) -> dict[str, Any]:
    values = [v for outcome in outcomes if (v := outcome.metrics.get(name)) is not None]
    if not values:
        return {"mean": None, "interval": None, "values": []}
    mean, half = interval(values)
    return {"mean": mean, "interval": half, "values": values}


def _error(
    candidates: list[Candidate],
    chosen: Candidate | None,
    tested: list[tuple[TrialSpec, trial.Outcome]],
) -> str | None:
    """Why this line is not what it should be, or None."""
    failed = [candidate for candidate in candidates if candidate.result.state == "failed"]
    if failed:
        text = f"{len(failed)} of {len(candidates)} trials failed; trial {failed[0].number}: "
        return text + str(failed[0].error)
    if chosen is None:
        return f"none of {len(candidates)} trials completed"
    odd = [outcome for _, outcome in tested if outcome.state != "completed"]
    if odd:
        reason = odd[0].error or odd[0].state
        return f"{len(odd)} of {len(tested)} test runs did not complete: {reason}"
    return None


def _train_seconds(results: str, keys: list[str]) -> float | None:
    """Mean seconds of training over the final runs, over all of their starts."""
    seconds = []
    for key in keys:
        outcome = trial.ended(trial_folder(results, key))
        if outcome is not None and "train" in outcome.seconds:
            seconds.append(outcome.seconds["train"])
    return sum(seconds) / len(seconds) if seconds else None


@contextlib.contextmanager
def _alone(folder: Folder) -> Iterator[None]:
    """Keeps a second run of the same job out, on one machine; a killed run's hold ends with it."""
    if not folder.is_local:
        yield
        return
    path = Path(folder.uri)
    try:
        path.mkdir(parents=True, exist_ok=True)
        file = open(path / ".lock", "w")  # noqa: SIM115
    except OSError as error:
        raise BadSpec("results", str(path), f"a folder that can be written ({error})") from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BadSpec("results", str(path), "a job that is not running already") from None
        yield
