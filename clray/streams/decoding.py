"""From encoded images to one tensor; those that cannot be used are told, not raised."""

from __future__ import annotations

import functools
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from clray.streams.dataset import Source, fit_images, pad, pads
from clray.streams.locations import reason
from clray.streams.pieces import PIECE_BYTES, PIECE_ROWS, BadRow

Shape = tuple[int, int, int]
GREY_MODES = ("1", "L", "LA", "La")
UNKNOWN_SIDE = 64
"""The side that images are taken to have while none could be opened."""


@dataclass(frozen=True)
class Fault:
    """Why an image or a label cannot be used: what stands there, and what would do."""

    given: str
    accepted: str


Read = tuple[Tensor, dict[int, Fault]]
"""uint8 [n, C, H, W], zeros where there is a fault; and the faults by position."""

EMPTY = Fault("an empty cell", "an image in each row")


def decode(encoded: Sequence[bytes | None], source: Source, shape: Shape | None) -> Read:
    """Decode images (PNG, JPEG and whatever PIL reads), brought to the source's channels and size.

    Args:
        encoded: an image file's content each; None: there is none.
        shape: that every image must have; None: that of the first good one.
    """
    # One buffer, cut into views: a tensor made of each would copy and warn.
    joined = bytearray().join(content or b"" for content in encoded)
    buffer = torch.frombuffer(joined, dtype=torch.uint8) if joined else torch.empty(0).byte()
    ends = accumulate((len(content or b"") for content in encoded), initial=0)
    found = [
        EMPTY if content is None else _decode(content, buffer[low:high], source)
        for content, (low, high) in zip(encoded, pairwise(ends), strict=True)
    ]
    return stack(found, source, shape)


def open_each(
    count: int, read: Callable[[int], Image.Image], source: Source, shape: Shape | None
) -> Read:
    """As ``decode``, of images that a function opens; whatever it raises is a fault."""
    found: list[Tensor | Fault] = []
    for i in range(count):
        try:
            found.append(_finish(read(i), source))
        except Exception as error:
            found.append(_undecodable(error))
    return stack(found, source, shape)


def fit_all(pixels: Tensor, good: Tensor, source: Source, shape: Shape | None) -> Read:
    """As ``decode``, of images that are stored as pixels.

    Args:
        pixels: uint8 [g, C, H, W], the good ones.
        good: int64 [n], their positions in ``pixels``; -1 where there is a fault.
    """
    fitted = fit_images(pixels, source)
    present = good >= 0
    if shape is not None and len(pixels) and fitted.shape[1:] != torch.Size(shape):
        fault = differing(fitted.shape[1:], shape)
        return torch.zeros((len(good), *shape), dtype=torch.uint8), dict.fromkeys(
            present.nonzero().squeeze(1).tolist(), fault
        )
    if bool(present.all()):
        return fitted[good], {}
    images = torch.zeros((len(good), *fitted.shape[1:]), dtype=torch.uint8)
    images[present] = fitted[good[present]]
    return images, {}


def stack(found: Sequence[Tensor | Fault], source: Source, shape: Shape | None) -> Read:
    """Images uint8 [C, H, W] as one tensor."""
    if shape is None:
        first = next((image for image in found if isinstance(image, Tensor)), None)
        shape = empty_shape(source) if first is None else _shape(first)
    blank, faults, images = torch.zeros(shape, dtype=torch.uint8), {}, []
    for i, image in enumerate(found):
        if isinstance(image, Tensor) and image.shape == blank.shape:
            images.append(image)
            continue
        images.append(blank)
        faults[i] = image if isinstance(image, Fault) else differing(image.shape, shape)
    return (torch.stack(images) if images else blank.new_zeros(0, *shape)), faults


def bad_rows(
    faults: Mapping[int, Fault], rows: Sequence[int], where: Callable[[int], str]
) -> list[BadRow]:
    """The faults of some rows of a piece as it reports them; ``where`` names a row of the piece."""
    return [
        BadRow(rows[i], where(rows[i]), fault.given, fault.accepted)
        for i, fault in sorted(faults.items())
    ]


def bad_labels(labels: Tensor, num_classes: int | None) -> dict[int, Fault]:
    """Those of labels int64 [n] that are no classes; None: how many there are is not known."""
    wrong = labels < 0
    if num_classes is not None:
        wrong |= labels >= num_classes
    places = wrong.nonzero().squeeze(1).tolist()
    upper = "up" if num_classes is None else f"to {num_classes - 1}, one per class"
    return {i: Fault(str(int(labels[i])), f"whole numbers from 0 {upper}") for i in places}


def rows_per_piece(source: Source, size: Callable[[], tuple[int, int]]) -> int:
    """How many images make a piece of a good size.

    Args:
        size: height and width of an image, called only if the source does not ask for any.
    """
    side = source.image_size
    height, width = (side, side) if side is not None else size()
    return max(1, min(PIECE_ROWS, PIECE_BYTES // ((source.channels or 3) * height * width)))


def encoded_size(content: bytes | None) -> tuple[int, int]:
    """Height and width of an encoded image; a guess where it cannot be opened."""
    try:
        with Image.open(io.BytesIO(content or b"")) as image:
            return image.height, image.width
    except Exception:  # reported when the row is read
        return UNKNOWN_SIDE, UNKNOWN_SIDE


def differing(given: Sequence[int], shape: Shape) -> Fault:
    """An image of another shape than the others."""
    accepted = f"{_times(shape)} (channels, height, width) as the others; benchmark.image_size"
    return Fault(f"an image of {_times(given)}", f"{accepted} and .channels make them alike")


def empty_shape(source: Source) -> Shape:
    """The shape of images of which none is good."""
    return source.channels or 1, source.image_size or 1, source.image_size or 1


def _decode(content: bytes, view: Tensor, source: Source) -> Tensor | Fault:
    image = _decode_fast(content, view)
    try:
        if image is None:
            return _finish(Image.open(io.BytesIO(content)), source)
        side, (own, height, width) = source.image_size, image.shape
        channels = source.channels or own
        if channels >= own:
            if channels > own:
                image = image.expand(channels, -1, -1)
            if side is None or (height, width) == (side, side):
                return image
            if pads(source, height, width):
                return pad(image, side)
        pixels = image.permute(1, 2, 0).numpy()
        return _finish(Image.fromarray(pixels[:, :, 0] if own == 1 else pixels), source)
    except Exception as error:  # whatever a damaged file makes the decoder raise
        return _undecodable(error)


def _decode_fast(content: bytes, view: Tensor) -> Tensor | None:
    """Plain JPEG and 8-bit PNG, as uint8 [1 or 3, H, W]; None: left to PIL.

    The same pixels as PIL's in half the time: what PIL does in Python costs more than the decoding
    of a small image. PNG's colour type stands in byte 25 (0 grey, 2 RGB), its depth before it.
    """
    plain_png = content[:4] == b"\x89PNG" and content[24:26] in (b"\x08\x00", b"\x08\x02")
    if not (plain_png or content[:3] == b"\xff\xd8\xff"):
        return None
    try:
        image: Tensor = _decoder()(view, 0, False)  # mode: unchanged; no turning by EXIF
    except Exception:
        return None
    return image if image.dtype == torch.uint8 and image.shape[0] in (1, 3) else None


@functools.cache
def _decoder() -> Any:
    import torchvision.io  # noqa: F401  (registers the operator)

    return torch.ops.image.decode_image


def _finish(image: Image.Image, source: Source) -> Tensor:
    """uint8 [C, H, W] in the source's channels and size."""
    image.load()
    if image.mode.startswith(("I", "F")):
        raise ValueError(f"pixels of mode {image.mode}, not 8-bit")
    channels = source.channels or (1 if image.mode in GREY_MODES else 3)
    mode = "L" if channels == 1 else "RGB"
    if image.mode != mode:
        image = image.convert(mode)
    size = source.image_size
    resizes = size is not None and image.size != (size, size)
    padded = resizes and pads(source, image.height, image.width)
    if size is not None and resizes and not padded:
        image = image.resize((size, size), Image.Resampling.BILINEAR)
    pixels = np.frombuffer(bytearray(image.tobytes()), np.uint8)
    tensor = torch.from_numpy(pixels.reshape(image.height, image.width, channels))
    tensor = tensor.permute(2, 0, 1)
    return pad(tensor, size) if size is not None and padded else tensor


def _undecodable(error: Exception) -> Fault:
    unknown = isinstance(error, UnidentifiedImageError)  # its text names an address in memory
    given = "bytes of no known image format" if unknown else reason(error)
    return Fault(given, "an 8-bit image that can be decoded (PNG, JPEG, …)")


def _shape(image: Tensor) -> Shape:
    channels, height, width = image.shape
    return channels, height, width


def _times(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))
