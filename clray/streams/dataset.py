"""A dataset in memory, and what its source is asked for: columns, channels, size."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class TextFormat:
    """How texts are read from files, and which of them.

    Attributes:
        tokenizer: a folder, or a name on the Hugging Face hub, maybe pinned.
        max_tokens: L; what is longer is cut off.
        header: whether CSV files begin with a row of names.
        columns: the column of labels, and after it those of texts, by dataset; none for those whose
            files say it themselves (``clray.streams.text_files``).
        train_per_class, test_per_class: examples of each class that are drawn at most; None: all.
        subset_seed: of these draws.
    """

    tokenizer: str
    max_tokens: int
    header: bool = False
    columns: tuple[tuple[str, tuple[str, ...]], ...] = ()
    train_per_class: int | None = None
    test_per_class: int | None = None
    subset_seed: int = 0


@dataclass(frozen=True)
class Source:
    """Names a dataset, and how its images or texts are read.

    Attributes:
        dataset: as in ``clray.streams.sources``.
        image_size: height and width that images are brought to; None: as stored.
        channels: 1 (grey) or 3 (RGB); None: as stored.
        image_column, label_column: of Parquet files.
        fit: how images are brought to ``image_size``: ``resize``, or ``pad``, which sets smaller
            ones in the middle of a black square and resizes only those that are larger.
        texts: how texts are read; None: the benchmark takes images.
    """

    dataset: str
    image_size: int | None = None
    channels: int | None = None
    image_column: str = "image"
    label_column: str = "label"
    fit: str = "resize"
    texts: TextFormat | None = None


@dataclass(frozen=True)
class Dataset:
    """Labelled images in memory; shared by all streams that are made of them, so never written to.

    Attributes:
        train_x: uint8 [N, C, H, W].
        train_y: int64 [N], 0 .. num_classes - 1.
        test_x, test_y: the same for the test set.
        class_names: one per class.
    """

    train_x: Tensor
    train_y: Tensor
    test_x: Tensor
    test_y: Tensor
    class_names: tuple[str, ...]

    @property
    def num_classes(self) -> int:
        """How many classes there are."""
        return len(self.class_names)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        _, channels, height, width = self.train_x.shape
        return channels, height, width


def pads(source: Source, height: int, width: int) -> bool:
    """Whether an image of that size is set into a larger square instead of being resized."""
    return source.fit == "pad" and max(height, width) <= (source.image_size or 0)


def pad(images: Tensor, size: int) -> Tensor:
    """Images [..., H, W] in the middle of black squares; an odd pixel goes below and right."""
    height, width = images.shape[-2:]
    top, left = (size - height) // 2, (size - width) // 2
    return F.pad(images, (left, size - width - left, top, size - height - top))


def fit_images(images: Tensor, source: Source) -> Tensor:
    """Images that were stored as arrays, in the channels and the size that the source asks for.

    Args:
        images: uint8 [N, 1 or 3, H, W].

    Returns:
        uint8 [N, C, H, W]; shrinking is antialiased.
    """
    if source.channels == 3 and images.shape[1] == 1:
        images = images.expand(-1, 3, -1, -1)
    elif source.channels == 1 and images.shape[1] == 3:
        weights = torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)  # ITU-R 601, as in PIL
        images = torch.cat(
            [(part * weights).sum(1, keepdim=True).round().byte() for part in _parts(images)]
        )
    size = source.image_size
    if size is not None and images.shape[2:] != (size, size):
        if pads(source, *images.shape[2:]):
            images = pad(images, size)
        else:
            options = {"size": (size, size), "mode": "bilinear", "antialias": True}
            images = torch.cat(
                [
                    F.interpolate(part.float(), **options).round().clamp(0, 255).byte()  # type: ignore[arg-type]
                    for part in _parts(images)
                ]
            )
    return images.contiguous()


def _parts(images: Tensor) -> Iterator[Tensor]:
    """So many at a time that floats of the whole dataset never exist."""
    return (images[start : start + 4096] for start in range(0, max(1, len(images)), 4096))
