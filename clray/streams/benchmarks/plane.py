"""Points of a plane: eight Gaussians in the unit square, two new ones in each of four tasks.

The toy of the discrete key-value bottleneck (Träuble et al. 2023, arXiv 2207.11240, Figure 2), with
the means, the spread and the number of points of the authors' code. Which Gaussian a training point
comes from is the toss of a fair coin. All draws come from the trial's seed: another seed is other
data.
"""

from __future__ import annotations

import functools
from typing import Literal

import torch
from pydantic import Field

from clray.spec import Resources, derive_seed
from clray.streams.benchmark import RESOURCES, BenchmarkConfig
from clray.streams.dataset import Dataset
from clray.streams.draws import Order, arrange
from clray.streams.examples import TensorExamples
from clray.streams.layout import Draw
from clray.task import Stream, Task

MEANS = (
    (0.25, 0.25),
    (0.75, 0.25),
    (0.75, 0.75),
    (0.25, 0.75),
    (0.75, 0.50),
    (0.50, 0.75),
    (0.25, 0.50),
    (0.50, 0.25),
)
"""Of each class, (x, y): corners of a square, then the middles of its sides."""
TASKS = ((0, 4), (1, 5), (2, 6), (3, 7))
"""The classes of each task: a corner, and a middle that is far from it."""
TEST_POINTS = 500
"""Of each task."""


class Config(BenchmarkConfig):
    """The knobs of the plane."""

    scenario: Literal["class-incremental", "domain-incremental"] = "class-incremental"
    """What changes from task to task: the classes, or (domain-incremental) where the two classes
    lie, corners and middles of sides."""
    points: int = Field(100, ge=40, le=1_000_000)
    """Training points of each task; so many that the coin gives each class enough."""
    spread: float = Field(0.035, gt=0, le=1)
    """Standard deviation of each class in both directions."""
    task_order: Order = "natural"
    """In which order the tasks come: natural, trial-seed, a seed, or a list of task indices (some
    may be left out). A task keeps its name, its points and its output units wherever it stands."""

    def check(self) -> int:
        """See ``BenchmarkConfig.check``."""
        return len(self._order(0))

    def build(
        self,
        split: Literal["validation", "test"],
        validation_fraction: float,
        seed: int,
        device: torch.device,
        resources: Resources = RESOURCES,
    ) -> Stream:
        """See ``BenchmarkConfig.build``; examples are float32 [B, 2, 1, 1]."""
        order = self._order(seed)
        kept = sorted(cls for place in order for cls in TASKS[place])
        whole = _drawn(self.points, self.spread, seed)
        units = torch.full((len(MEANS),), -1)
        if self.scenario == "class-incremental":
            units[kept] = torch.arange(len(kept))
        else:
            units[kept] = torch.tensor(kept) // len(TASKS)
        held_out = validation_fraction if split == "validation" else None
        draw = Draw(whole.train_y, whole.test_y, len(MEANS), 1.0, held_out, seed)
        train = whole.train_x.to(device), units[whole.train_y].to(device)
        graded = train
        if split == "test":
            graded = whole.test_x.to(device), units[whole.test_y].to(device)
        tasks = []
        for index, place in enumerate(order):
            own = TASKS[place]
            name = "-".join(map(str, own))
            rows = draw.task(name, own, units[list(own)].tolist())
            shown = rows.validation if split == "validation" else rows.test
            learned = TensorExamples(*train, rows.train.to(device))
            tasks.append(
                Task(index, name, rows.classes, learned, TensorExamples(*graded, shown.to(device)))
            )
        return Stream(
            tasks=tuple(tasks),
            scenario=self.scenario,
            num_classes=int(units.max()) + 1,
            image_shape=whole.image_shape,
            square=(0.0, 1.0),
        )

    def _order(self, seed: int) -> list[int]:
        return arrange(self.task_order, len(TASKS), seed, "benchmark.task_order")


@functools.lru_cache(maxsize=4)
def _drawn(points: int, spread: float, seed: int) -> Dataset:
    """All points of a seed, shared by the streams that are made of them."""
    halves = []
    for half, count in (("train", points), ("test", TEST_POINTS)):
        xs, ys = [], []
        for own in TASKS:
            generator = torch.Generator().manual_seed(derive_seed(seed, "plane", half, *own))
            coins = torch.randint(len(own), (count,), generator=generator)
            ys.append(torch.tensor(own)[coins])
            noise = torch.randn(count, 2, generator=generator)
            xs.append(torch.tensor(MEANS)[ys[-1]] + spread * noise)
        halves.append((torch.cat(xs)[:, :, None, None], torch.cat(ys)))
    (train_x, train_y), (test_x, test_y) = halves
    names = tuple(str(cls) for cls in range(len(MEANS)))
    return Dataset(train_x, train_y, test_x, test_y, names)
