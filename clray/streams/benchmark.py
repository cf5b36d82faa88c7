"""What every benchmark promises: a Config that can check itself and build its stream."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, Literal, Self

import torch
from pydantic import BaseModel, ConfigDict

from clray.spec import Protocol, Resources
from clray.task import Stream

RESOURCES = Resources()


class BenchmarkConfig(BaseModel, ABC):
    """The knobs of a benchmark: dataset, scenario, split into tasks, and order.

    A benchmark is a file in ``clray/streams/benchmarks/`` with one ``Config`` that subclasses this
    (usually through one of the scenarios, which bring the knobs) and sets its own defaults.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True
    )

    filled_in: ClassVar[frozenset[str]] = frozenset()
    """Knobs that follow from a trial's model and method: in what form its examples are read."""

    scenario: str
    """What changes from task to task, and what is known at test time."""

    @abstractmethod
    def check(self) -> int:
        """Refuse, cheaply and before anything starts, what cannot be built; the number of tasks.

        Raises:
            BadInput: knobs that contradict the data, or data that are missing.
        """

    def pinned(self) -> Self:
        """This benchmark with what it reads named by its content, where that can change.

        Raises:
            BadInput: as ``check``.
        """
        return self

    def encoded(self, encoder: str | None) -> Self:
        """This benchmark with its images replaced by features of the model's frozen encoder, where
        these are stored.

        Args:
            encoder: the encoder's key; None: the model has none.

        Raises:
            BadInput: features that were named and do not fit.
        """
        return self

    def coded(self, coder: str | None) -> Self:
        """This benchmark with its features replaced by the codes that the method makes of them,
        where these are stored.

        Args:
            coder: the coder's key; None: the method has none.

        Raises:
            BadInput: codes that were named and do not fit.
        """
        return self

    def encoder_key(self) -> str | None:
        """Where the examples are features, the key of the encoder that computed them.

        Raises:
            BadInput: as ``check``.
        """
        return None

    def remark(self) -> str | None:
        """What a person should be told of how this benchmark is read, in one line."""
        return None

    def check_protocol(self, protocol: Protocol) -> None:
        """Refuse a protocol that this benchmark cannot serve.

        Raises:
            BadSpec: such a one.
        """

    def check_resources(self, resources: Resources) -> None:
        """Refuse a way of reading for which there is no room wherever a trial runs.

        Raises:
            BadResources: such a one.
        """

    @property
    def graded_together(self) -> bool:
        """Whether each task is graded on examples that were held out of all tasks.

        Raises:
            BadInput: as ``check``.
        """
        return False

    def shows(self) -> list[frozenset[str]] | None:
        """What each task shows, in the order of the stream, by names that other benchmarks share
        where they show the same: classes of a dataset, or the guise that it is seen in. None where
        that cannot be told, or depends on a trial's seed.

        Raises:
            BadInput: as ``check``.
        """
        return None

    @abstractmethod
    def build(
        self,
        split: Literal["validation", "test"],
        validation_fraction: float,
        seed: int,
        device: torch.device,
        resources: Resources = RESOURCES,
    ) -> Stream:
        """The stream of tasks.

        Args:
            split: what tasks' ``eval`` holds. With validation, ``train`` lacks those examples; with
                test, ``train`` is all of the training set and ``eval`` the test set.
            validation_fraction: share of each task's training examples that is validation.
            seed: of the validation split, and of what the knobs leave to the trial's seed.
            device: where the examples lie.
            resources: how they are read, where there is a choice; they are the same.

        Raises:
            BadInput: data that are missing, damaged or do not fit the knobs.
        """
