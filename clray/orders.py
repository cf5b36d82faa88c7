"""What the dispatcher writes down: the trials that it was given, and the slots that it knows."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(eq=False)
class Order:
    """A trial that somebody waits for."""

    ticket: str
    work: dict[str, Any]
    keys: list[str]
    group: str
    number: int
    events: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    stop: bool = False
    asked: int = 0
    ended: bool = False
    deaths: list[frozenset[str]] = field(default_factory=list)


@dataclass
class Desk:
    """What the dispatcher knows of a slot: its order, its workers' group, what that group was
    handed, the machines that each group stands on, and since when it has nothing to do."""

    order: Order | None = None
    group: str = ""
    handed: list[dict[str, Any]] = field(default_factory=list)
    nodes: dict[str, set[str]] = field(default_factory=dict)
    idle: float | None = None
    gone: bool = False

    def is_led_by(self, group: str) -> bool:
        """Whether what that group tells counts."""
        return self.group == group and not self.gone
