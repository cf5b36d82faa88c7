"""Selection protocols: on which data, and at which moments, hyperparameters are chosen.

Each is named in a job's ``protocol.selection`` (several are compared side by side), and says what
its trials may read. How they run stands in ``clray.protocols``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self, TypeAlias

from pydantic import BeforeValidator, Discriminator, Field, Tag, model_validator

from clray.space import Scalar
from clray.spec import Component, Spec

SEEN = {
    "validation": "validation examples of the tasks seen so far, anew for each task",
    "current": "validation examples of the current task, anew for each task",
    "memory": "validation examples of the current task and held-out memory, anew for each task",
}
"""What a choice looks at that is made anew for each task."""
Share = Annotated[float, Field(gt=0, lt=1)]


class Selection(Spec):
    """The ancestor of all selection protocols."""

    dynamic: ClassVar[bool] = False
    """Whether hyperparameters are chosen anew for each task."""

    label: str | None = Field(None, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=40)
    """What it is called beside others; by default its name."""

    @property
    def title(self) -> str:
        """Its label, or its name."""
        return self.label or str(getattr(self, "name"))  # noqa: B009

    @property
    def chosen_on(self) -> str:
        """What the choice looks at, for a person."""
        return "validation examples of the whole stream, at its end"


class EndOfTraining(Selection):
    """On validation examples of the whole stream, at its end; the usual reference, which knows the
    future."""

    name: Literal["end-of-training"] = "end-of-training"


class Oracle(Selection):
    """On the test examples that are then reported: to reproduce papers, never to compare."""

    name: Literal["oracle"] = "oracle"

    @property
    def chosen_on(self) -> str:
        """See ``Selection``."""
        return "test"


class FirstK(Selection):
    """On the first k tasks; a fresh learner then learns the others, and only these are reported
    (Chaudhry et al. 2019, arXiv 1812.00420)."""

    name: Literal["first-k"] = "first-k"
    k: int = Field(3, ge=1)
    """How many tasks; 2 or more where a stability knob is searched."""
    reuse: bool = False
    """Whether the k tasks are learned and reported again, as many papers do; marked as a leak."""

    @property
    def chosen_on(self) -> str:
        """See ``Selection``."""
        first = f"validation examples of the first {self.k} tasks"
        return first if self.reuse else f"{first}, which are not reported"


class SeenTasks(Selection):
    """Anew for each task: trials fork from the learner as it stands, and the best of them goes on
    (Lee et al. 2024, arXiv 2404.06466)."""

    dynamic: ClassVar[bool] = True
    name: Literal["seen-tasks"] = "seen-tasks"
    data: Literal["validation", "current", "memory"] = "validation"
    """What a fork is judged on: validation examples of all tasks seen so far, or of the current
    one alone, or of the current one and, of older tasks, a part of the memory that the fork did
    not learn from."""
    held_out: Share = 0.2
    """Share of the memory, of each class, that is held out (data: memory)."""

    @property
    def chosen_on(self) -> str:
        """See ``Selection``."""
        return SEEN[self.data]


class Adaptive(Selection):
    """As seen-tasks, but after the first tasks only the knobs that mattered there are searched
    (Semola et al. 2024, arXiv 2403.07015)."""

    dynamic: ClassVar[bool] = True
    name: Literal["adaptive"] = "adaptive"
    data: Literal["validation", "current", "memory"] = "validation"
    """As for seen-tasks."""
    held_out: Share = 0.2
    """As for seen-tasks."""
    full_tasks: int = Field(2, ge=1)
    """Tasks with a full search."""
    importance: float = Field(0.8, gt=0, le=1)
    """The knobs that are kept together hold at least this share of the importance (fANOVA)."""
    trials_after: int = Field(4, ge=1)
    """Trials for each later task."""

    @property
    def chosen_on(self) -> str:
        """See ``Selection``."""
        return SEEN[self.data]


class Chf(Selection):
    """The continual hyperparameter framework, for each task: the learning rate by plain
    fine-tuning, then the strongest stability that costs little of its accuracy (De Lange et al.
    2021, arXiv 1909.08383)."""

    dynamic: ClassVar[bool] = True
    name: Literal["chf"] = "chf"
    method: Component | None = None
    """What shows how well the task can be learned without a care for the old ones; none: plain
    fine-tuning."""
    rates: tuple[Annotated[float, Field(gt=0)], ...] = Field((0.1, 0.03, 0.01, 0.003), min_length=1)
    """Learning rates that are tried with it."""
    first_rates: tuple[Annotated[float, Field(gt=0)], ...] | None = Field(None, min_length=1)
    """Those for the first task, if others."""
    margin: Share = 0.2
    """Share of that accuracy that may be given up."""
    decay: float = Field(0.5, gt=0)
    """How much weaker stability knobs get from rung to rung; below 1 where it is a factor."""
    operation: Literal["multiply", "subtract"] = "multiply"
    """Whether the decay is a factor or a difference."""
    attempts: int = Field(7, ge=1)
    """Rungs; the last one is taken where none is acceptable."""
    start: dict[str, Scalar] = {}
    """Where stability knobs start, by dotted path; by default the upper end of their range."""
    reset: bool = False
    """Whether each task starts from there, or from where the last one ended."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.operation == "multiply" and self.decay >= 1:
            raise ValueError("a decay below 1: with 1 or more as a factor nothing gets weaker")
        for rates in (self.rates, self.first_rates or ()):
            if len(set(rates)) < len(rates):
                raise ValueError("rates that differ")
        return self

    @property
    def chosen_on(self) -> str:
        """See ``Selection``."""
        return SEEN["current"]


class Gtep(Selection):
    """On another benchmark, or on the first half of the tasks, without a class in common with what
    is then reported, in fresh orders (Cha and Cho 2025, arXiv 2403.09066)."""

    name: Literal["gtep"] = "gtep"
    tune_on: Literal["first-half"] | Component = "first-half"
    """The benchmark that is tuned on, or the first half of the job's tasks."""
    compare: int | None = Field(None, ge=2)
    """How many of the completed trials, evenly spread over their ranks, are also learned on the
    reported benchmark, on validation examples and after the choice, to tell the rank correlation
    and the regret; none: all."""

    @property
    def chosen_on(self) -> str:
        """See ``Selection``."""
        return "validation examples of other classes than those reported"


class TwoStage(Selection):
    """First the training knobs (optimizer, epochs, batch size) by fine-tuning, once for all
    methods; then each method's own knobs by another protocol."""

    name: Literal["two-stage"] = "two-stage"
    method: Component | None = None
    """What the training knobs are tuned with; none: plain fine-tuning."""
    k: int = Field(1, ge=1)
    """Tasks that they are tuned on, the first of the stream, on validation examples."""
    trials: int | None = Field(None, ge=1)
    """Trials of the first stage, if not the search's."""
    then: Annotated[Inner, BeforeValidator(lambda value: named(value))] = EndOfTraining()
    """How the method's own knobs are chosen."""

    @property
    def chosen_on(self) -> str:
        """See ``Selection``."""
        by = self.method.name if self.method else "fine-tuning"
        return f"{self.then.chosen_on}; training knobs by {by}"


def named(value: Any) -> Any:
    """``end-of-training`` as ``{name: end-of-training}``; anything else as it is."""
    return {"name": value} if isinstance(value, str) else value


def _name(value: Any) -> str | None:
    name = value.get("name") if isinstance(value, Mapping) else getattr(value, "name", None)
    return name if isinstance(name, str) else None


_Simple: TypeAlias = (
    Annotated[EndOfTraining, Tag("end-of-training")]
    | Annotated[Oracle, Tag("oracle")]
    | Annotated[FirstK, Tag("first-k")]
    | Annotated[SeenTasks, Tag("seen-tasks")]
    | Annotated[Adaptive, Tag("adaptive")]
    | Annotated[Chf, Tag("chf")]
    | Annotated[Gtep, Tag("gtep")]
)
Inner = Annotated[_Simple, Discriminator(_name)]
AnySelection = Annotated[_Simple | Annotated[TwoStage, Tag("two-stage")], Discriminator(_name)]
NAMES = (
    "end-of-training",
    "first-k",
    "seen-tasks",
    "chf",
    "gtep",
    "adaptive",
    "two-stage",
    "oracle",
)
TwoStage.model_rebuild()
