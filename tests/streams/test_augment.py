from __future__ import annotations

import pickle
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from clray import registry
from clray.errors import BadSpec
from clray.spec import Component
from clray.streams.augment import Augment
from clray.streams.augmentation import OWN


def images(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


def test_no_augmentation_leaves_images_and_generator_alone() -> None:
    generator = torch.Generator().manual_seed(1)
    x = images(4, 3, 5, 5)
    assert Augment("none", generator)(x) is x
    assert torch.equal(generator.get_state(), torch.Generator().manual_seed(1).get_state())


def test_flips_turn_over_about_half_of_the_images() -> None:
    x = images(200, 3, 5, 5)
    out = Augment("flip", torch.Generator().manual_seed(1))(x)
    same = (out == x).flatten(1).all(1)
    over = (out == x.flip(3)).flatten(1).all(1)
    assert torch.all(same | over)
    assert 60 < int(over.sum()) < 140


def test_crops_are_windows_of_the_padded_image() -> None:
    x = images(50, 3, 6, 6)
    out = Augment("crop-flip", torch.Generator().manual_seed(1))(x)
    padded = F.pad(x, (4, 4, 4, 4))
    found = 0
    for i in range(50):
        windows = [padded[i, :, r : r + 6, c : c + 6] for r in range(9) for c in range(9)]
        found += any(torch.equal(out[i], w) or torch.equal(out[i], w.flip(2)) for w in windows)
    assert found == 50


JITTER: Any = ("crop-flip", {"ColorJitter": {"brightness": 0.4, "hue": 0.1}})


@pytest.mark.parametrize("steps", [*OWN, JITTER])
def test_augmentation_is_a_function_of_its_generator(steps: Any) -> None:
    x = images(9, 3, 6, 6)
    augment = Augment(steps, torch.Generator().manual_seed(4))
    copy = pickle.loads(pickle.dumps(augment))
    assert torch.equal(augment(x), copy(x))
    augment(x)
    copy(x[:2])  # however large the batch was
    assert torch.equal(augment(x), copy(x))


def test_torchvision_s_transforms_leave_the_global_generator_alone() -> None:
    x = images(5, 3, 6, 6)
    augment = Augment(JITTER, torch.Generator().manual_seed(4))
    before = torch.get_rng_state()
    out = augment(x)
    assert out.dtype == torch.uint8
    assert out.shape == x.shape
    assert not torch.equal(out, augment(x))
    assert torch.equal(torch.get_rng_state(), before)
    assert augment(x[:0]).shape == (0, 3, 6, 6)


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ("jitter", "accepted: none, flip, crop-flip, or a list"),
        (["flip", 3], "accepted: none, flip, crop-flip, or a list"),
        ([{"ColourJitter": {}}], "Did you mean 'ColorJitter'"),
        ([{"ColorJitter": {"brightnes": 0.4}}], "unexpected keyword argument"),
        ([{"RandomResizedCrop": {"size": 5}}], r"uint8 \[2, 3, 32, 32\]; this one gave"),
        ([{"Grayscale": {}}], r"this one gave uint8 \[2, 1, 32, 32\]"),
    ],
)
def test_augmentations_that_cannot_be(steps: Any, message: str) -> None:
    knobs = {"dataset": "digits", "num_tasks": 5, "image_size": 32, "channels": 3}
    with pytest.raises(BadSpec, match=message):
        registry.configure("benchmark", Component(name="split", augment=steps, **knobs)).check()
