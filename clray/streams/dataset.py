"""A dataset in memory, and what all sources do to images: channels, size, stacking."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from clray.errors import BadData, BadSpec

THREADED_PIXELS = 128 * 128
"""Images from this size on are decoded by threads; for smaller ones the interpreter's lock makes
threads slower than one (measured: 28 x 28 PNG, 0.5 s per 10,000 alone, 1.1 s with two)."""
GREY_MODES = ("1", "L", "LA", "La")


@dataclass(frozen=True)
class Source:
    """Names a dataset, and how its images are read.

    Attributes:
        dataset: ``digits``, ``mnist10k``, ``torchvision/<Name>`` or ``parquet:<folder or prefix>``.
        image_size: height and width that images are resized to; None: as stored.
        channels: 1 (grey) or 3 (RGB); None: as stored.
        image_column, label_column: of Parquet files.
    """

    dataset: str
    image_size: int | None = None
    channels: int | None = None
    image_column: str = "image"
    label_column: str = "label"


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
        options = {"size": (size, size), "mode": "bilinear", "antialias": True}
        images = torch.cat(
            [
                F.interpolate(part.float(), **options).round().clamp(0, 255).byte()  # type: ignore[arg-type]
                for part in _parts(images)
            ]
        )
    return images.contiguous()


def stack_images(
    count: int, read: Callable[[int], Image.Image], place: Callable[[int], str], source: Source
) -> Tensor:
    """Images that are decoded one by one, as one tensor.

    Args:
        count: how many there are, 1 or more.
        read: opens image i; any exception is taken as damage.
        place: names image i in an error.
        source: channels and size that are asked for.

    Returns:
        uint8 [count, C, H, W].

    Raises:
        BadData: an image cannot be decoded.
        BadSpec: sizes or channels differ and the knob that would settle it is not set.
    """
    first = _decode(read, 0, place, source)
    stacked: NDArray[np.uint8] = np.empty((count, *first.shape), np.uint8)

    def fill(start: int, stop: int) -> None:
        for i in range(start, stop):
            image = _decode(read, i, place, source)
            if image.shape != first.shape:
                raise _differing(place(i), image.shape, place(0), first.shape)
            stacked[i] = image

    threads = min(8, os.cpu_count() or 1) if first[..., 0].size >= THREADED_PIXELS else 1
    if threads == 1:
        fill(0, count)
    else:
        cuts = np.linspace(0, count, 8 * threads + 1).astype(int).tolist()
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(fill, cuts[:-1], cuts[1:]))
    return torch.from_numpy(stacked).permute(0, 3, 1, 2).contiguous()


def check_labels(labels: Tensor, num_classes: int, where: str) -> None:
    """Refuse labels int64 [N] outside 0 .. num_classes - 1.

    Raises:
        BadData: naming the first label that does not fit.
    """
    wrong = ((labels < 0) | (labels >= num_classes)).nonzero()
    if len(wrong):
        row = int(wrong[0, 0])
        accepted = f"whole numbers from 0 to {num_classes - 1}, one per class"
        raise BadData(f"{where}: label of row {row}", int(labels[row]), accepted)


def _decode(
    read: Callable[[int], Image.Image], i: int, place: Callable[[int], str], source: Source
) -> NDArray[np.uint8]:
    """Image i as uint8 [H, W, C]."""
    try:
        image = read(i)
        image.load()
    except Exception as error:  # whatever a damaged file makes the decoder raise
        reason = f"{type(error).__name__}: {error}"
        raise BadData(place(i), reason, "an image that can be decoded (PNG, JPEG, …)") from None
    if image.mode.startswith(("I", "F")):
        raise BadData(place(i), f"pixels of mode {image.mode}", "8-bit images")
    channels = source.channels or (1 if image.mode in GREY_MODES else 3)
    mode = "L" if channels == 1 else "RGB"
    if image.mode != mode:
        image = image.convert(mode)
    size = source.image_size
    if size is not None and image.size != (size, size):
        image = image.resize((size, size), Image.Resampling.BILINEAR)
    pixels = np.frombuffer(image.tobytes(), np.uint8)
    return pixels.reshape(image.height, image.width, channels)


def _parts(images: Tensor) -> Iterator[Tensor]:
    """So many at a time that floats of the whole dataset never exist."""
    return (images[start : start + 4096] for start in range(0, len(images), 4096))


def _differing(here: str, shape: tuple[int, ...], there: str, other: tuple[int, ...]) -> BadSpec:
    if shape[2] != other[2]:
        given = f"images with {other[2]} and {shape[2]} channels ({there}; {here})"
        return BadSpec("benchmark.channels", given, "1 or 3, since the images differ")
    given = f"images of {other[0]} x {other[1]} ({there}) and {shape[0]} x {shape[1]} ({here})"
    return BadSpec("benchmark.image_size", given, "a number of pixels, since the images differ")
