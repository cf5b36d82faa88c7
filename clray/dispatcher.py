"""Who hands trials to slots, and their records to those who wait; a Ray actor, but free of Ray.

On a cluster slots come and go. A trial whose slot is gone returns to the front of the queue, and
what a worker of that slot still tells is not listened to. Three deaths of its workers make a trial
fail, but for those on machines that went too.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from clray.orders import Desk, Order

DEATHS = 3
"""So many lost workers, and a trial counts as failed."""


class Dispatcher:
    """Hands trials to slots and records to those who wait; a Ray actor without resources.

    Args:
        slots: how many there are from the start; others come with their first worker.
        grace: seconds after a trial's last death before it is failed: the loss of a machine is
            known later than that of a worker on it.
    """

    def __init__(self, slots: int, grace: float = 0.0) -> None:
        self.desks = {number: Desk() for number in range(slots)}
        self.grace = grace
        self.orders: dict[str, Order] = {}
        self.queue: deque[Order] = deque()
        self.changed = asyncio.Condition()
        self.closed = False
        self.broken: dict[str, Any] | None = None
        self.ready: set[int] = set()
        self.hosts: dict[str, set[int]] = {}
        self.told: list[tuple[str, int, str]] = []
        self.judges: set[asyncio.Task[None]] = set()

    async def _notify(self) -> None:
        async with self.changed:
            self.changed.notify_all()

    async def _until(self, true: Callable[[], bool], seconds: float | None = None) -> None:
        async with self.changed:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.changed.wait_for(true), seconds)

    # For the slots.

    async def take(
        self, slot: int, rank: int, group: str, after: int, node: str = ""
    ) -> tuple[int, dict[str, Any]] | None:
        """The next order of the slot's worker group, as (count, work); None: there will be none.

        Args:
            slot: which.
            rank: of the worker; the first one leads, the others get what it got.
            group: names this start of the workers. A new one gets what the last one was at.
            after: how many orders this worker has had.
            node: the machine that the worker is on.
        """
        desk = self.desks.setdefault(slot, Desk())
        desk.nodes.setdefault(group, set()).add(node)
        if rank > 0:
            await self._until(
                lambda: (
                    self.closed or desk.gone or (desk.group == group and len(desk.handed) > after)
                )
            )
            is_over = self.closed or not desk.is_led_by(group)
            return None if is_over else (after + 1, desk.handed[after])
        if desk.group != group and not desk.gone:
            desk.group, desk.handed = group, []
            if desk.order is not None and self._died(desk.order, desk):
                desk.order = None
        self.ready.add(slot)
        desk.idle = time.monotonic() if desk.order is None else None
        await self._notify()
        while desk.order is None:
            await self._until(
                lambda: self.closed or not desk.is_led_by(group) or self._next_free() is not None
            )
            if self.closed or not desk.is_led_by(group):  # this worker died while it waited
                return None
            desk.order = self._next_free()
            if desk.order is not None:
                self.queue.remove(desk.order)
        if self.closed or not desk.is_led_by(group):
            return None
        desk.idle = None
        desk.handed.append(desk.order.work)
        self._tell_of(desk.order, "taken")
        await self._notify()
        return len(desk.handed), desk.order.work

    def _died(self, order: Order, desk: Desk) -> bool:
        """Count a death of the workers that were at an order; whether it may not be run now."""
        order.deaths.append(frozenset(desk.nodes.get(desk.group, ())))
        if len(order.deaths) < DEATHS:
            return False
        if not self.grace:
            self._fail(order)
            return True
        self.judges.add(asyncio.get_running_loop().create_task(self._judge(order)))
        return True

    async def _judge(self, order: Order) -> None:
        """Fail an order unless machines turn out to have been lost with its workers."""
        await self._until(lambda: self.closed or len(order.deaths) < DEATHS, self.grace)
        if len(order.deaths) >= DEATHS and order in self.queue:
            self.queue.remove(order)
            self._fail(order)
            await self._notify()

    def _fail(self, order: Order) -> None:
        self._end(order, {"state": "failed", "error": f"its worker died {DEATHS} times"})

    def _next_free(self) -> Order | None:
        """The first order in the queue none of whose runs a slot is at already."""
        orders = [desk.order for desk in self.desks.values() if desk.order is not None]
        running = {key for order in orders for key in order.keys}
        free = (order for order in self.queue if len(order.deaths) < DEATHS)
        return next((order for order in free if running.isdisjoint(order.keys)), None)

    async def record(
        self, slot: int, group: str, run: int, record: dict[str, Any], wait: bool = False
    ) -> bool | None:
        """One more task was learned; whether to go on. None: the trial is not this group's.

        Args:
            slot: which.
            group: of the worker.
            run: of the trial, from 0.
            record: of the task.
            wait: until whoever reads the trial's events asks for the next one, or stops it.
        """
        told = {"run": run, **record}
        return await self._tell(slot, group, "record", told, ("run", "task"), wait)

    async def ran(
        self, slot: int, group: str, run: int, outcome: dict[str, Any], wait: bool = False
    ) -> bool | None:
        """A run has completed, and is not the last one; as ``record``."""
        return await self._tell(slot, group, "ran", {"run": run, **outcome}, ("run",), wait)

    async def _tell(
        self,
        slot: int,
        group: str,
        kind: str,
        event: dict[str, Any],
        names: tuple[str, ...],
        wait: bool,
    ) -> bool | None:
        desk = self.desks[slot]
        if not desk.is_led_by(group):
            return None
        order = desk.order
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

    async def end(self, slot: int, group: str, outcome: dict[str, Any]) -> None:
        """The slot's trial has ended."""
        desk = self.desks[slot]
        if not desk.is_led_by(group):
            return
        order, desk.order = desk.order, None
        if order is not None:
            self._end(order, outcome)
        await self._notify()

    def _end(self, order: Order, outcome: dict[str, Any]) -> None:
        if not order.ended:
            order.ended = True
            order.events.append(("ended", outcome))

    async def wait_left(self, slot: int, group: str) -> None:
        """Return when that group, which has taken an order, is to leave whatever it is at."""
        desk = self.desks[slot]
        await self._until(lambda: self.closed or not desk.is_led_by(group))

    # For who starts and ends slots.

    async def lose(self, slot: int, error: str) -> None:
        """The slot is gone for good, and none will come in its place."""
        desk = self.desks[slot]
        desk.gone = True
        order, desk.order = desk.order, None
        if order is not None:
            self._end(order, {"state": "failed", "error": f"its slot was lost: {error}"})
        if all(other.gone for other in self.desks.values()):
            self._break({"state": "failed", "error": f"no slot is left: {error}"})
        await self._notify()

    async def leave(self, slot: int) -> bool:
        """The slot is gone, and others will do its work; whether it had been ready."""
        desk = self.desks.setdefault(slot, Desk())
        if not desk.gone:
            self._clear(desk, died=True)
        await self._notify()
        return slot in self.ready

    async def lose_nodes(self, nodes: list[str]) -> list[int]:
        """Machines are gone; the slots that stood on them, whose trials wait for another."""
        gone = frozenset(nodes)
        for order in self.orders.values():
            order.deaths = [death for death in order.deaths if not death & gone]
        lost = []
        for slot, desk in self.desks.items():
            if not desk.gone and gone & desk.nodes.get(desk.group, set()):
                self._clear(desk, died=False)
                lost.append(slot)
        await self._notify()
        return lost

    def _clear(self, desk: Desk, died: bool) -> None:
        """Nobody sits at this desk any more."""
        desk.gone = True
        order, desk.order = desk.order, None
        if order is None or order.ended or order.stop:
            return
        if died:
            self._died(order, desk)
        if not order.ended:
            self.queue.appendleft(order)
            self._tell_of(order, "waiting")

    async def dismiss(self, seconds: float) -> list[int]:
        """Send home the slots that have had nothing to do for so long, unless trials wait; which
        ones."""
        now = time.monotonic()
        idle = [
            slot
            for slot, desk in self.desks.items()
            if not desk.gone and desk.idle is not None and now - desk.idle >= seconds
        ]
        if self.queue or not idle:
            return []
        for slot in idle:
            self.desks[slot].gone = True
        await self._notify()
        return idle

    async def counts(self) -> tuple[int, list[int]]:
        """How many trials wait or run, and the slots that have started."""
        held = sum(desk.order is not None for desk in self.desks.values())
        return len(self.queue) + held, sorted(self.ready)

    async def refuse(self, error: Exception) -> None:
        """A worker found what no slot would do better with."""
        self._break({"state": "failed", "metrics": {}, "error": str(error), "fatal": error})
        await self._notify()

    async def give_up(self, error: str) -> None:
        """No slot can be started."""
        self._break({"state": "failed", "error": f"no slot is left: {error}"})
        await self._notify()

    def _break(self, outcome: dict[str, Any]) -> None:
        self.broken = self.broken or outcome
        for desk in self.desks.values():
            if desk.order is not None:
                self._end(desk.order, outcome)
        for order in self.queue:
            self._end(order, outcome)
        self.queue.clear()

    # For those who wait.

    async def submit(
        self, ticket: str, work: dict[str, Any], keys: list[str], group: str, n: int
    ) -> None:
        """Queue a trial's work; a ticket that is known is the same trial."""
        if ticket in self.orders:
            return
        order = self.orders[ticket] = Order(ticket, work, keys, group, n)
        if self.broken is not None:
            self._end(order, self.broken)
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

    def _earlier(self, order: Order) -> bool:
        return any(o.group == order.group and o.number < order.number for o in self.orders.values())

    async def stop(self, ticket: str) -> None:
        """Stop the trial at its next record; nobody waits for it any more."""
        order = self.orders.pop(ticket, None)
        if order is not None:
            order.stop = True
            if order in self.queue:
                self.queue.remove(order)
        await self._notify()

    # For those who watch.

    def _tell_of(self, order: Order, kind: str) -> None:
        self.told.append((order.group, order.number, kind))

    async def news(self, after: int) -> list[tuple[str, int, str]] | None:
        """What became of trials after the first ``after`` news, as (group, number, what): a slot
        has "taken" it, or it is "waiting" again. Waits for some; None: there will be none."""
        await self._until(lambda: self.closed or len(self.told) > after)
        return None if self.closed else self.told[after:]

    async def wait_ready(self) -> dict[str, Any] | None:
        """Wait for the first slot to be ready or all to be lost; None, or how trials end then."""
        await self._until(lambda: bool(self.ready or self.broken))
        return None if self.ready else self.broken

    async def num_ready(self) -> int:
        """How many slots have started."""
        return len(self.ready)

    async def close(self) -> None:
        """Let the slots' workers return at once, whatever they are at: it is stored, or will be
        done again."""
        self.closed = True
        await self._notify()
