"""Everything that a person writes: trials, protocols, search spaces and jobs.

Each model is strict: an unknown key, a wrong type or a number out of bounds is refused, and
``clray.parsing`` says where it stands, what was given and what is accepted. A knob of a method, a
benchmark or a network stands on the Config in that component's own file; ``clray.registry`` fills
it in and checks it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Literal, Self, get_args

from pydantic import (
    BaseModel,
    ByteSize,
    ConfigDict,
    Field,
    model_serializer,
    model_validator,
)

Scenario = Literal[
    "class-incremental", "task-incremental", "domain-incremental", "data-incremental"
]
SCENARIOS: tuple[str, ...] = get_args(Scenario)

KEY_FORMAT = 1
"""Part of every trial's key: raise it when the meaning of a spec changes."""
PIN = "#sha256="
"""Stands between an address and the hash of what lies there: a trial's key knows the hash alone."""


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


class Protocol(Spec):
    """What is the same for all methods that are compared."""

    epochs: int = Field(1, ge=1)
    """Passes over each task's training examples."""
    batch_size: int = Field(64, ge=1)
    """Examples per step, over all workers."""
    memory: int = Field(0, ge=0)
    """Examples that a method may keep from old tasks, over all classes."""
    validation_fraction: float = Field(0.1, gt=0, lt=1)
    """Share of each task's training examples, stratified by class, that is held out while
    hyperparameters are chosen. The final test runs learn from all training examples."""
    head: Literal["growing", "fixed"] = "growing"
    """Class-incremental only: which output units compete in the training loss and in prediction;
    those of the classes seen so far (growing), or all of the stream's from the start (fixed)."""
    selection: Literal["end-of-training"] = "end-of-training"
    """How hyperparameters are chosen: on validation examples of the whole stream, at its end."""


class Optimizer(Spec):
    """The optimizer that the frame hands to every method."""

    name: Literal["sgd", "adam", "adamw"] = "sgd"
    """Update rule."""
    lr: float = Field(0.1, gt=0)
    """Learning rate."""
    momentum: float = Field(0.0, ge=0, lt=1)
    """Momentum (sgd only)."""
    weight_decay: float = Field(0.0, ge=0)
    """L2 penalty (sgd, adam) or decoupled decay (adamw)."""
    clip_norm: float | None = Field(None, gt=0)
    """Largest norm of the whole gradient; none: not clipped."""
    reset: bool = False
    """Whether the optimizer's state starts afresh at each task."""


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
    split: Literal["validation", "test"] = "validation"
    """What the learner is graded on: validation while selecting, test in the final runs."""
    seed: int = Field(0, ge=0, lt=2**63)
    """Source of all randomness."""

    @property
    def key(self) -> str:
        """Stable hash of the spec, 20 hexadecimal digits: where its records are stored.

        Only a spec that ``clray.registry.complete`` has filled in has a meaningful key.
        """
        text = json.dumps(
            {"format": KEY_FORMAT, **_by_content(self.model_dump(mode="json"))},
            sort_keys=True,
            separators=(",", ":"),
            allow_nan=False,
        )
        return hashlib.sha256(text.encode()).hexdigest()[:20]


Scalar = bool | int | float | str


class Dimension(Spec):
    """One searched knob: ``{range: [low, high], log: true, step: 1}``, ``{choice: [...]}`` or a
    bare value that is held fixed."""

    range: tuple[float, float] | None = None
    """Lowest and highest value, both included."""
    log: bool = False
    """Whether values are drawn on a logarithmic scale."""
    step: float | None = Field(None, gt=0)
    """Grid width, from the lowest value on."""
    choice: tuple[Scalar | None, ...] | None = None
    """The values to choose from."""
    fixed: Scalar | None = None
    """The one value."""

    @model_validator(mode="before")
    @classmethod
    def _from_value(cls, data: Any) -> Any:
        if isinstance(data, list):
            raise ValueError("a list must be written as choice: [...] or range: [low, high]")
        return data if isinstance(data, Mapping) else {"fixed": data}

    @model_validator(mode="after")
    def _check(self) -> Self:
        given = [k for k in ("range", "choice", "fixed") if k in self.model_fields_set]
        if len(given) != 1:
            raise ValueError("exactly one of range, choice, or a bare value is needed")
        if self.range is None and (self.log or self.step is not None):
            raise ValueError("log and step go with range")
        if self.range is not None:
            low, high = self.range
            if low >= high:
                raise ValueError("range needs low < high")
            if self.log and low <= 0:
                raise ValueError("a logarithmic range needs low > 0")
            if self.log and self.step is not None:
                raise ValueError("log and step exclude each other")
        if self.choice is not None and len(self.choice) == 0:
            raise ValueError("choice needs at least one value")
        return self

    @model_serializer
    def _plain(self) -> Any:
        if "fixed" in self.model_fields_set:
            return self.fixed
        if self.choice is not None:
            return {"choice": list(self.choice)}
        plain: dict[str, Any] = {"range": list(self.range or ())}
        if self.log:
            plain["log"] = True
        if self.step is not None:
            plain["step"] = self.step
        return plain


SPACE_SECTIONS = ("method", "model", "optimizer", "protocol", "benchmark")


class SearchSpace(Spec):
    """What is searched for one method: dimensions in the sections of a trial's spec."""

    method: dict[str, Dimension] = {}
    """Dimensions over the method's knobs."""
    model: dict[str, Dimension] = {}
    """Dimensions over the model's knobs."""
    optimizer: dict[str, Dimension] = {}
    """Dimensions over the optimizer's knobs."""
    protocol: dict[str, Dimension] = {}
    """Dimensions over the protocol's knobs."""
    benchmark: dict[str, Dimension] = {}
    """Dimensions over the benchmark's knobs."""
    start: tuple[dict[str, dict[str, Scalar | None]], ...] = ()
    """Points that are tried first, in the same sections."""

    @property
    def dimensions(self) -> dict[str, Dimension]:
        """All dimensions by dotted path, such as ``method.strength``, in the order written."""
        return {
            f"{section}.{knob}": dimension
            for section in SPACE_SECTIONS
            for knob, dimension in getattr(self, section).items()
        }

    @property
    def searched(self) -> dict[str, Dimension]:
        """The dimensions that are not held fixed."""
        return {k: d for k, d in self.dimensions.items() if "fixed" not in d.model_fields_set}

    @property
    def fixed(self) -> dict[str, Scalar | None]:
        """The values that are held fixed, by dotted path."""
        return {k: d.fixed for k, d in self.dimensions.items() if "fixed" in d.model_fields_set}

    @property
    def starting_points(self) -> list[dict[str, Scalar | None]]:
        """The points to try first, by dotted path."""
        return [
            {
                f"{section}.{knob}": v
                for section, knobs in point.items()
                for knob, v in knobs.items()
            }
            for point in self.start
        ]


class Scheduler(Spec):
    """Stops trials that fall behind (asynchronous successive halving over tasks)."""

    name: Literal["asha"] = "asha"
    """Which rule."""
    grace: float = Field(1 / 3, ge=1 / 3, le=1)
    """Share of the stream that every trial is given before it may be stopped. The first task
    cannot show forgetting, so less than a third is refused."""
    reduction_factor: float = Field(3, gt=1)
    """One in so many trials goes on at each rung."""


class Search(Spec):
    """How hyperparameters are searched."""

    trials: int = Field(16, ge=1)
    """Trials for each method."""
    sampler: Literal["tpe", "random", "qmc", "gp"] = "tpe"
    """Optuna's sampler."""
    startup: int = Field(8, ge=1)
    """Random trials before the sampler starts to model (tpe, gp)."""
    seed: int = Field(0, ge=0, lt=2**31)
    """Seed of the proposals and of the trials."""
    objective: Literal["average_accuracy", "average_incremental_accuracy", "learning_accuracy"] = (
        "average_accuracy"
    )
    """What is maximised, on validation examples."""
    scheduler: Scheduler | None = None
    """Whether and how trials are stopped early; such a sweep depends on timing."""
    deterministic: bool = True
    """Whether trial n waits for the results of trials up to n minus the slots, so that timing
    cannot change the sweep. Off: a proposal uses whatever is known when a slot is free."""


class Final(Spec):
    """The test runs of the chosen hyperparameters."""

    seeds: int = Field(5, ge=1)
    """Fresh seeds, none of which took part in the search."""


Reading = Literal["auto", "device", "memory", "stream"]


class Resources(Spec):
    """What a slot holds for as long as the job runs."""

    slots: int = Field(2, ge=1)
    """Trials at once. Fewer run where the machine holds fewer; the proposals stay the same."""
    workers: int = Field(1, ge=1)
    """Workers that share each trial, every one with its part of each batch."""
    cpus_per_worker: float = Field(1, gt=0)
    """CPUs of each worker, and its threads."""
    gpus_per_worker: float = Field(0, ge=0)
    """GPUs of each worker; below 1, trials share one."""
    reading: Reading = "auto"
    """How a stored stream is read: whole on the device, whole in the memory that the workers of a
    machine share, streamed, or (auto) the first of these that it fits. Results are the same."""
    memory: ByteSize = ByteSize(2 << 30)
    """The most that each worker keeps of a stored stream, such as 2 GiB."""


class Storing(Spec):
    """What is kept of each trial beside its records. Nothing here changes a result."""

    checkpoint_epochs: int | None = Field(None, ge=1)
    """Checkpoint every so many epochs, beside the one at the end of each task."""
    model: bool = False
    """Whether the final model is kept, as safetensors."""


class Entry(Spec):
    """One method of a job."""

    method: Component | None = None
    """The method and fixed knobs; by default the entry's label up to its first dot."""
    space: str | SearchSpace | None = None
    """A search space by name, path or written out; by default the one named like the entry."""
    trials: int | None = Field(None, ge=1)
    """Trials for this entry, if not the search's."""
    bound: bool = False
    """Whether this is a bound to compare with, shown apart and never ranked."""
    optimizer: dict[str, Scalar | None] = {}
    """Optimizer knobs of this entry alone."""


class JobSpec(Spec):
    """A sweep and its final test runs: one file in ``jobs/``."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)
    """Where the results lie: ``results/jobs/<name>``."""
    benchmark: Component
    """The benchmark that all methods run on."""
    model: Component = Component(name="mlp")
    """The network that all methods train."""
    protocol: Protocol = Protocol()
    """What is the same for all methods."""
    optimizer: Optimizer = Optimizer()
    """The optimizer, where no space searches it."""
    methods: dict[str, Entry] = Field(min_length=1)
    """The methods that are compared, by label."""
    search: Search = Search()
    """How hyperparameters are searched."""
    final: Final = Final()
    """The test runs of the chosen hyperparameters."""
    resources: Resources = Resources()
    """What a slot holds."""
    store: Storing = Storing()
    """What is kept of each trial."""

    @model_validator(mode="before")
    @classmethod
    def _entries(cls, data: Any) -> Any:
        if isinstance(data, Mapping) and isinstance(data.get("methods"), list):
            labels = data["methods"]
            if all(isinstance(label, str) for label in labels) and len(set(labels)) == len(labels):
                return {**data, "methods": {label: {} for label in labels}}
        if isinstance(data, Mapping) and isinstance(data.get("methods"), Mapping):
            return {**data, "methods": {k: v or {} for k, v in data["methods"].items()}}
        return data


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
