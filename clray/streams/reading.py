"""The ways to read a stored stream, and which of them a trial takes."""

from __future__ import annotations

import os
import sys
import threading
from collections import OrderedDict

import torch
from torch import Tensor

from clray.errors import BadResources
from clray.spec import Resources
from clray.streams.manifest import Manifest
from clray.streams.sharded import AHEAD, Content, Part, Reader, Resident

_kept: OrderedDict[tuple[str, str], dict[tuple[int, str], tuple[Tensor, Tensor]]] = OrderedDict()
_lock = threading.Lock()


def choose(manifest: Manifest, resources: Resources, device: torch.device) -> str:
    """How the stream is read: ``device``, ``memory`` or ``stream``.

    Unless the resources say, the first of these that it fits: the device, if the whole stream takes
    no more than ``resources.memory`` (and half of what is free on a GPU); the memory that all
    workers of a machine share, if Ray is on and it takes no more than half of Ray's object store
    there; else it is streamed.
    """
    if resources.reading != "auto":
        return resources.reading
    size = manifest.num_bytes()
    room = int(resources.memory)
    if device.type == "cuda":
        room = min(room, torch.cuda.mem_get_info(device)[0] // 2)
    if size <= room:
        return "device"
    if _ray_is_on():
        from clray.streams.node_memory import capacity

        if size <= capacity() // 2:
            return "memory"
    return "stream"


def check(
    manifest: Manifest, mode: str, window: int, resources: Resources, device: torch.device
) -> None:
    """Refuse a way of reading for which there is certainly no room.

    Args:
        manifest: of the stream.
        mode: the way.
        window: rows that are shuffled together.
        resources: of a worker.
        device: where batches go.

    Raises:
        BadResources: such a one.
    """
    if mode == "stream":
        tasks = [sum(shard.rows for shard in task.shards()) for task in manifest.tasks]
        need = 2 * (AHEAD + 1) * min(window, max(tasks, default=0)) * (manifest.row_bytes + 8)
        if need > resources.memory:
            given = f"{int(resources.memory):,} bytes"
            accepted = f"{need:,} or more to stream with this benchmark.shuffle_window, of which "
            accepted += f"{AHEAD + 1} take half; a smaller window changes the order of batches"
            raise BadResources("resources.memory", given, accepted)
    elif mode == "device" or not _ray_is_on():
        size = manifest.num_bytes(("train",))
        have = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        if mode == "device" and device.type == "cuda":
            have = torch.cuda.mem_get_info(device)[1]
        if size > have:
            given = f"{mode}, for a stream of {size:,} bytes"
            raise BadResources("resources.reading", given, f"auto or stream; {have:,} bytes here")


def reader(manifest: Manifest, mode: str, resources: Resources, device: torch.device) -> Reader:
    """What reads the stream in that way."""
    if mode == "device":
        return Resident(_OnDevice(manifest, device), device)
    if mode == "memory" and _ray_is_on():
        from clray.streams.node_memory import node_memory

        return Resident(node_memory(manifest), device)
    if mode == "memory":  # this process is the only one on the machine that reads
        return Resident(_OnDevice(manifest, torch.device("cpu")), device)
    from clray.streams.streaming import Streamed

    return Streamed(device, int(resources.memory), through_ray=_ray_is_on())


def whole(content: Content, part: Part) -> tuple[Tensor, Tensor]:
    """A part of a stream, from its files: examples [n, C, H, W] and labels int64 [n].

    Raises:
        BadData: a file is missing, truncated or damaged.
    """
    own = Content(content.uri, content.manifest, (part,))
    x, y = own.read()
    return torch.from_numpy(x), torch.from_numpy(y)


class _OnDevice:
    """Keeps the parts of one stream on a device, for all trials of this process."""

    def __init__(self, manifest: Manifest, device: torch.device) -> None:
        self.key = (manifest.hash, str(device))
        self.device = device

    def __call__(self, content: Content, part: Part) -> tuple[Tensor, Tensor]:
        with _lock:
            if self.key not in _kept:
                _kept.clear()  # another stream's
                _kept[self.key] = {}
            parts = _kept[self.key]
            name = (part.task, part.split)
            if name not in parts:
                x, y = whole(content, part)
                parts[name] = (x.to(self.device), y.to(self.device))
            return parts[name]


def _ray_is_on() -> bool:
    """Whether this process is part of a Ray; without importing it."""
    ray = sys.modules.get("ray")
    return ray is not None and bool(ray.is_initialized())
