"""The guard through which a trial reads its data: it knows what the protocol allows, raises when
anything else is touched, and keeps a list of what was read.

A selection protocol says what its trials may read (a ``Permission``); a trial's spec says what it
learns and is graded on. The two are made apart, so that a mistake in one is caught by the other.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor

from clray import registry
from clray.errors import Leak
from clray.spec import Component, Graded, Spec, Split, TrialSpec
from clray.task import Examples, Stream, Task

Reads = dict[str, list[int]]
"""By split (train, validation, test or memory), the positions in the stream of the tasks read."""


class Permission(Spec):
    """What a trial may read.

    Training examples of the task that is being learned (and of those before it, by methods that
    learn from all so far), and to be graded on, examples of one split.
    """

    protocol: str
    """Whose rule this is, for a person."""
    split: Split
    """The split to be graded on; the other one is out of bounds."""
    tasks: tuple[int, ...] | None = None
    """Positions in the benchmark of the tasks that may be touched at all; none: all."""
    graded: Graded = "stream"
    """Which tasks may be graded when; see ``TrialSpec.graded``."""
    benchmark: str | None = None
    """The benchmark's identity (``identity``); none: any."""

    def check_spec(self, spec: TrialSpec) -> None:
        """Refuse a trial that is not meant to keep to this.

        Raises:
            Leak: another benchmark.
        """
        if self.benchmark is not None and identity(spec.benchmark) != self.benchmark:
            raise Leak(self.protocol, "read another benchmark than its own")

    def check(self, split: str, position: int, place: int, now: int, cumulative: bool) -> None:
        """Refuse to read.

        Args:
            split: what is read.
            position: of the task in the trial's stream.
            place: of the task in the benchmark.
            now: position of the task that is being learned; -1 before the first.
            cumulative: whether the method learns from all tasks so far.

        Raises:
            Leak: it may not be read, or not yet, or no longer.
        """
        what = f"{split} examples of task {place + 1}"
        if self.tasks is not None and place not in self.tasks:
            raise Leak(self.protocol, f"read {what}, which is not among its tasks")
        if split == "train":
            allowed = position <= now if cumulative else position == now
        elif split == "memory":
            allowed = self.graded == "memory" and position < now
        elif split != self.split:
            raise Leak(self.protocol, f"read {what} while only {self.split} may be")
        elif self.graded == "stream":
            allowed = True
        elif self.graded == "seen":
            allowed = position <= now
        else:
            allowed = position == now
        if not allowed:
            when = f"while learning the {now + 1}. of its stream" if now >= 0 else "at the start"
            raise Leak(self.protocol, f"read {what} {when}")

    def check_records(
        self, spec: TrialSpec, records: Sequence[dict[str, Any]], all_of: bool
    ) -> None:
        """Refuse the results of a trial that read what this forbids.

        Args:
            spec: of the trial.
            records: as it stored them.
            all_of: whether its method learns from all tasks so far.

        Raises:
            Leak: it did.
        """
        self.check_spec(spec)
        for record in records:
            for split, positions in record.get("reads", {}).items():
                for position in positions:
                    place = spec.tasks[position] if spec.tasks else position
                    self.check(split, position, place, record["task"], all_of)


def identity(benchmark: Component) -> str:
    """Names a benchmark and its knobs, but for those that say in what form it is read."""
    filled_in = registry.configure("benchmark", benchmark).filled_in
    return benchmark.model_dump_json(exclude=set(filled_in))


def own(spec: TrialSpec) -> Permission:
    """What a trial may read that no protocol stands behind: what its spec says."""
    return Permission(protocol="this trial", split=spec.split, tasks=spec.tasks, graded=spec.graded)


class Guard:
    """Checks and notes what a trial reads.

    Args:
        permission: what is allowed.
        spec: of the trial.
        cumulative: whether its method learns from all tasks so far.

    Attributes:
        now: position of the task that is being learned; -1 before the first.
    """

    def __init__(self, permission: Permission, spec: TrialSpec, cumulative: bool) -> None:
        permission.check_spec(spec)
        self.permission, self.spec, self.cumulative = permission, spec, cumulative
        self.now = -1
        self.reads: dict[str, set[int]] = {}

    def touch(self, split: str, position: int) -> None:
        """Note that examples of a task are read.

        Raises:
            Leak: they may not be.
        """
        place = self.spec.tasks[position] if self.spec.tasks else position
        self.permission.check(split, position, place, self.now, self.cumulative)
        self.reads.setdefault(split, set()).add(position)

    def taken(self) -> Reads:
        """What was read since this was last asked."""
        reads = {split: sorted(self.reads[split]) for split in sorted(self.reads)}
        self.reads = {}
        return reads

    def wrap(self, stream: Stream) -> Stream:
        """``stream`` with every task's examples guarded."""
        everything = tuple(range(len(stream.tasks)))

        def guarded(task: Task) -> Task:
            learned = everything[: task.index + 1] if self.cumulative else (task.index,)
            graded = everything if stream.graded_together else (task.index,)
            return dataclasses.replace(
                task,
                train=GuardedExamples(task.train, self, "train", learned),
                eval=GuardedExamples(task.eval, self, self.spec.split, graded),
            )

        return dataclasses.replace(stream, tasks=tuple(guarded(task) for task in stream.tasks))


@dataclasses.dataclass(frozen=True)
class GuardedExamples:
    """Examples that may be counted, but are read through the guard.

    Attributes:
        examples: what is guarded.
        guard: is asked before each pass.
        split: which they are of.
        positions: of the tasks that they come from.
    """

    examples: Examples
    guard: Guard
    split: str
    positions: tuple[int, ...]

    def __len__(self) -> int:
        """How many there are."""
        return len(self.examples)

    def batches(
        self, size: int, seed: int | None = None, epoch: int = 0, *, rank: int = 0, world: int = 1
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """See ``clray.task.Examples.batches``.

        Raises:
            Leak: the protocol does not allow it now.
        """
        for position in self.positions:
            self.guard.touch(self.split, position)
        return self.examples.batches(size, seed, epoch, rank=rank, world=world)
