"""How many slots machines can hold; plain arithmetic, without Ray."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from clray.errors import BadResources
from clray.spec import Resources

_NEEDS = (("CPU", "cpus_per_worker"), ("GPU", "gpus_per_worker"))
_SLACK = 1e-6  # 0.1 ten times is a whole


@dataclass(frozen=True)
class NodeType:
    """A kind of machine: what one has, and how many there can be.

    Without resources it is a machine of which nothing is known before it comes, such as those of
    the launcher's local provider: it may hold anything.
    """

    name: str
    resources: dict[str, float]
    most: int


def workers_on(resources: Resources, node: NodeType) -> int:
    """How many workers one such machine holds; each of several that share a GPU has its part of
    the same one."""
    room = []
    for name, field in _NEEDS:
        need, have = getattr(resources, field), node.resources.get(name, 0.0)
        if 0 < need < 1 and name == "GPU":
            room.append(int(have + _SLACK) * int(1 / need + _SLACK))
        elif need:
            room.append(int(have / need + _SLACK))
    return min(room)


def slots_on(resources: Resources, nodes: Sequence[NodeType]) -> int:
    """How many slots could ever run at once, at most ``resources.slots``.

    Args:
        resources: what each slot holds.
        nodes: all that there is, or that an autoscaler may bring.
    """
    if any(node.most and not node.resources for node in nodes):
        return resources.slots
    workers = sum(node.most * workers_on(resources, node) for node in nodes)
    return min(resources.slots, workers // resources.workers)


def refuse_impossible(resources: Resources, nodes: Sequence[NodeType]) -> None:
    """Refuse a slot that can never be, however many machines come.

    Raises:
        BadResources: with what is asked for and the most that there can be.
    """
    if slots_on(resources, nodes):
        return
    there = [node for node in nodes if node.most]
    for name, field in _NEEDS:
        need = getattr(resources, field)
        most = max((node.resources.get(name, 0.0) for node in there), default=0.0)
        if need > most + _SLACK:
            text = f"at most {most:g} {name}s, all that one machine has or can have"
            raise BadResources(f"resources: {field}", need, f"{text}{_listed(there)}")
    for name, field in _NEEDS:
        need = resources.workers * getattr(resources, field)
        total = sum(node.most * node.resources.get(name, 0.0) for node in there)
        if need > total + _SLACK:
            text = f"at most {total:g} {name}s, all there are or can be"
            raise BadResources(f"resources: workers x {field}", need, f"{text}{_listed(there)}")
    workers = sum(node.most * workers_on(resources, node) for node in there)
    text = f"at most {workers} workers of this size, all that the machines hold"
    raise BadResources("resources: workers", resources.workers, f"{text}{_listed(there)}")


def _listed(nodes: Sequence[NodeType]) -> str:
    """The machines in words, equal ones together."""
    counts: dict[tuple[str, float, float], int] = {}
    for node in nodes:
        kind = (node.name, node.resources.get("CPU", 0.0), node.resources.get("GPU", 0.0))
        counts[kind] = counts.get(kind, 0) + node.most
    words = [f"{n} x {name}: {cpu:g} CPUs, {gpu:g} GPUs" for (name, cpu, gpu), n in counts.items()]
    return f" ({'; '.join(words[:6])}{'; …' if len(words) > 6 else ''})" if words else ""
