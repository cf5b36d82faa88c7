"""One method, one stream, once: the only training loop, a pure function of the trial's spec."""

from __future__ import annotations

import io
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

import clray
from clray.assembly import build_learner, build_stream
from clray.distributed import Distributed
from clray.events import TaskEnded, TrialEnded, TrialStarted, Watch
from clray.grading import Grader
from clray.metrics import all_metrics
from clray.spec import Resources, Storing, TrialSpec, derive_seed
from clray.store import Folder, trial_folder
from clray.task import Task

Record = dict[str, Any]
Report = Callable[[Record], bool]


@dataclass(frozen=True)
class Outcome:
    """How a trial ended.

    Attributes:
        state: ``completed``, ``diverged`` (a loss or a prediction was not a number), ``stopped``
            (``report`` said so) or ``failed`` (see ``error``).
        records: one per task that was learned.
        metrics: of the accuracy matrix so far.
        seconds: spent in training, evaluation and checkpoints, over all of the trial's runs.
        error: what went wrong, for a person.
    """

    state: str
    records: list[Record] = field(default_factory=list)
    metrics: dict[str, float | None] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    error: str | None = None


class Interrupted(Exception):
    """The trial was told to leave; what it has stored is where it will go on."""


def go_on(record: Record) -> bool:
    """A report that nobody reads."""
    return True


def never() -> bool:
    """An interruption that does not come."""
    return False


def ended(folder: Folder) -> Outcome | None:
    """What a trial left that has ended for good; None if it must still run, or go on.

    Raises:
        BadData: a file of it is damaged.
    """
    result = folder.read_json("result.json") if folder.has("result.json") else None
    if result is None or result["state"] == "stopped":
        return None
    timing = folder.read_json("timing.json") if folder.has("timing.json") else {}
    records = folder.read_lines("records.jsonl") if folder.has("records.jsonl") else []
    return Outcome(result["state"], records, result["metrics"], timing)


def run(
    spec: TrialSpec,
    folder: Folder,
    report: Report = go_on,
    storing: Storing | None = None,
    device: torch.device | None = None,
    interrupted: Callable[[], bool] = never,
    resources: Resources | None = None,
) -> Outcome:
    """Run the trial, or what is left of it, and store everything under ``folder``.

    With several workers, each calls this; only the first one stores and reports.

    Args:
        spec: filled in by ``clray.registry.complete``.
        folder: the trial's own; what it holds is re-reported and gone on from.
        report: is told each record; returns False to stop the trial there.
        storing: what is kept beside the records.
        device: where data and model lie; the CPU by default.
        interrupted: asked before each batch; True makes the trial leave as if it were killed.
        resources: how a stored stream is read; it changes no result.

    Raises:
        Interrupted: it was.
        BadInput: the benchmark's data are missing, damaged or do not fit its knobs.
    """
    distributed = Distributed()
    outcome = distributed.broadcast(_known(folder, report) if distributed.rank == 0 else None)
    if outcome is not None:
        known: Outcome = outcome
        return known
    device = device or torch.device("cpu")
    progress = _Progress(spec, folder, storing or Storing(), device, resources or Resources())
    progress.interrupted = interrupted
    return progress.go(report)


def run_here(
    spec: TrialSpec,
    results: str,
    storing: Storing,
    watch: Watch,
    resources: Resources | None = None,
) -> dict[str, Any]:
    """Run a completed spec in this process, without Ray; what it did, as a plain mapping."""
    torch.set_num_threads(1)
    folder = trial_folder(results, spec.key)
    was_stored = ended(folder) is not None
    watch(TrialStarted(spec.method.name, "test", 0))
    outcome = run(spec, folder, watching(spec, watch), storing, resources=resources)
    watch(TrialEnded(spec.method.name, "test", 0, outcome.state, None, was_stored))
    return summary(spec, folder, outcome, was_stored)


def watching(spec: TrialSpec, watch: Watch) -> Report:
    """A report that turns records into events."""

    def report(record: Record) -> bool:
        accuracy = record["metrics"].get("average_accuracy")
        watch(TaskEnded(spec.method.name, "test", 0, record["task"], accuracy or 0.0))
        return True

    return report


def summary(spec: TrialSpec, folder: Folder, outcome: Outcome, stored: bool) -> dict[str, Any]:
    """An outcome as a plain mapping, for those who print it."""
    return {
        "key": spec.key,
        "state": outcome.state,
        "metrics": outcome.metrics,
        "records": outcome.records,
        "seconds": outcome.seconds,
        "path": folder.uri,
        "error": outcome.error,
        "stored": stored,
    }


def _known(folder: Folder, report: Report) -> Outcome | None:
    """The stored outcome of a trial that has ended, its records reported once more."""
    outcome = ended(folder)
    for record in outcome.records if outcome else ():
        report(record)
    return outcome


class _Progress:
    """A trial under way: the learner, where it stands, and what it has recorded."""

    def __init__(
        self,
        spec: TrialSpec,
        folder: Folder,
        storing: Storing,
        device: torch.device,
        resources: Resources,
    ) -> None:
        self.spec, self.folder, self.storing, self.device = spec, folder, storing, device
        self.interrupted: Callable[[], bool] = never
        self.distributed = Distributed()
        self.leads = self.distributed.rank == 0
        self.stream = build_stream(spec, device, resources)
        self.grader = Grader(self.stream, spec.protocol.head, device)
        self.records: list[Record] = []
        self.initial: list[float | None] = []
        self.task = self.epoch = self.steps = 0
        self.losses: dict[str, list[float | None]] = {}
        self.seconds = {"train": 0.0, "eval": 0.0, "store": 0.0}
        saved = self._saved()
        if saved is None:
            self.learner = build_learner(spec, self.stream, device)
            if self.leads:
                folder.write_json("spec.json", spec.model_dump(mode="json"))
        else:
            self._restore(saved)

    # The loop.

    def go(self, report: Report) -> Outcome:
        """Learn what is left of the stream."""
        if self.leads:
            self.folder.delete("result.json")  # of a trial that was stopped
        if not all(self._tell(report, record) for record in self.records):
            return self._end("stopped")
        if self.task == 0 and self.epoch == 0 and not self.initial:
            with self._timed("eval"):
                self.initial = self.grader.accuracies(self.learner, seen=0)
        num_epochs = self.spec.protocol.epochs
        for index in range(self.task, len(self.stream.tasks)):
            task = self.stream.tasks[index].for_learning()
            if self.epoch == 0:
                with self._timed("train"):
                    self._begin(task)
            while self.epoch < num_epochs:
                with self._timed("train"):
                    finite = self._learn(task, num_epochs)
                self.epoch += 1
                if not finite:
                    return self._diverge()
                self._maybe_checkpoint(num_epochs)
            with self._timed("train"):
                self.learner.end_task(task)
            with self._timed("eval"):
                row = self.grader.accuracies(self.learner, seen=index + 1)
            if any(accuracy is not None and math.isnan(accuracy) for accuracy in row):
                return self._diverge()
            record = self._record(row)
            self.task, self.epoch, self.steps, self.losses = index + 1, 0, 0, {}
            if self.task < len(self.stream.tasks):
                self._checkpoint()
            if not self._tell(report, record):
                return self._end("stopped")
        return self._end("completed")

    def _begin(self, task: Task) -> None:
        self.grader.set_rivals(self.learner, task.index)
        if self.spec.optimizer.reset:
            self.learner.optimizer.state.clear()
        self.learner.train_mode(True)
        self.learner.begin_task(task)

    def _learn(self, task: Task, num_epochs: int) -> bool:
        """One pass over the task; whether every loss was a number."""
        learner, protocol = self.learner, self.spec.protocol
        learner.train_mode(True)
        learner.begin_epoch(task, self.epoch, num_epochs)
        seed = derive_seed(self.spec.seed, "batches", task.name)
        totals: dict[str, Tensor] = {}
        steps = 0
        rank, world = self.distributed.rank, self.distributed.world
        for x, y in task.train.batches(
            protocol.batch_size, seed, self.epoch, rank=rank, world=world
        ):
            if self.interrupted():
                raise Interrupted
            for name, value in learner.observe(x, y, task).items():
                totals[name] = totals[name] + value if name in totals else value
            steps += 1
        self.steps += steps
        if not totals:
            return True
        sums = self.distributed.sum(torch.stack([v.detach().float() for v in totals.values()]))
        means = (sums / (steps * world)).tolist()
        for name, mean in zip(totals, means, strict=True):
            finite = math.isfinite(mean)
            self.losses.setdefault(name, []).append(mean if finite else None)
        return all(losses[-1] is not None for losses in self.losses.values())

    # What is stored.

    def _record(self, row: list[float | None]) -> Record:
        record: Record = {
            "task": self.task,
            "name": self.stream.tasks[self.task].name,
            "accuracy": row,
            "losses": self.losses,
            "steps": self.steps,
            "footprint": self.learner.footprint(),
        }
        if self.task == 0:
            record["initial"] = self.initial
        self.records.append(record)
        record["metrics"] = self._metrics()
        return record

    def _metrics(self) -> dict[str, float | None]:
        rows = [r["accuracy"] for r in self.records if r["accuracy"] is not None]
        return all_metrics(rows, self.initial) if rows else {}

    def _diverge(self) -> Outcome:
        name = self.stream.tasks[self.task].name
        record = {"task": self.task, "name": name, "accuracy": None, "losses": self.losses}
        self.records.append({**record, "steps": self.steps, "diverged": {"epoch": self.epoch}})
        return self._end("diverged")

    def _end(self, state: str) -> Outcome:
        metrics = self._metrics()
        if self.leads:
            self.folder.write_lines("records.jsonl", self.records)
            self.folder.write_json("timing.json", self.seconds)
            if state == "completed" and self.storing.model:
                tensors = {k: v.contiguous() for k, v in self.learner.model.state_dict().items()}
                self.folder.write("model.safetensors", safetensors.torch.save(tensors))
            self.folder.write_json("result.json", {"state": state, "metrics": metrics})
            if state != "stopped":
                self.folder.delete("checkpoint")
                self.folder.delete("error.txt")
                self.folder.sweep_up()
        return Outcome(state, self.records, metrics, self.seconds)

    def _tell(self, report: Report, record: Record) -> bool:
        told: bool = self.distributed.broadcast(report(record) if self.leads else None)
        return told

    def _maybe_checkpoint(self, num_epochs: int) -> None:
        every = self.storing.checkpoint_epochs
        if every is not None and self.epoch % every == 0 and self.epoch < num_epochs:
            self._checkpoint()

    def _checkpoint(self) -> None:
        """Store the whole learner and where it stands; ``end_task`` of a task is never cut off
        from its last epoch."""
        if not self.leads:
            return
        with self._timed("store"):
            state = {name: getattr(self, name) for name in _CARRIED}
            state |= {"version": clray.__version__, "key": self.spec.key}
            state["random"] = torch.get_rng_state()
            if self.device.type == "cuda":
                state["cuda_random"] = torch.cuda.get_rng_state(self.device)
            buffer = io.BytesIO()
            torch.save(state, buffer)
            self.folder.write("checkpoint", buffer.getvalue())
            self.folder.write_lines("records.jsonl", self.records)

    def _saved(self) -> dict[str, Any] | None:
        """The checkpoint, if there is one that this version of clray wrote for this spec."""
        has = self.leads and self.folder.has("checkpoint")
        content = self.distributed.broadcast(self.folder.read("checkpoint") if has else None)
        if content is None:
            return None
        # Our own file, never a download: loading it may execute what a learner pickles to.
        saved: dict[str, Any] = torch.load(
            io.BytesIO(content), map_location=self.device, weights_only=False
        )
        fits = saved["version"] == clray.__version__ and saved["key"] == self.spec.key
        return saved if fits else None

    def _restore(self, saved: dict[str, Any]) -> None:
        for name in _CARRIED:
            setattr(self, name, saved[name])
        torch.set_rng_state(saved["random"].cpu())
        if "cuda_random" in saved:
            torch.cuda.set_rng_state(saved["cuda_random"].cpu(), self.device)

    def _timed(self, what: str) -> _Stopwatch:
        return _Stopwatch(self.seconds, what, self.device)


_CARRIED = ("learner", "records", "initial", "task", "epoch", "steps", "losses", "seconds")


class _Stopwatch:
    """Adds the time spent inside to ``seconds[what]``."""

    def __init__(self, seconds: dict[str, float], what: str, device: torch.device) -> None:
        self.seconds, self.what, self.device = seconds, what, device

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def __enter__(self) -> None:
        self.start = self._now()

    def __exit__(self, *exception: object) -> None:
        self.seconds[self.what] += self._now() - self.start
