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
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from clray.errors import BadSpec
from clray.spec import Resources
from clray.streams import augment, sources
from clray.streams.augmentation import Augmentation
from clray.streams.benchmark import RESOURCES, BenchmarkConfig
from clray.streams.dataset import Dataset, Source
from clray.streams.draws import Order, arrange
from clray.streams.examples import TensorExamples
from clray.streams.layout import Draw, ImageShape, Layout
from clray.streams.pieces import Listing
from clray.task import Stream, Task

# Fields whose defaults benchmarks set: bounds and description stand here, once.
DatasetName = Annotated[
    str,
    Field(
        min_length=1,
        description="Source of the images: digits, mnist10k, torchvision/<Name>, "
        "parquet:<folder or prefix>, folder:<folder of class folders>, "
        "synthetic/<classes>x<examples of each>, or several of them, joined by ' + '.",
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
WideScenario = Annotated[
    Literal["class-incremental", "task-incremental", "domain-incremental"],
    Field(description="What changes from task to task, and what is known at test time."),
]


class InMemory(BenchmarkConfig):
    """A benchmark whose dataset fits in memory; the ancestor of all kinds."""

    dataset: DatasetName
    num_tasks: NumTasks
    task_order: Order = "natural"
    """In which order the tasks come: natural, trial-seed, a seed, a list of task indices (some may
    be left out), or a published order (cifar100-split/A to E, and so on). A task keeps its name,
    its rows and its output units wherever it stands."""
    image_size: int | None = Field(None, ge=1, le=1024)
    """Height and width that images are resized to; none: as stored."""
    fit: Literal["resize", "pad"] = "resize"
    """How images are brought to image_size: resize, or pad, which sets smaller ones in the middle
    of a black square."""
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
        if not isinstance(self.augment, str):
            side = self.image_size or 32  # the size is not known before an image is read
            augment.check(self.augment, (self.channels or len(self.mean) or 3, side, side))
        self._check_tasks(sources.check(self._source))
        return len(self.task_order) if isinstance(self.task_order, tuple) else self.num_tasks

    def build(
        self,
        split: Literal["validation", "test"],
        validation_fraction: float,
        seed: int,
        device: torch.device,
        resources: Resources = RESOURCES,
    ) -> Stream:
        """See ``BenchmarkConfig.build``."""
        self.check()
        dataset = sources.load(self._source)
        self.check_shape(dataset.image_shape)
        held_out = validation_fraction if split == "validation" else None
        labels = (dataset.train_y, dataset.test_y, dataset.num_classes)
        layout = self.layout(Draw(*labels, self.train_fraction, held_out, seed))
        return Stream(
            tasks=_tasks(layout, dataset, split, device),
            scenario=self.scenario,
            num_classes=layout.num_classes,
            image_shape=dataset.image_shape,
            mean=self.mean,
            std=self.std,
            augment=self.augment,
            graded_together=layout.graded_together,
        )

    def listing(self) -> Listing:
        """The dataset as pieces.

        Raises:
            BadInput: data that are missing or damaged as a whole.
        """
        return sources.listing(self._source)

    def check_shape(self, shape: ImageShape) -> None:
        """Refuse images (C, H, W) that do not fit the knobs.

        Raises:
            BadSpec: another number of channels than ``mean`` has, or an augmentation that does not
                fit.
        """
        self._check_mean(shape[0])
        augment.check(self.augment, shape)

    @abstractmethod
    def layout(self, draw: Draw) -> Layout:
        """The tasks in the order of learning, as rows of the dataset.

        Raises:
            BadInput: labels that do not fit the knobs.
        """

    @abstractmethod
    def _check_tasks(self, num_classes: int | None) -> None:
        """Refuse knobs that contradict one another, or the number of classes if it is known."""

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
            self.dataset,
            self.image_size,
            self.channels,
            self.image_column,
            self.label_column,
            self.fit,
        )


def _tasks(
    layout: Layout, dataset: Dataset, split: Literal["validation", "test"], device: torch.device
) -> tuple[Task, ...]:
    """The tasks of a layout; with the validation split, nothing in them holds a test image."""
    shown = None
    if layout.transform is not None:
        shown = layout.transform(dataset.image_shape, device)

    def examples(x: Tensor, y: Tensor, rows: Tensor, domain: int) -> TensorExamples:
        return TensorExamples(
            x,
            y,
            rows.to(device),
            domain=domain,
            transform=shown,
            label_stride=layout.label_stride,
        )

    def on_device(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        labels = y if layout.units is None else layout.units[y]
        return x.to(device), labels.to(device)

    train = on_device(dataset.train_x, dataset.train_y)
    graded = train if split == "validation" else on_device(dataset.test_x, dataset.test_y)
    graded_rows = [getattr(task, split) for task in layout.tasks]
    if layout.graded_together:
        together = examples(*graded, torch.cat(graded_rows).sort().values, 0)
        evals = [together] * len(layout.tasks)
    else:
        pairs = zip(layout.tasks, graded_rows, strict=True)
        evals = [examples(*graded, rows, task.domain) for task, rows in pairs]
    return tuple(
        Task(index, task.name, task.classes, examples(*train, task.train, task.domain), own)
        for index, (task, own) in enumerate(zip(layout.tasks, evals, strict=True))
    )
