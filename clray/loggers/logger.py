"""What every logger is: a Config, and a class that passes on what ended."""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict

from clray.errors import BadSpec
from clray.job import JobSpec
from clray.store import Folder

CURVE = "after_task/average_accuracy"
"""What a curve is called: one point for each task learned."""


@dataclass(frozen=True)
class Point:
    """The average accuracy after a task.

    Attributes:
        curve: its name; a trial of several runs has a curve for each.
        tasks: learned so far.
        value: in [0, 1].
        time: seconds since 1970.
    """

    curve: str
    tasks: int
    value: float
    time: float


@dataclass(frozen=True)
class Entry:
    """Something that ended: a trial, or a board's row with the test scores of what it chose.

    Attributes:
        name: unique in the job: board, label and number, with slashes between.
        board: of the job; "" for a single one.
        label: of the job's entry.
        stage: which one, or ``chosen`` for a row.
        state: completed, diverged, stopped or failed; what failed is tried and logged again.
        values: hyperparameters by dotted path.
        scalars: ``final/<measure>`` of a trial, ``test/<measure>`` of a row.
        points: of its curves.
        start: seconds since 1970.
        end: seconds since 1970.
    """

    name: str
    board: str
    label: str
    stage: str
    state: str
    values: Mapping[str, Any] = field(default_factory=dict)
    scalars: Mapping[str, float] = field(default_factory=dict)
    points: tuple[Point, ...] = ()
    start: float = 0.0
    end: float = 0.0

    @property
    def parameters(self) -> dict[str, bool | int | float | str]:
        """The hyperparameters, and whose they are, as all loggers can hold them."""
        plain = {k: v if isinstance(v, bool | int | float) else str(v) for k, v in self.written}
        return {"entry": self.label, **plain}

    @property
    def written(self) -> list[tuple[str, Any]]:
        """The hyperparameters, with ``none`` where there is no value."""
        return [(path, "none" if value is None else value) for path, value in self.values.items()]


class LoggerConfig(BaseModel):
    """The ancestor of every logger's Config: what a job writes beside the logger's name.

    Attributes:
        package: what must be installed.
        extra: of clray, that installs it.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True
    )

    package: ClassVar[str]
    extra: ClassVar[str]

    def check(self, folder: Folder) -> None:
        """Refuse what can be told before anything starts.

        Args:
            folder: the job's.

        Raises:
            BadSpec: it cannot work so.
        """


class Logger(ABC):
    """Passes on what ended. It is called from a thread of its own, after its construction.

    Args:
        config: its options.
        job: as planned.
        folder: the job's.

    Raises:
        BadSpec: the service cannot be reached, or refuses.
    """

    @abstractmethod
    def __init__(self, config: Any, job: JobSpec, folder: Folder) -> None: ...

    @abstractmethod
    def known(self) -> dict[str, str]:
        """The state of each entry, by name, that was logged to its end, also by earlier starts."""

    @abstractmethod
    def log(self, entry: Entry) -> None:
        """Log an entry, in the place of what is there under its name."""

    def close(self) -> None:
        """Nothing more will come."""


def package(name: str, where: str, extra: str) -> Any:
    """An installed package.

    Args:
        name: as it is imported.
        where: begins the message.
        extra: of clray, that installs it.

    Raises:
        BadSpec: it is not there.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise BadSpec(
            where,
            f"{error.name} is not installed",
            f"what pip install 'clray[{extra}]' brings",
        ) from None
