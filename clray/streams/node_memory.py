"""Parts of a stored stream in Ray's object store: one copy for all workers of a machine."""

from __future__ import annotations

import threading
import time
import warnings
from typing import Any

import ray
import torch
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from torch import Tensor

from clray.errors import BadResources
from clray.streams.manifest import Manifest
from clray.streams.sharded import Content, Part

ATTEMPTS = 5
"""How often a keeper that died, with the process that started it, is started anew."""

_memories: dict[tuple[str, str], NodeMemory] = {}
_lock = threading.Lock()


class NodeMemory:
    """Loads parts of one stream through its keeper (``clray.streams.sharded.Loader``)."""

    def __init__(self, manifest: Manifest) -> None:
        self.manifest = manifest
        self.plain = manifest.model_dump_json()
        self.keeper: Any = None  # an actor lives as long as the handle of its creator
        self.parts: dict[tuple[int, str], tuple[Tensor, Tensor]] = {}
        self.lock = threading.Lock()

    def __call__(self, content: Content, part: Part) -> tuple[Tensor, Tensor]:
        """See ``Loader``.

        Raises:
            BadResources: the stream does not fit in the object store.
        """
        with self.lock:
            name = (part.task, part.split)
            if name not in self.parts:
                self.parts[name] = self._fetch(content.uri, part)
            return self.parts[name]

    def _fetch(self, uri: str, part: Part) -> tuple[Tensor, Tensor]:
        size, room = self.manifest.num_bytes(), capacity()
        if size > room:
            given = f"memory, for a stream of {size:,} bytes"
            accepted = f"stream, or an object store of more than {size:,} bytes; here: {room:,}"
            raise BadResources("resources.reading", given, accepted)
        for attempt in range(ATTEMPTS):
            try:
                self.keeper = self.keeper or _keeper(self.manifest)
                found = self.keeper.part.remote(uri, self.plain, part.task, part.split)
                [x, y] = ray.get(ray.get(found))
                return _tensor(x), _tensor(y)
            except ray.exceptions.RayTaskError as error:
                raise error.cause from None
            except (ray.exceptions.RayActorError, ray.exceptions.ObjectLostError, ValueError):
                self.keeper = None
                if attempt == ATTEMPTS - 1:
                    raise
                time.sleep(0.2 * 2**attempt)
        raise AssertionError


def node_memory(manifest: Manifest) -> NodeMemory:
    """That of a stream: one for all trials of this process, which keeps one stream at a time."""
    name = (manifest.hash, ray.get_runtime_context().get_node_id())
    with _lock:
        if name not in _memories:
            _memories.clear()
            _memories[name] = NodeMemory(manifest)
        return _memories[name]


class _Keeper:
    """An actor that reads parts and keeps them in the object store of its machine."""

    def __init__(self) -> None:
        self.kept: dict[tuple[int, str], list[Any]] = {}

    def part(self, uri: str, manifest: str, task: int, split: str) -> list[Any]:
        """References to the examples and the labels of a part."""
        if (task, split) not in self.kept:
            whole = Manifest.model_validate_json(manifest)
            own = Part(task, split, getattr(whole.tasks[task], split))
            content = Content(uri, whole, (own,))
            x, y = content.read()
            self.kept[task, split] = [ray.put(x), ray.put(y)]
        return self.kept[task, split]


def capacity() -> int:
    """Bytes of the object store of this machine."""
    here = ray.get_runtime_context().get_node_id()
    [node] = [node for node in ray.nodes() if node["NodeID"] == here]
    return int(node["Resources"].get("object_store_memory", 0))


def _keeper(manifest: Manifest) -> Any:
    """The keeper of this stream on this machine, started if there is none."""
    here = ray.get_runtime_context().get_node_id()
    options = {
        "name": f"clray-stream-{manifest.hash}-{here}",
        "get_if_exists": True,
        "num_cpus": 0,
        "scheduling_strategy": NodeAffinitySchedulingStrategy(here, soft=False),
    }
    return ray.remote(_Keeper).options(**options).remote()


def _tensor(array: Any) -> Tensor:
    """A view of an array that lies in the object store, and so is read-only."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # nobody writes to it
        return torch.from_numpy(array)
