"""Who hands trials to slots, and their records to those who wait; a Ray actor, but free of Ray."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

DEATHS = 3
"""So many lost workers, and a trial counts as failed."""


@dataclass
class _Order:
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
    deaths: int = 0


@dataclass
class _Desk:
    """What the dispatcher knows of a slot: its order, its workers' group, and how many orders
    that group was handed."""

    order: _Order | None = None
    group: str = ""
    handed: int = 0


class Dispatcher:
    """Hands trials to slots and records to those who wait; a Ray actor without resources.

    Args:
        slots: how many there are.
    """

    def __init__(self, slots: int) -> None:
        self.desks = [_Desk() for _ in range(slots)]
        self.orders: dict[str, _Order] = {}
        self.queue: deque[_Order] = deque()
        self.changed = asyncio.Condition()
        self.closed = False
        self.lost: dict[int, str] = {}
        self.ready: set[int] = set()
        self.hosts: dict[str, set[int]] = {}

    async def _notify(self) -> None:
        async with self.changed:
            self.changed.notify_all()

    async def _until(self, true: Callable[[], bool], seconds: float | None = None) -> None:
        async with self.changed:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.changed.wait_for(true), seconds)

    # For the slots.

    async def take(
        self, slot: int, rank: int, group: str, after: int
    ) -> tuple[int, dict[str, Any]] | None:
        """The next order of the slot's worker group, as (count, work); None: there will be none.

        Args:
            slot: which.
            rank: of the worker; the first one leads, the others get what it got.
            group: names this start of the workers. A new one gets what the last one was at.
            after: how many orders this worker has had.
        """
        desk = self.desks[slot]
        if rank > 0:
            await self._until(lambda: self.closed or (desk.group == group and desk.handed > after))
        else:
            self.ready.add(slot)
            if desk.group != group:
                desk.group, desk.handed = group, 0
                self._start_again(desk)
            await self._notify()
            while desk.order is None:
                await self._until(
                    lambda: self.closed or desk.group != group or self._next_free() is not None
                )
                if self.closed or desk.group != group:  # this worker died while it waited
                    return None
                desk.order = self._next_free()
                if desk.order is not None:
                    self.queue.remove(desk.order)
            desk.handed += 1
            await self._notify()
        return None if self.closed or desk.order is None else (desk.handed, desk.order.work)

    def _start_again(self, desk: _Desk) -> None:
        if desk.order is not None:
            desk.order.deaths += 1
            if desk.order.deaths == DEATHS:
                error = f"its worker died {DEATHS} times"
                self._end(desk.order, {"state": "failed", "error": error})
                desk.order = None

    def _next_free(self) -> _Order | None:
        """The first order in the queue none of whose runs a slot is at already."""
        orders = [desk.order for desk in self.desks if desk.order is not None]
        running = {key for order in orders for key in order.keys}
        return next((order for order in self.queue if running.isdisjoint(order.keys)), None)

    async def record(self, slot: int, run: int, record: dict[str, Any], wait: bool = False) -> bool:
        """One more task was learned; whether to go on.

        Args:
            slot: which.
            run: of the trial, from 0.
            record: of the task.
            wait: until whoever reads the trial's events asks for the next one, or stops it.
        """
        return await self._tell(slot, "record", {"run": run, **record}, ("run", "task"), wait)

    async def ran(self, slot: int, run: int, outcome: dict[str, Any], wait: bool = False) -> bool:
        """A run has completed, and is not the last one; whether to go on."""
        return await self._tell(slot, "ran", {"run": run, **outcome}, ("run",), wait)

    async def _tell(
        self, slot: int, kind: str, event: dict[str, Any], names: tuple[str, ...], wait: bool
    ) -> bool:
        order = self.desks[slot].order
        if order is None:
            return False
        known = {tuple(e[n] for n in names) for other, e in order.events if other == kind}
        if tuple(event[n] for n in names) not in known:  # a trial that goes on repeats itself
            order.events.append((kind, event))
            await self._notify()
            if wait:
                told = len(order.events)
                await self._until(lambda: order.stop or order.asked >= told or self.closed)
        return not order.stop

    async def end(self, slot: int, outcome: dict[str, Any]) -> None:
        """The slot's trial has ended."""
        order, self.desks[slot].order = self.desks[slot].order, None
        if order is not None:
            self._end(order, outcome)
        await self._notify()

    def _end(self, order: _Order, outcome: dict[str, Any]) -> None:
        if not order.ended:
            order.ended = True
            order.events.append(("ended", outcome))

    async def lose(self, slot: int, error: str) -> None:
        """The slot is gone for good."""
        self.lost[slot] = error
        order, self.desks[slot].order = self.desks[slot].order, None
        if order is not None:
            self._end(order, {"state": "failed", "error": f"its slot was lost: {error}"})
        if len(self.lost) == len(self.desks):
            for waiting in self.queue:
                self._end(waiting, {"state": "failed", "error": f"no slot is left: {error}"})
            self.queue.clear()
        await self._notify()

    # For those who wait.

    async def submit(
        self, ticket: str, work: dict[str, Any], keys: list[str], group: str, n: int
    ) -> None:
        """Queue a trial's work; a ticket that is known is the same trial."""
        if ticket in self.orders:
            return
        order = self.orders[ticket] = _Order(ticket, work, keys, group, n)
        if len(self.lost) == len(self.desks):
            error = next(iter(self.lost.values()))
            self._end(order, {"state": "failed", "error": f"no slot is left: {error}"})
        else:
            self.queue.append(order)
        await self._notify()

    async def next(
        self, ticket: str, index: int, hosts: int = 0, pid: int = 0
    ) -> tuple[str, dict[str, Any]]:
        """The ticket's ``index``-th event: ("record", record), ("ran", a run's
        outcome) or ("ended", outcome).

        Args:
            ticket: as submitted.
            index: from 0; waits until there is that one.
            hosts: with more than 0, ends are told in the order of the group's numbers, and not
                before so many processes have asked. Ray Tune would else give a starting actor's
                trial to one that is free earlier, drop the former, and start a new one for the
                next trial: a process for each trial, 0.6 s each.
            pid: of the process that asks.
        """
        order = self.orders[ticket]
        order.asked = max(order.asked, index)
        await self._notify()
        if hosts and pid not in self.hosts.setdefault(order.group, set()):
            self.hosts[order.group].add(pid)
            await self._notify()
        await self._until(lambda: len(order.events) > index)
        event = order.events[index]
        if event[0] == "ended":
            if hosts:
                await self._until(lambda: len(self.hosts[order.group]) >= hosts, 30)
                await self._until(lambda: not self._earlier(order))
            self.orders.pop(ticket, None)
            await self._notify()
        return event

    def _earlier(self, order: _Order) -> bool:
        return any(o.group == order.group and o.number < order.number for o in self.orders.values())

    async def stop(self, ticket: str) -> None:
        """Stop the trial at its next record; nobody waits for it any more."""
        order = self.orders.pop(ticket, None)
        if order is not None:
            order.stop = True
            if order in self.queue:
                self.queue.remove(order)
        await self._notify()

    async def wait_ready(self) -> str | None:
        """Wait for the first slot to be ready or lost; None, or why it is lost."""
        await self._until(lambda: bool(self.ready or self.lost))
        return None if self.ready else next(iter(self.lost.values()))

    async def num_ready(self) -> int:
        """How many slots have started."""
        return len(self.ready)

    async def close(self) -> None:
        """Let the slots' workers return at once, whatever they are at: it is stored, or will be
        done again."""
        self.closed = True
        await self._notify()

    async def wait_closed(self) -> None:
        """Return when the slots are to be left."""
        await self._until(lambda: self.closed)
