"""Streams whose tasks show the whole dataset, each in another guise."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Annotated, Any, Literal

import torch
from pydantic import BeforeValidator, Field, model_validator

from clray.errors import BadSpec
from clray.streams.draws import arrange
from clray.streams.examples import Transform
from clray.streams.layout import Draw, Layout
from clray.streams.scenarios import InMemory, WideScenario
from clray.streams.transforms import PixelPermutations, Rotations, permutation_tables

ANGLE_STEP = 0.01
"""Degrees; random angles are drawn from this grid without repeating any."""


class _Domains(InMemory):
    """The ancestor of both kinds.

    All tasks learn from the same rows and are graded on the same rows: were another part held out
    for each task, an image that one task is validated on would be learned by another, perhaps
    turned by a few degrees only. In class- and task-incremental streams the label of class c of a
    dataset with C classes is ``c + t * C`` for the t-th task as defined (of those that
    ``task_order`` does not leave out).
    """

    scenario: WideScenario = "domain-incremental"

    def _check_tasks(self, num_classes: int | None) -> None:
        self._order(0)
        self._names()

    def layout(self, draw: Draw) -> Layout:
        """See ``InMemory.layout``."""
        order = self._order(draw.seed)
        defined = sorted(order)
        count = draw.num_classes
        stride = 0 if self.scenario == "domain-incremental" else count
        names = self._names()
        tasks = []
        for position in order:
            domain = defined.index(position)
            units = range(domain * stride, domain * stride + count)
            task = draw.task(names[position], range(count), units, "all tasks", domain)
            tasks.append(task)
        return Layout(
            tuple(tasks),
            num_classes=stride * len(order) or count,
            label_stride=stride,
            transform=partial(self._transform, defined),
        )

    def shows(self) -> list[frozenset[str]] | None:
        """See ``BenchmarkConfig.shows``: the guises, since all tasks have the same classes."""
        if self.task_order == "trial-seed":
            return None
        guises = self._guises()
        return [frozenset({f"{guises[position]} of {self.dataset}"}) for position in self._order(0)]

    def _guises(self) -> list[str]:
        """What each task, as defined, shows the dataset as."""
        return self._names()

    @abstractmethod
    def _names(self) -> list[str]:
        """The tasks' names as defined."""

    @abstractmethod
    def _transform(
        self, defined: Sequence[int], image_shape: tuple[int, int, int], device: torch.device
    ) -> Transform:
        """The transform whose i-th domain is task ``defined[i]``."""


class Permuted(_Domains):
    """Each task permutes the pixels in its own way, the same for all channels.

    After Goodfellow et al. (2013) and Kirkpatrick et al. (2017).
    """

    permutation_seed: int = Field(1000, ge=0, lt=2**62)
    """Task t's permutation is ``torch.randperm(H * W)`` from a generator seeded with this plus
    t."""
    identity_first: bool = True
    """Whether task 0 leaves the images as they are."""
    across_channels: bool = False
    """Whether values also move from one channel to another: ``torch.randperm(C * H * W)``."""

    def _names(self) -> list[str]:
        return [f"permutation-{t}" for t in range(self.num_tasks)]

    def _guises(self) -> list[str]:
        kind = "permutation across channels" if self.across_channels else "permutation"
        seeds = [f"{kind} {self.permutation_seed + t}" for t in range(self.num_tasks)]
        return ["all pixels in place", *seeds[1:]] if self.identity_first else seeds

    def _transform(
        self, defined: Sequence[int], image_shape: tuple[int, int, int], device: torch.device
    ) -> Transform:
        pixels = math.prod(image_shape if self.across_channels else image_shape[1:])
        tables = permutation_tables(defined, pixels, self.permutation_seed, self.identity_first)
        return PixelPermutations(tables.to(device), self.across_channels)


def _angles(value: Any) -> Any:
    items = value if isinstance(value, list | tuple) else ()
    numbers = all(isinstance(a, int | float) and not isinstance(a, bool) for a in items)
    if value in ("even", "random") or (items and numbers and all(-360 <= a <= 360 for a in items)):
        return value
    raise ValueError("even, random, or a list of degrees from -360 to 360")


Angles = Annotated[
    Literal["even", "random"] | tuple[float, ...],
    BeforeValidator(_angles),  # a union's own message would name types instead of choices
]


class Rotated(_Domains):
    """Each task turns the images by its own angle, anticlockwise, with bilinear interpolation.

    After Lopez-Paz and Ranzato (2017).
    """

    angles: Angles = "even"
    """Degrees: even steps from 0 up to but without max_angle; random ones below max_angle; or a
    list, whose length is then num_tasks."""
    max_angle: float = Field(180, gt=0, le=360)
    """Degrees that all angles stay below (even and random)."""
    rotation_seed: int = Field(0, ge=0, lt=2**63)
    """Seed of random angles."""

    @model_validator(mode="before")
    @classmethod
    def _count_angles(cls, data: Any) -> Any:
        if isinstance(data, Mapping) and "num_tasks" not in data:
            angles = data.get("angles")
            if isinstance(angles, list | tuple) and angles:
                return {**data, "num_tasks": len(angles)}
        return data

    def _check_tasks(self, num_classes: int | None) -> None:
        if not isinstance(self.angles, str):
            if len(self.angles) != self.num_tasks:
                accepted = f"{self.num_tasks} angles, as many as num_tasks (or no num_tasks)"
                raise BadSpec("benchmark.angles", list(self.angles), accepted)
            if len({angle % 360 for angle in self.angles}) != len(self.angles):
                raise BadSpec("benchmark.angles", list(self.angles), "angles that differ")
        elif self.angles == "random" and self.num_tasks > round(self.max_angle / ANGLE_STEP):
            accepted = f"at most {round(self.max_angle / ANGLE_STEP)} for that max_angle"
            raise BadSpec("benchmark.num_tasks", self.num_tasks, accepted)
        super()._check_tasks(num_classes)

    def _degrees(self) -> list[float]:
        if not isinstance(self.angles, str):
            return list(self.angles)
        if self.angles == "even":
            return [t * self.max_angle / self.num_tasks for t in range(self.num_tasks)]
        steps = round(self.max_angle / ANGLE_STEP)
        drawn = arrange(self.rotation_seed, steps, 0, "benchmark.rotation_seed")
        return [round(step * ANGLE_STEP, 2) for step in drawn[: self.num_tasks]]

    def _names(self) -> list[str]:
        return [f"rotation-{angle:.8g}" for angle in self._degrees()]

    def _transform(
        self, defined: Sequence[int], image_shape: tuple[int, int, int], device: torch.device
    ) -> Transform:
        angles = self._degrees()
        return Rotations([angles[t] for t in defined], image_shape, device)
