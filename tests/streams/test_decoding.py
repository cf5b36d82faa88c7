from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

from clray.streams.dataset import Source, fit_images
from clray.streams.decoding import decode

PIXELS = np.asarray(
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (7, 9, 3), np.uint8)).resize((53, 41))
)


def encoded(mode: str = "RGB", kind: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    Image.fromarray(PIXELS).convert(mode).save(file, kind, **options)
    return file.getvalue()


@pytest.mark.parametrize("channels", [None, 1, 3])
@pytest.mark.parametrize("size", [None, 20])
@pytest.mark.parametrize(
    "content",
    [
        *(encoded(mode) for mode in ("1", "L", "LA", "P", "RGB", "RGBA")),
        encoded(kind="JPEG"),
        encoded(kind="JPEG", subsampling=2, progressive=True),
        encoded("L", "JPEG"),
        encoded("CMYK", "JPEG"),
        encoded(kind="BMP"),
        encoded(kind="WEBP", lossless=True),
    ],
)
def test_pixels_are_those_of_pil(content: bytes, channels: int | None, size: int | None) -> None:
    image: Image.Image = Image.open(io.BytesIO(content))
    count = channels or (1 if image.mode in ("1", "L", "LA") else 3)
    image = image.convert("L" if count == 1 else "RGB")
    if size is not None:
        image = image.resize((size, size), Image.Resampling.BILINEAR)
    expected = np.asarray(image).reshape(image.height, image.width, count).transpose(2, 0, 1)
    images, faults = decode([content], Source("", size, channels), None)
    assert not faults
    assert np.array_equal(images[0].numpy(), expected)


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_cut_off_images_are_faults(kind: str) -> None:
    whole = encoded(kind=kind)
    contents = [whole, whole[: len(whole) // 2], whole[:20], b"", None, whole]
    images, faults = decode(contents, Source(""), None)
    assert sorted(faults) == [1, 2, 3, 4]
    assert torch.equal(images[0], images[5])
    assert not images[1:5].any()


@pytest.mark.parametrize("side", [60, 40])
def test_padding_sets_smaller_images_in_the_middle(side: int) -> None:
    source = Source("", side, fit="pad")
    images, _ = decode([encoded()], source, None)
    if side < 53:
        assert torch.equal(images, decode([encoded()], Source("", side), None)[0])
        return
    plain, _ = decode([encoded()], Source(""), None)
    assert torch.equal(images[:, :, 9:50, 3:56], plain)
    assert int(images.sum()) == int(plain.sum())
    assert torch.equal(fit_images(plain, source), images)


def test_nothing_at_all() -> None:
    assert decode([], Source(""), (3, 4, 5))[0].shape == (0, 3, 4, 5)
    assert decode([None], Source("", 4), None)[0].shape == (1, 1, 4, 4)
