"""Random changes to training images, on whole batches and on their device."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from clray.errors import BadSpec
from clray.streams.augmentation import OWN, Step

PADDING = 4
"""Pixels that ``crop-flip`` adds on each side before it crops."""


class Augment:
    """Random changes to a batch, step by step.

    Args:
        steps: ``none``; ``flip``, each image horizontally with probability one half; ``crop-flip``,
            which also shifts each by up to 4 pixels in each direction, over black; or a list of
            these and of torchvision's v2 transforms, which are drawn once for the whole batch.
        generator: source of randomness, on the CPU. Each step draws one number from it however
            large the batch is, so that workers with uneven shares stay in step.

    Raises:
        BadSpec: torchvision has no such transform, or it refuses the arguments.
    """

    def __init__(self, steps: str | tuple[Step, ...], generator: torch.Generator) -> None:
        self.steps = (steps,) if isinstance(steps, str) else tuple(steps)
        self.generator = generator
        self._apply = [_made(step) for step in self.steps if step != "none"]

    def __call__(self, x: Tensor) -> Tensor:
        """uint8 [B, C, H, W] to the same."""
        for apply in self._apply:
            seed = int(torch.randint(2**62, (), generator=self.generator))
            x = apply(x, seed)
        return x


def check(steps: str | tuple[Step, ...], image_shape: tuple[int, int, int]) -> None:
    """Refuse an augmentation that images (C, H, W) do not survive as what they were.

    Raises:
        BadSpec: one that torchvision does not have, or that changes their shape or type.
    """
    augment = Augment(steps, torch.Generator().manual_seed(0))
    x = torch.zeros(2, *image_shape, dtype=torch.uint8)
    for step, apply in zip([s for s in augment.steps if s != "none"], augment._apply, strict=True):
        try:
            out = apply(x, 0)
            found = f"{out.dtype} {list(out.shape)}".removeprefix("torch.")
        except Exception as error:  # whatever a transform that does not fit raises
            found = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        wanted = f"uint8 {list(x.shape)}"
        if found != wanted:
            accepted = f"transforms that make {wanted} of {wanted}; this one gave {found}"
            raise BadSpec("benchmark.augment", step, accepted)


def _made(step: Step) -> Callable[[Tensor, int], Tensor]:
    if isinstance(step, str):
        return _CropFlip(PADDING if step == "crop-flip" else 0)
    [(name, arguments)] = step.items()
    return _FromTorchvision(name, arguments)


class _CropFlip:
    def __init__(self, padding: int) -> None:
        self.padding = padding

    def __call__(self, x: Tensor, seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        count, channels, height, width = x.shape
        pad = self.padding
        flips = torch.randint(2, (count, 1), generator=generator, dtype=torch.bool)
        shifts = torch.randint(2 * pad + 1, (2, count, 1), generator=generator)
        columns = torch.arange(width).expand(count, width)
        columns = torch.where(flips, columns.flip(1), columns) + shifts[0]
        rows = torch.arange(height) + shifts[1]
        positions = rows.unsqueeze(2) * (width + 2 * pad) + columns.unsqueeze(1)
        positions = positions.view(count, 1, height * width).to(x.device).expand(-1, channels, -1)
        padded = F.pad(x, (pad,) * 4).flatten(2)
        return padded.gather(2, positions).view(x.shape)


class _FromTorchvision:
    """A transform of ``torchvision.transforms.v2``; its randomness is torch's own, set aside."""

    def __init__(self, name: str, arguments: dict[str, Any]) -> None:
        self.name, self.arguments = name, arguments
        try:
            self.transform  # noqa: B018
        except (TypeError, ValueError, AttributeError) as error:
            given = {name: arguments}
            raise BadSpec("benchmark.augment", given, f"what torchvision takes: {error}") from None

    @cached_property
    def transform(self) -> Callable[[Tensor], Tensor]:
        from torchvision.transforms import v2

        kinds = {
            own
            for own, kind in vars(v2).items()
            if isinstance(kind, type)
            and issubclass(kind, v2.Transform)
            and kind is not v2.Transform
        }
        if self.name not in kinds:
            raise BadSpec("benchmark.augment", self.name, [*OWN, *kinds])
        made: Callable[[Tensor], Tensor] = getattr(v2, self.name)(**self.arguments)
        return made

    def __call__(self, x: Tensor, seed: int) -> Tensor:
        if len(x) == 0:
            return x
        with torch.random.fork_rng([x.device] if x.is_cuda else []):
            torch.manual_seed(seed)
            return self.transform(x)
