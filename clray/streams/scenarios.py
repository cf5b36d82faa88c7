"""What all benchmarks in memory share: the dataset's knobs, and the rows of each task.

Scenarios are those of van de Ven, Tuytelaars and Tolias (2022): class- and task-incremental
streams bring new classes (and tell the task at test time, or not), domain-incremental ones bring
the same labels in new guises. A data-incremental stream brings more of the same.

The kinds of benchmark stand in their own files: ``Split`` cuts the classes into tasks,
``Permuted`` and ``Rotated`` show the whole dataset in a new guise in each task, ``Chunks`` cuts
the training set at random.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from clray.errors import BadData, BadSpec
from clray.spec import derive_seed
from clray.streams import sources
from clray.streams.benchmark import BenchmarkConfig
from clray.streams.dataset import Dataset, Source
from clray.streams.draws import Order, arrange, hold_out, keep, rows_of
from clray.task import Stream, Task

# Fields whose defaults benchmarks set: bounds and description stand here, once.
DatasetName = Annotated[
    str,
    Field(
        min_length=1,
        description="Source of the images: digits, mnist10k, torchvision/<Name> or "
        "parquet:<folder or prefix>.",
    ),
]
NumTasks = Annotated[int, Field(ge=1, le=100_000, description="Length of the stream.")]
ChannelMeans = Annotated[
    tuple[Annotated[float, Field(ge=0, le=1)], ...],
    Field(
        max_length=3,
        description="Mean of each channel in [0, 1] units, taken off after / 255; empty: none.",
    ),
]
ChannelDeviations = Annotated[
    tuple[Annotated[float, Field(gt=0, le=1)], ...],
    Field(
        max_length=3,
        description="Standard deviation of each channel, divided by after that; empty: none.",
    ),
]
Augmentation = Annotated[
    Literal["none", "flip", "crop-flip"],
    Field(description="What happens to training images when a method asks for augmentation."),
]
WideScenario = Annotated[
    Literal["class-incremental", "task-incremental", "domain-incremental"],
    Field(description="What changes from task to task, and what is known at test time."),
]


Labelled = tuple[Tensor, Tensor]
"""uint8 [N, C, H, W] and int64 [N]."""


class InMemory(BenchmarkConfig):
    """A benchmark whose dataset fits in memory; the ancestor of all kinds."""

    dataset: DatasetName
    num_tasks: NumTasks
    task_order: Order = "natural"
    """In which order the tasks come: natural, trial-seed, a seed, or a list of task indices (some
    may be left out). A task keeps its name, its rows and its output units wherever it stands."""
    image_size: int | None = Field(None, ge=1, le=1024)
    """Height and width that images are resized to; none: as stored."""
    channels: Literal[1, 3] | None = None
    """1 for grey, 3 for RGB; none: as stored."""
    image_column: str = Field("image", min_length=1)
    """Column of the images in Parquet files."""
    label_column: str = Field("label", min_length=1)
    """Column of the labels in Parquet files."""
    mean: ChannelMeans = ()
    std: ChannelDeviations = ()
    augment: Augmentation = "none"
    train_fraction: float = Field(1.0, gt=0, le=1)
    """Share of the training examples that is used at all, stratified by class and drawn from the
    trial's seed; validation examples are a share of these."""

    def check(self) -> int:
        """See ``BenchmarkConfig.check``."""
        if len(self.mean) != len(self.std):
            given = f"{len(self.mean)} means and {len(self.std)} deviations"
            raise BadSpec("benchmark.mean and std", given, "as many of one as of the other")
        if self.mean and self.channels is not None:
            self._check_mean(self.channels)
        self._check_tasks(sources.check(self._source))
        return len(self.task_order) if isinstance(self.task_order, tuple) else self.num_tasks

    def build(
        self,
        split: Literal["validation", "test"],
        validation_fraction: float,
        seed: int,
        device: torch.device,
    ) -> Stream:
        """See ``BenchmarkConfig.build``."""
        self.check()
        dataset = sources.load(self._source)
        self._check_mean(dataset.image_shape[0])
        draw = Draw(dataset, split, validation_fraction, self.train_fraction, seed, device)
        tasks, num_classes = self._tasks(draw)
        return Stream(
            tasks=tuple(tasks),
            scenario=self.scenario,
            num_classes=num_classes,
            image_shape=dataset.image_shape,
            mean=self.mean,
            std=self.std,
            augment=self.augment,
        )

    @abstractmethod
    def _check_tasks(self, num_classes: int | None) -> None:
        """Refuse knobs that contradict one another, or the number of classes if it is known."""

    @abstractmethod
    def _tasks(self, draw: Draw) -> tuple[list[Task], int]:
        """The tasks in the order of learning, and the number of output units."""

    def _order(self, seed: int) -> list[int]:
        """Which task, as defined, stands at each position."""
        return arrange(self.task_order, self.num_tasks, seed, "benchmark.task_order")

    def _check_mean(self, channels: int) -> None:
        if self.mean and len(self.mean) != channels:
            accepted = f"{channels}, one for each channel, or none"
            raise BadSpec("benchmark.mean", f"{len(self.mean)} values", accepted)

    @property
    def _source(self) -> Source:
        return Source(
            self.dataset, self.image_size, self.channels, self.image_column, self.label_column
        )


@dataclass(frozen=True)
class Draw:
    """The dataset of one trial, and which of its rows are learned from and graded on.

    With the validation split, nothing that it hands out holds a test image.

    Attributes:
        dataset: all of it.
        split, validation_fraction, seed, device: as in ``BenchmarkConfig.build``.
        train_fraction: share of the training examples that is used.
    """

    dataset: Dataset
    split: Literal["validation", "test"]
    validation_fraction: float
    train_fraction: float
    seed: int
    device: torch.device

    def rows(self, name: str, classes: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Rows to learn from and rows to be graded on, int64 and sorted.

        Args:
            name: of the task: the same name and seed give the same rows, wherever it stands.
            classes: of the dataset.

        Raises:
            BadData: a class has no training examples, or fewer than 2 where one must be held out,
                or the task has no test examples.
        """
        labels = self.dataset.train_y
        rows = rows_of(labels, classes)
        missing = set(classes) - set(labels[rows].tolist())
        if missing:
            where = f"benchmark.dataset: training examples of class {min(missing)}"
            raise BadData(where, 0, "1 or more")
        rows = keep(labels, rows, self.train_fraction, derive_seed(self.seed, "train", name))
        if self.split == "validation":
            seed = derive_seed(self.seed, "validation", name)
            where = f"benchmark.dataset, task {name!r}"
            return hold_out(labels, rows, self.validation_fraction, seed, where)
        graded = rows_of(self.dataset.test_y, classes)
        if len(graded) == 0:
            raise BadData(f"benchmark.dataset: test examples of task {name!r}", 0, "1 or more")
        return rows, graded

    def tensors(self, units: Tensor | None = None) -> tuple[Labelled, Labelled]:
        """Images and labels on the device: what training rows point into, and graded rows.

        Args:
            units: int64 [classes of the dataset], the output unit of each; None: their numbers.
        """
        dataset = self.dataset
        train = self._on_device(dataset.train_x, dataset.train_y, units)
        if self.split == "validation":
            return train, train
        return train, self._on_device(dataset.test_x, dataset.test_y, units)

    def _on_device(self, x: Tensor, y: Tensor, units: Tensor | None) -> Labelled:
        labels = y if units is None else units[y]
        return x.to(self.device), labels.to(self.device)
