"""What happens to images on their way to a network, on whole batches and on their device.

Domain transforms (``PixelPermutations``, ``Rotations``) make the tasks of domain streams out of one
dataset and are part of the data: deterministic, uint8 to uint8. ``Prepare`` makes the float input
of the network. What happens to training images alone stands in ``augment``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def permutation_tables(
    tasks: Sequence[int], pixels: int, seed: int, identity_first: bool = True
) -> Tensor:
    """The pixel permutations of some tasks.

    Args:
        tasks: which tasks' permutations.
        pixels: H * W; across channels C * H * W.
        seed: permutation t is ``torch.randperm`` from a generator seeded with ``seed + t``.
        identity_first: whether task 0 leaves the images as they are.

    Returns:
        int64 [len(tasks), pixels]: new pixel i of task t is old pixel ``table[t, i]``.
    """
    rows = []
    for task in tasks:
        if task == 0 and identity_first:
            rows.append(torch.arange(pixels))
        else:
            generator = torch.Generator().manual_seed(seed + task)
            rows.append(torch.randperm(pixels, generator=generator))
    return torch.stack(rows)


class PixelPermutations:
    """One permutation of the pixels per domain, the same for all channels or across them.

    After Goodfellow et al. (2013) and Kirkpatrick et al. (2017).

    Args:
        tables: int64 [domains, H * W]; across channels [domains, C * H * W].
        across_channels: whether values may move from one channel to another.
    """

    def __init__(self, tables: Tensor, across_channels: bool = False) -> None:
        self.tables = tables
        self.across_channels = across_channels
        positions = torch.arange(tables.shape[1], device=tables.device)
        self._identity = [bool(torch.equal(row, positions)) for row in tables]

    def __call__(self, x: Tensor, domain: int | Tensor) -> Tensor:
        """uint8 [B, C, H, W] to the same; ``domain`` is a number or int64 [B]."""
        if isinstance(domain, int):
            if self._identity[domain]:
                return x
            table = self.tables[domain]
        else:
            table = self.tables.index_select(0, domain)
            if not self.across_channels:
                table = table.unsqueeze(1)
        flat = x.flatten(1 if self.across_channels else 2)
        # gather is twice as quick as index_select over the last dimension
        return flat.gather(-1, table.expand(flat.shape)).view(x.shape)


class Rotations:
    """One rotation per domain: bilinear, corners filled with 0, rounded to whole grey levels.

    After Lopez-Paz and Ranzato (2017).

    Args:
        angles: degrees, anticlockwise, one per domain; 90 is ``torch.rot90(x, 1, (2, 3))``.
        image_shape: (C, H, W).
        device: where the images lie.
    """

    def __init__(
        self, angles: Sequence[float], image_shape: tuple[int, int, int], device: torch.device
    ) -> None:
        self.angles = tuple(angles)
        _, height, width = image_shape
        matrices = []
        for angle in angles:
            cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
            # Each axis of the grid runs from -1 to 1, whatever its length in pixels.
            matrices.append([[cos, -sin * height / width, 0.0], [sin * width / height, cos, 0.0]])
        theta = torch.tensor(matrices, dtype=torch.float32)
        shape = [len(angles), 1, height, width]
        self._grids = F.affine_grid(theta, shape, align_corners=False).to(device)

    def __call__(self, x: Tensor, domain: int | Tensor) -> Tensor:
        """uint8 [B, C, H, W] to the same; ``domain`` is a number or int64 [B]."""
        if len(x) == 0:
            return x
        if isinstance(domain, Tensor):
            grid, pixels = self._grids.index_select(0, domain), x.float()
        elif self.angles[domain] % 360 == 0:
            return x
        else:
            grid = self._grids[domain : domain + 1]
            if x.is_cuda:
                grid, pixels = grid.expand(len(x), -1, -1, -1), x.float()
            else:  # images as channels of one: the grid is evaluated once, at half the time
                pixels = x.float().flatten(0, 1).unsqueeze(0)
        turned = F.grid_sample(pixels, grid, align_corners=False)
        return turned.round_().to(torch.uint8).view(x.shape)


class Prepare:
    """uint8 images to the network's float input: ``/ 255``, then ``(x - mean) / std`` if given.

    Features, which are floats, stay as they are.

    Args:
        mean, std: per channel, in [0, 1] units; both empty for none.
    """

    def __init__(self, mean: Sequence[float] = (), std: Sequence[float] = ()) -> None:
        self.mean, self.std = tuple(mean), tuple(std)
        self._moved: dict[torch.device, tuple[Tensor, Tensor]] = {}

    def __call__(self, x: Tensor) -> Tensor:
        """uint8 (or float) [B, C, H, W] to float32 [B, C, H, W]."""
        if x.is_floating_point():
            return x.float()
        pixels = x.float().div_(255)
        if not self.mean:
            return pixels
        if x.device not in self._moved:
            shape = (1, -1, 1, 1)
            self._moved[x.device] = (
                torch.tensor(self.mean, device=x.device).view(shape),
                torch.tensor(self.std, device=x.device).view(shape),
            )
        mean, std = self._moved[x.device]
        return pixels.sub_(mean).div_(std)

    def __reduce__(self) -> tuple[object, ...]:
        return Prepare, (self.mean, self.std)
