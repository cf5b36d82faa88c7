"""The only training loop: a learner goes through a stream, is graded, recorded and checkpointed."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from clray import apart, checkpoint
from clray.assembly import build_learner, build_stream, change
from clray.distributed import Distributed
from clray.grading import Grader
from clray.guard import Guard
from clray.learner import Learner
from clray.memory import Batch, Memory
from clray.metrics import all_metrics, costs
from clray.outcome import Interrupted, Outcome, Record, Report, never
from clray.spec import Resources, Storing, TrialSpec, derive_seed
from clray.store import Folder
from clray.task import Task
from clray.traces import trace_metrics, traces_of
from clray.tracing import Points, Tracer


@dataclass(frozen=True)
class Learned:
    """A task that was learned.

    Attributes:
        row: of the accuracy matrix.
        examples_seen: that were passed over, repeats counted.
        facts: what the method says.
        part: key of the trial that learned it, where that was another one.
    """

    row: list[float | None]
    examples_seen: int
    facts: dict[str, Any] | None
    part: str | None = None


class Loop:
    """A trial under way: the learner, where it stands, and what it has recorded.

    Args:
        spec: filled in.
        folder: the trial's own.
        storing: what is kept beside the records.
        device: where data and model lie.
        resources: how a stored stream is read.
        guard: knows what may be read.
    """

    def __init__(
        self,
        spec: TrialSpec,
        folder: Folder,
        storing: Storing,
        device: torch.device,
        resources: Resources,
        guard: Guard,
    ) -> None:
        self.spec, self.folder, self.storing, self.device = spec, folder, storing, device
        self.guard = guard
        self.interrupted: Callable[[], bool] = never
        self.keep = False
        self.distributed = Distributed()
        self.leads = self.distributed.rank == 0
        self.stream = guard.wrap(build_stream(spec, device, resources))
        self.grader = Grader(self.stream, spec.protocol.head, device, spec.graded)
        evaluation = spec.protocol.evaluation
        self.tracer = Tracer(evaluation, self.grader) if evaluation else None
        self.points: Points | None = None
        self.num_tasks = spec.until or len(self.stream.tasks)
        self.records: list[Record] = []
        self.initial: list[float | None] = []
        self.task = self.epoch = self.steps = self.drawn = 0
        self.losses: dict[str, list[float | None]] = {}
        self.reads: dict[str, set[int]] = {}
        self.held: Batch | None = None
        self.seconds: dict[str, Any] = {"train": 0.0, "eval": 0.0, "store": 0.0, "tasks": []}
        self.seconds["steps"] = 0  # that this trial itself has made
        if evaluation:
            self.seconds["trace"] = 0.0
        content = self.distributed.broadcast(self._find() if self.leads else None)
        if content is None:
            self.learner = build_learner(spec, self.stream, device)
        else:
            state = checkpoint.load(content, device)
            for name in _CARRIED:
                setattr(self, name, state[name])
            guard.reads = self.reads
            if not checkpoint.is_of(content, spec):
                self.seconds["steps"] = 0
        if self.leads and (content is None or not folder.has("spec.json")):
            folder.write_json("spec.json", spec.model_dump(mode="json"))

    def _find(self) -> bytes | None:
        """The checkpoint to go on from."""
        return checkpoint.find(self.spec, self.folder, self.device)

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
        for index in range(self.task, self.num_tasks):
            self.guard.now = index
            learned = self._take(self.stream.tasks[index].for_learning())
            if learned is None or any(a is not None and math.isnan(a) for a in learned.row):
                return self._diverge()
            record = self._record(learned)
            self.task, self.epoch, self.steps, self.losses = index + 1, 0, 0, {}
            if self.task < self.num_tasks or self.keep:
                self._checkpoint()
            if not self._tell(report, record) and self.task < self.num_tasks:
                return self._end("stopped")
        return self._end("completed")

    def _take(self, task: Task) -> Learned | None:
        """Learn a task, or what is left of it, and grade; None where a loss was not a number."""
        if self.epoch == 0:
            if self.tracer:
                with self._timed("trace"):
                    self.points = self.tracer.begin(self.learner, task.index)
            with self._timed("train"):
                self._begin(task)
            self._trace(task, 0)
        num_epochs = self.learner.setup.num_epochs(task)
        while self.epoch < num_epochs:
            with self._timed("train"):
                finite = self._learn(task, num_epochs)
            self.epoch += 1
            if not finite:
                return None
            self._maybe_checkpoint(num_epochs)
        with self._timed("train"):
            facts = self.learner.end_task(task)
        self._trace(task, self.steps)
        with self._timed("eval"):
            row = self._grade(task.index)
        if self.leads and task.index > 0 and apart.is_part(self.spec):
            apart.save(self.learner.learned_of(task), self.spec, self.folder)
        return Learned(row, self.learner.setup.examples_seen(task), facts)

    def _begin(self, task: Task) -> None:
        told = self.spec.change_at(task.index)
        if told is not None:
            before, self.learner = self.learner, change(self.learner, told)
            self.drawn = self.drawn if self.learner is before else 0
        self.grader.set_rivals(self.learner, task.index)
        if self.spec.optimizer.reset:
            self.learner.optimizer.state.clear()
        if self.spec.graded == "memory" and task.index > 0:
            seed = derive_seed(self.spec.seed, "held out", task.name)
            self.held = self._held_in().hold_out(self.spec.held_out, seed)
        if task.index > 0 and apart.is_promised(self.spec):
            torch.manual_seed(derive_seed(self.spec.seed, "training", task.name))
            own = derive_seed(self.spec.seed, "learner", task.name)
            self.learner.setup.generator.manual_seed(own)
        self.learner.train_mode(True)
        self.learner.begin_task(task)

    def _grade(self, index: int) -> list[float | None]:
        """The row of the accuracy matrix after that task."""
        row = self.grader.accuracies(self.learner, seen=index + 1)
        if self.held is not None:
            for position in sorted(set(self.held[2].tolist())):
                self.guard.touch("memory", position)
                row[position] = self.grader.accuracy_on(self.learner, self.held, position, index)
            self._held_in().give_back()
            self.held = None
        return row

    def _learn(self, task: Task, num_epochs: int) -> bool:
        """One pass over the task; whether every loss was a number."""
        learner = self.learner
        learner.train_mode(True)
        learner.begin_epoch(task, self.epoch, num_epochs)
        seed = derive_seed(self.spec.seed, "batches", task.name)
        totals: dict[str, Tensor] = {}
        steps = 0
        left = learner.setup.num_updates(task) - self.steps
        rank, world = self.distributed.rank, self.distributed.world
        batches = task.train.batches(
            learner.setup.batch_size, seed, self.epoch, rank=rank, world=world
        )
        with self._head_alone(task):
            for x, y in islice(batches, left):
                if self.interrupted():
                    raise Interrupted
                for name, value in learner.observe(x, y, task).items():
                    totals[name] = totals[name] + value if name in totals else value
                steps += 1
                if self.tracer and self.tracer.due(self.steps + steps):
                    self._trace(task, self.steps + steps, within="train")
        self.steps += steps
        self.seconds["steps"] += steps
        if not totals:
            return True
        sums = self.distributed.sum(torch.stack([v.detach().float() for v in totals.values()]))
        means = (sums / (steps * world)).tolist()
        for name, mean in zip(totals, means, strict=True):
            finite = math.isfinite(mean)
            self.losses.setdefault(name, []).append(mean if finite else None)
        return all(losses[-1] is not None for losses in self.losses.values())

    @contextmanager
    def _head_alone(self, task: Task) -> Iterator[None]:
        """Keep the encoder still, where the task is to teach the head alone."""
        if task.index > 0 or self.spec.protocol.first_learns == "all":
            yield
            return
        encoder = self.learner.setup.model.get_submodule("encoder")
        encoder.eval()
        learned = [p for p in encoder.parameters() if p.requires_grad]
        for parameter in learned:
            parameter.requires_grad_(False)
        yield
        for parameter in learned:
            parameter.requires_grad_(True)

    def _trace(self, task: Task, update: int, within: str | None = None) -> None:
        """Grade the learner in the midst of a task, if that is asked for; the time is not that of
        the stopwatch that runs."""
        if self.tracer is None or self.points is None:
            return
        before = self.seconds["trace"]
        with self._timed("trace"):
            self.tracer.point(self.learner, self.points, task.index, update)
        if within is not None:
            self.seconds[within] -= self.seconds["trace"] - before

    # What is stored.

    def _record(self, learned: Learned) -> Record:
        with self._timed("eval"):
            regions = self.grader.regions(self.learner, self.task + 1)
        record: Record = {
            "task": self.task,
            "name": self.stream.tasks[self.task].name,
            "accuracy": learned.row,
            "losses": self.losses,
            "steps": self.steps,
            "examples_seen": learned.examples_seen,
            **self._replayed(),
            "footprint": self.learner.footprint(),
            "reads": self.guard.taken(),
        }
        if learned.facts is not None:
            record["facts"] = learned.facts
        if learned.part is not None:
            record["part"] = learned.part
        if regions is not None:
            record["regions"] = regions
        if self.tracer is not None and self.points is not None:
            record["trace"] = self.tracer.plain(self.points)
            self.points = None
        if self.task == 0:
            record["initial"] = self.initial
        self.records.append(record)
        record["metrics"] = self._metrics()
        self.seconds["tasks"].append(self.seconds["train"] - math.fsum(self.seconds["tasks"]))
        return record

    def _replayed(self) -> dict[str, int]:
        """How many examples were drawn from the learner's memory since this was last asked."""
        memory = _memory(self.learner)
        if memory is None:
            return {}
        count = memory.drawn - self.drawn
        self.drawn = memory.drawn
        return {"replayed": count}

    def _held_in(self) -> Memory:
        memory = _memory(self.learner)
        assert memory is not None  # what is graded on one is refused without
        return memory

    def _metrics(self) -> dict[str, float | None]:
        done = [r for r in self.records if r["accuracy"] is not None]
        if not done:
            return {}
        rows = [r["accuracy"] for r in done]
        measured = all_metrics(rows, self.initial)
        if self.spec.graded in ("current", "memory"):
            graded = [a for a in rows[-1] if a is not None]
            measured = dict.fromkeys(measured)
            measured["average_accuracy"] = math.fsum(graded) / len(graded)
        if self.tracer is not None:
            measured |= trace_metrics(traces_of(done))
        steps, examples = (sum(r[name] for r in done) for name in ("steps", "examples_seen"))
        replayed = sum(r.get("replayed", 0) for r in done)
        return {**measured, **costs([r["footprint"] for r in done], steps, examples, replayed)}

    def _diverge(self) -> Outcome:
        name = self.stream.tasks[self.task].name
        record = {"task": self.task, "name": name, "accuracy": None, "losses": self.losses}
        record |= {"steps": self.steps, "reads": self.guard.taken()}
        self.records.append({**record, "diverged": {"epoch": self.epoch}})
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
                if not self.keep or state != "completed":
                    self.folder.delete(checkpoint.NAME)
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
            self.reads = self.guard.reads
            state = {name: getattr(self, name) for name in _CARRIED}
            checkpoint.save(state, self.spec.key, self.folder, self.device)
            self.folder.write_lines("records.jsonl", self.records)

    def _timed(self, what: str) -> _Stopwatch:
        return _Stopwatch(self.seconds, what, self.device)


_CARRIED = (
    "learner",
    "records",
    "initial",
    "task",
    "epoch",
    "steps",
    "losses",
    "reads",
    "held",
    "points",
    "drawn",
    "seconds",
)


def _memory(learner: Learner) -> Memory | None:
    """The learner's memory of old examples, if it has one."""
    found = (value for value in vars(learner).values() if isinstance(value, Memory))
    return next(found, None)


class _Stopwatch:
    """Adds the time spent inside to ``seconds[what]``."""

    def __init__(self, seconds: dict[str, Any], what: str, device: torch.device) -> None:
        self.seconds, self.what, self.device = seconds, what, device

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def __enter__(self) -> None:
        self.start = self._now()

    def __exit__(self, *exception: object) -> None:
        self.seconds[self.what] += self._now() - self.start
