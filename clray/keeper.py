"""Keeps as many slots on a cluster as there is work for and machines hold.

Machines come and go. For each slot that is wanted and does not run, its resources are asked for
with a placement group: where they are missing, this is the demand that an autoscaler sees, and
where machines join by hand it simply waits. Once granted, the slot's Ray Train run is started,
which costs several processes: none is started for what is not there. The group is given back when
the run asks for the same, so that no machine looks idle in between. A slot whose machine or worker
is lost is not repaired; it is wanted again.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.util.placement_group import (
    PlacementGroup,
    placement_group,
    placement_group_table,
    remove_placement_group,
)

from clray.events import SlotsChanged, SlotsReady, Watch
from clray.spec import Resources

TICK = 0.25
"""Seconds between looks at orders and reservations."""
LOOK = 1.0
"""Seconds between looks at the machines."""
QUIET = 1.0
"""So long nothing is reserved when a slot's run takes over what was granted to it: that is free for
a moment, and a reservation that waited longer would be given it."""
PATIENCE = 3.0
"""A slot counts as waiting for machines after so many seconds."""
FAILURES = 3
"""So many slots in a row that could not be started, with no machine lost, and all is given up."""


@dataclass
class _Run:
    """A slot's Ray Train run, and what is held for it until it asks."""

    thread: threading.Thread
    held: PlacementGroup | None
    ready: bool = False
    gone: bool = False
    error: list[str] = field(default_factory=list)


def bundles(resources: Resources) -> list[dict[str, float]]:
    """What a slot holds, as Ray Train asks for it."""
    each = {"CPU": float(resources.cpus_per_worker)}
    if resources.gpus_per_worker:
        each["GPU"] = float(resources.gpus_per_worker)
    return [dict(each) for _ in range(resources.workers)]


class Keeper:
    """Starts and ends the slots of one job, from a thread of its own.

    Args:
        dispatcher: the actor that gives trials to slots.
        resources: what each slot holds, and how many there are at most.
        fit: runs the slot of a number until it ends; what went wrong, or "".
        watch: is told how many slots there are.
    """

    def __init__(
        self,
        dispatcher: Any,
        resources: Resources,
        fit: Callable[[int], str],
        watch: Watch,
    ) -> None:
        self.dispatcher, self.resources, self.fit, self.watch = dispatcher, resources, fit, watch
        self.runs: dict[int, _Run] = {}
        self.ended: list[threading.Thread] = []
        self.reserved: list[PlacementGroup] = []
        self.nodes: set[str] = set()
        self.looked = self.lost = self.handed = float("-inf")
        self.failures = self.next = 0
        self.told: SlotsChanged | None = None
        self.was_ready = False
        self.start_time = self.lacked = time.monotonic()
        self.stopping = threading.Event()
        self.thread = threading.Thread(target=self._keep, daemon=True)

    def start(self) -> None:
        """Follow orders and machines from now on."""
        self.thread.start()

    def stop(self) -> None:
        """Start nothing any more, and give back what is reserved."""
        self.stopping.set()
        self.thread.join(timeout=30)

    def threads(self) -> list[threading.Thread]:
        """The threads of all runs that may not have ended."""
        return [*self.ended, *(run.thread for run in self.runs.values())]

    def _ask(self, name: str, *arguments: Any) -> Any:
        return ray.get(getattr(self.dispatcher, name).remote(*arguments))

    def _keep(self) -> None:
        try:
            while not self.stopping.wait(TICK):
                self.look()
        except Exception as error:  # otherwise the job would wait for ever
            if not self.stopping.is_set():
                self._ask("give_up", f"{type(error).__name__}: {error}".splitlines()[0])
        finally:
            self._reserve(0)
            for run in self.runs.values():
                _release(run)

    def look(self) -> None:
        """Do once what there is to do."""
        self._look_at_machines()
        self._look_at_runs()
        self._hand_over()
        self._follow_orders()

    def _look_at_machines(self) -> None:
        """Take the trials of slots on lost machines back."""
        now = time.monotonic()
        if now - self.looked < LOOK:
            return
        self.looked = now
        alive = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
        lost, self.nodes = self.nodes - alive, alive
        if lost:
            self.lost = now
            for slot in self._ask("lose_nodes", sorted(lost)):
                if slot in self.runs:
                    self.runs[slot].gone = True

    def _look_at_runs(self) -> None:
        """Take note of runs that ended; a lost one may take a while to."""
        for slot in [s for s, run in self.runs.items() if not run.thread.is_alive()]:
            run = self.runs.pop(slot)
            _release(run)
            was_ready = self._ask("leave", slot)
            lacked = "StartupTimeout" in run.error[0]  # somebody else was given its resources
            if was_ready:
                self.failures = 0
            elif not lacked and time.monotonic() - self.lost > 60:
                self.failures += 1
                if self.failures == FAILURES:
                    self._ask("give_up", run.error[0])
        self.ended = [thread for thread in self.ended if thread.is_alive()]
        for slot, run in list(self.runs.items()):
            if run.gone:  # its number is not used again, and its thread ends when it can
                self.ended.append(run.thread)
                _release(self.runs.pop(slot))

    def _hand_over(self) -> None:
        """Give back what is held for runs that ask for it now, or have got it elsewhere."""
        holding = [run for run in self.runs.values() if run.held is not None]
        if not holding:
            return
        own = {one.id.hex() for one in self.reserved}
        own |= {run.held.id.hex() for run in holding if run.held is not None}
        asked = bundles(self.resources)
        asking = sum(
            one["state"] == "PENDING" and list(one["bundles"].values()) == asked
            for name, one in placement_group_table().items()
            if name not in own
        )
        for run in holding:
            if run.ready:
                _release(run)
            elif asking:
                asking -= 1
                self._reserve(0)
                _release(run)
                self.handed = time.monotonic()

    def _follow_orders(self) -> None:
        """Have as many slots as there are trials, if machines allow."""
        for slot in self._ask("dismiss", self.resources.idle_seconds):
            if slot in self.runs:
                self.runs[slot].gone = True
        orders, ready = self._ask("counts")
        for slot in ready:
            if slot in self.runs:
                self.runs[slot].ready = True
        now = time.monotonic()
        live = [run for run in self.runs.values() if not run.gone]
        is_ready = sum(run.ready for run in live)
        wanted = min(self.resources.slots, orders)
        lacking = max(0, wanted - len(live)) if self.failures < FAILURES else 0
        self._reserve(0 if now - self.handed < QUIET else lacking)
        given = [one for one in self.reserved if placement_group_table(one)["state"] == "CREATED"]
        for one in given:
            self.reserved.remove(one)
            self._start(one)
        if is_ready and not self.was_ready:
            self.was_ready = True
            self.watch(SlotsReady(now - self.start_time))
        lacking -= len(given)
        self.lacked = self.lacked if lacking else now
        starting = len(live) - is_ready + len(given)
        if now - self.lacked < PATIENCE:  # it may be granted at once
            starting, lacking = starting + lacking, 0
        self._tell(SlotsChanged(is_ready, starting, lacking, self.resources.slots))

    def _reserve(self, number: int) -> None:
        while len(self.reserved) > number:
            remove_placement_group(self.reserved.pop())
        while len(self.reserved) < number:
            self.reserved.append(placement_group(bundles(self.resources), strategy="PACK"))

    def _start(self, held: PlacementGroup) -> None:
        slot, self.next = self.next, self.next + 1
        error: list[str] = []

        def fit() -> None:
            error.append(self.fit(slot))

        thread = threading.Thread(target=fit, daemon=True)
        self.runs[slot] = _Run(thread, held, error=error)
        thread.start()

    def _tell(self, event: SlotsChanged) -> None:
        is_news = self.told is not None or event.starting or event.waiting
        if event != self.told and is_news:
            self.told = event
            self.watch(event)


def _release(run: _Run) -> None:
    if run.held is not None:
        remove_placement_group(run.held)
        run.held = None
