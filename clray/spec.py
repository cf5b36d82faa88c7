"""A trial, written out: method, benchmark, model, protocol, optimizer, split and seed.

Search spaces stand in ``clray.space``, selection protocols in ``clray.selection``, jobs in
``clray.job``. Each model is strict: an unknown key, a wrong type or a number out of bounds is
refused, and ``clray.parsing`` says where it stands, what was given and what is accepted. A knob of
a method, a benchmark or a network stands on the Config in that component's own file;
``clray.registry`` fills it in and checks it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import (
    BaseModel,
    ByteSize,
    ConfigDict,
    Field,
    field_validator,
    model_validator,
)

Scenario = Literal[
    "class-incremental", "task-incremental", "domain-incremental", "data-incremental"
]
SCENARIOS: tuple[str, ...] = get_args(Scenario)
Split = Literal["validation", "test"]

KEY_FORMAT = 2
"""Part of every trial's key: raise it when the meaning of a spec changes."""
LATER = {"updates": None, "first_updates": None, "first_learns": "all", "evaluation": None}
"""Fields that are no part of the key while they are as here: trials stored before them keep
theirs."""
PIN = "#sha256="
"""Stands between an address and the hash of what lies there: a trial's key knows the hash alone."""


@dataclass(frozen=True)
class Tag:
    """What a knob is for. An untagged knob is set when a learner is built, and stays.

    Written as ``strength: Annotated[float, STABILITY] = Field(100.0, ge=0)``.
    """

    kind: Literal["plasticity", "stability"]


PLASTICITY = Tag("plasticity")
"""How well and how fast the current task is learned; may change between tasks."""
STABILITY = Tag("stability")
"""How much of the old tasks is kept; may change between tasks. One task alone cannot show it."""


class Spec(BaseModel):
    """A frozen, strict value object; the ancestor of all that a person writes."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


class Component(BaseModel):
    """A method, benchmark or model by name, with its own knobs beside the name.

    Written as ``ewc`` or as ``{name: ewc, strength: 100}``; a stored stream also as
    ``{stream: <address>}``.
    """

    model_config = ConfigDict(extra="allow", frozen=True, allow_inf_nan=False)

    name: str

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, data: Any) -> Any:
        if isinstance(data, Mapping) and "stream" in data and "name" not in data:
            return {"name": "stored", **data}
        return {"name": data} if isinstance(data, str) else data

    @property
    def knobs(self) -> dict[str, Any]:
        """The keys beside the name."""
        return dict(self.model_extra or {})


class Evaluation(Spec):
    """Continual evaluation: accuracy on all tasks so far while a task is learned."""

    every: int = Field(10, ge=1)
    """Updates between two points."""
    first: int = Field(30, ge=0)
    """After each of a task's first so many updates there is a point as well."""
    subset: int = Field(50, ge=1)
    """Examples of each class of each task that are graded; fewer where it has fewer. They are the
    same for all methods and seeds."""


class Protocol(Spec):
    """What is the same for all methods that are compared."""

    epochs: Annotated[int, PLASTICITY] = Field(1, ge=1)
    """Passes over each task's training examples."""
    updates: Annotated[int | None, PLASTICITY] = Field(None, ge=1)
    """Steps on each task, in place of epochs: as many passes as they need, the last one cut short;
    none: epochs."""
    first_updates: Annotated[int | None, PLASTICITY] = Field(None, ge=0)
    """Steps on the first task; 0: the model knows it already; none: as on the others."""
    first_learns: Literal["all", "head"] = "all"
    """What the first task teaches: the whole network, or the head alone, so that an encoder that
    was pre-trained is still as it was when the second task comes."""
    batch_size: Annotated[int, PLASTICITY] = Field(64, ge=1)
    """Examples per step, over all workers."""
    memory: int = Field(0, ge=0)
    """Examples that a method may keep from old tasks, over all classes."""
    validation_fraction: float = Field(0.1, gt=0, lt=1)
    """Share of each task's training examples, stratified by class, that is held out while
    hyperparameters are chosen. The final test runs learn from all training examples."""
    head: Literal["growing", "fixed"] = "growing"
    """Class-incremental only: which output units compete in the training loss and in prediction;
    those of the classes seen so far (growing), or all of the stream's from the start (fixed)."""
    evaluation: Evaluation | None = None
    """Continual evaluation; none: accuracy is measured where a task ends."""


class Optimizer(Spec):
    """The optimizer that the frame hands to every method."""

    name: Literal["sgd", "adam", "adamw"] = "sgd"
    """Update rule."""
    lr: Annotated[float, PLASTICITY] = Field(0.1, gt=0)
    """Learning rate."""
    momentum: Annotated[float, PLASTICITY] = Field(0.0, ge=0, lt=1)
    """Momentum (sgd only)."""
    weight_decay: Annotated[float, PLASTICITY] = Field(0.0, ge=0)
    """L2 penalty (sgd, adam) or decoupled decay (adamw)."""
    clip_norm: Annotated[float | None, PLASTICITY] = Field(None, gt=0)
    """Largest norm of the whole gradient; none: not clipped."""
    reset: bool = False
    """Whether the optimizer's state starts afresh at each task."""


class Change(Spec):
    """What is different from a task of the stream on: all that may change while a stream is
    learned."""

    task: int = Field(ge=1)
    """Position in the stream, from 0, of the first task that is learned so."""
    method: Component
    """The method and its knobs; another method takes over the network alone."""
    optimizer: Optimizer = Optimizer()
    """The optimizer and its knobs."""
    epochs: int = Field(1, ge=1)
    """Passes over each task's training examples."""
    updates: int | None = Field(None, ge=1)
    """Steps on each task, in place of epochs."""
    batch_size: int = Field(64, ge=1)
    """Examples per step, over all workers."""


Graded = Literal["stream", "seen", "current", "memory"]


class TrialSpec(Spec):
    """One method on one stream, once: all that the records depend on, and nothing else."""

    method: Component
    """The method and its knobs."""
    benchmark: Component
    """The benchmark and its knobs: dataset, scenario, split and order."""
    model: Component = Component(name="mlp")
    """The network and its knobs."""
    protocol: Protocol = Protocol()
    """What is the same for all methods that are compared."""
    optimizer: Optimizer = Optimizer()
    """The optimizer and its knobs."""
    split: Split = "validation"
    """What the learner is graded on: validation while selecting, test in the final runs."""
    seed: int = Field(0, ge=0, lt=2**63)
    """Source of all randomness."""
    tasks: tuple[Annotated[int, Field(ge=0)], ...] | None = Field(None, min_length=1)
    """Which tasks of the benchmark are learned, by their position in it, and in which order; none:
    all, as they come."""
    until: int | None = Field(None, ge=1)
    """How many of these are learned; none: all. The rest is known to come, but never read."""
    graded: Graded = "stream"
    """Which tasks are graded after each task: all that the scenario allows; those seen so far; the
    current one; or the current one and, of each task before it, examples that were held out of the
    learner's memory while the current one was learned."""
    held_out: float = Field(0.2, gt=0, lt=1)
    """Share of the memory, of each class, that is held out (graded: memory only)."""
    changes: tuple[Change, ...] = ()
    """What changes from later tasks on, in their order."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.tasks is not None and len(set(self.tasks)) != len(self.tasks):
            raise ValueError("tasks that differ")
        starts = [change.task for change in self.changes]
        if starts != sorted(set(starts)):
            raise ValueError("changes in the order of their tasks, one for each")
        return self

    def change_at(self, task: int) -> Change | None:
        """What changes when the task at that position begins."""
        return next((change for change in self.changes if change.task == task), None)

    def first(self, until: int) -> TrialSpec:
        """The trial that learns the first ``until`` tasks of this one's stream in the same way."""
        changes = tuple(change for change in self.changes if change.task < until)
        return self.model_copy(update={"until": until, "changes": changes})

    @property
    def key(self) -> str:
        """Stable hash of the spec, 20 hexadecimal digits: where its records are stored.

        Only a spec that ``clray.registry.complete`` has filled in has a meaningful key.
        """
        written = _by_content(self.model_dump(mode="json"))
        for part in (written["protocol"], *written["changes"]):
            for name, usual in LATER.items():
                if part.get(name) == usual:
                    part.pop(name, None)
        text = json.dumps(
            {"format": KEY_FORMAT, **written},
            sort_keys=True,
            separators=(",", ":"),
            allow_nan=False,
        )
        return hashlib.sha256(text.encode()).hexdigest()[:20]


Reading = Literal["auto", "device", "memory", "stream"]


class Resources(Spec):
    """What a slot holds for as long as the job runs."""

    slots: int = Field(2, ge=1)
    """Trials at once, at most: on a cluster slots come and go with the machines, on one machine
    there are as many as it holds. The proposals stay the same."""
    workers: int = Field(1, ge=1)
    """Workers that share each trial, every one with its part of each batch."""
    cpus_per_worker: float = Field(1, gt=0)
    """CPUs of each worker, and its threads."""
    gpus_per_worker: float = Field(0, ge=0)
    """GPUs of each worker, a whole number; below 1, trials share one: 0.25 packs four on each."""
    device: Literal["auto", "cpu"] = "auto"
    """Where workers learn: on the GPU that they hold, if any, or on the CPU whatever they hold, to
    rehearse without GPUs."""
    idle_seconds: float = Field(60, ge=0)
    """On a cluster: a slot that has had nothing to do for so long is closed, and its machines may
    go; it is started again when it has."""
    reading: Reading = "auto"
    """How a stored stream is read: whole on the device, whole in the memory that the workers of a
    machine share, streamed, or (auto) the first of these that it fits. Results are the same."""
    memory: ByteSize = ByteSize(2 << 30)
    """The most that each worker keeps of a stored stream, such as 2 GiB."""

    @field_validator("gpus_per_worker")
    @classmethod
    def _whole(cls, value: float) -> float:
        if value > 1 and value != int(value):
            raise ValueError("a whole number, or a share of one below 1")
        return value


class Storing(Spec):
    """What is kept of each trial beside its records. Nothing here changes a result."""

    checkpoint_epochs: int | None = Field(None, ge=1)
    """Checkpoint every so many epochs, beside the one at the end of each task."""
    model: bool = False
    """Whether the final model is kept, as safetensors."""


def derive_seed(seed: int, *names: object) -> int:
    """A seed in [0, 2^63) for one purpose, independent of those for other names."""
    text = json.dumps([seed, *map(str, names)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def _by_content(value: Any) -> Any:
    """The value with every pinned address cut down to the hash."""
    if isinstance(value, dict):
        return {key: _by_content(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_by_content(inner) for inner in value]
    return value[value.index(PIN) :] if isinstance(value, str) and PIN in value else value
