"""When slots are started, ended and given up, on machines that a test makes up."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import ray

from clray import keeper
from clray.events import Event, SlotsChanged, SlotsReady
from clray.keeper import FAILURES, Keeper
from clray.spec import Resources


class Name(int):
    """A placement group's."""

    def hex(self) -> str:
        return str(int(self))


@dataclass(eq=False)
class Group:
    """A placement group."""

    id: Name


@dataclass
class World:
    """Machines with room for some slots, and a dispatcher; it is asked and answers at once."""

    room: int = 0
    nodes: list[str] = field(default_factory=lambda: ["head"])
    orders: int = 0
    ready: list[int] = field(default_factory=list)
    on: dict[int, str] = field(default_factory=dict)
    idle: list[int] = field(default_factory=list)
    gave_up: str = ""
    reserved: list[Group] = field(default_factory=list)
    running: dict[int, threading.Event] = field(default_factory=dict)
    errors: dict[int, str] = field(default_factory=dict)
    told: list[Event] = field(default_factory=list)
    asking: int = 0
    numbers: Iterator[int] = field(default_factory=itertools.count)

    def __getattr__(self, name: str) -> Any:
        """A method of the actor."""
        answer = object.__getattribute__(self, f"answer_{name}")

        class Method:
            remote = staticmethod(answer)

        return Method

    def answer_lose_nodes(self, lost: list[str]) -> list[int]:
        return [slot for slot, node in self.on.items() if node in lost]

    def answer_leave(self, slot: int) -> bool:
        return slot in self.ready

    def answer_dismiss(self, seconds: float) -> list[int]:
        idle, self.idle = self.idle, []
        return idle

    def answer_counts(self) -> tuple[int, list[int]]:
        return self.orders, self.ready

    def answer_give_up(self, error: str) -> None:
        self.gave_up = error

    # Ray's placement groups.

    def reserve(self, bundles: list[dict[str, float]], strategy: str) -> Group:
        group = Group(Name(next(self.numbers)))
        self.reserved.append(group)
        return group

    def remove(self, group: Group) -> None:
        self.asking -= bool(self.asking and self.is_granted(group))
        self.reserved.remove(group)

    def is_granted(self, group: Group) -> bool:
        return self.reserved.index(group) < self.room - (len(self.running) - self.asking)

    def table(self, group: Group | None = None) -> dict[str, Any]:
        if group is None:
            waiting = {"state": "PENDING", "bundles": {0: {"CPU": 1.0}}}
            return {f"run {number}": waiting for number in range(self.asking)}
        return {"state": "CREATED" if self.is_granted(group) else "PENDING"}

    # Slots.

    def fit(self, slot: int) -> str:
        self.asking += 1
        self.running[slot] = threading.Event()
        assert self.running[slot].wait(10)
        del self.running[slot]
        return self.errors.get(slot, "")

    def end(self, slot: int, error: str = "") -> None:
        self.errors[slot] = error
        self.running[slot].set()
        while slot in self.running:
            time.sleep(0.001)


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    one = World()
    monkeypatch.setattr(keeper, "placement_group", one.reserve)
    monkeypatch.setattr(keeper, "remove_placement_group", one.remove)
    monkeypatch.setattr(keeper, "placement_group_table", one.table)
    monkeypatch.setattr(ray, "get", lambda value: value)
    monkeypatch.setattr(
        ray, "nodes", lambda: [{"NodeID": node, "Alive": True} for node in one.nodes]
    )
    for name in ("LOOK", "QUIET", "PATIENCE"):
        monkeypatch.setattr(keeper, name, 0.0)
    yield one
    for event in list(one.running.values()):
        event.set()


@pytest.fixture
def look(world: World) -> Callable[[], tuple[int, ...]]:
    """Lets the keeper look once; the slots that run then."""
    one = Keeper(world, Resources(slots=3), world.fit, world.told.append)

    def once() -> tuple[int, ...]:
        one.look()
        while len(world.running) < sum(run.thread.is_alive() for run in one.runs.values()):
            time.sleep(0.001)
        return tuple(sorted(world.running))

    return once


Look = Callable[[], tuple[int, ...]]


def test_slots_are_started_for_orders_where_there_is_room(world: World, look: Look) -> None:
    assert look() == ()
    assert not world.reserved
    world.orders = 5
    assert look() == ()
    assert len(world.reserved) == 3  # no more than asked for; this is what an autoscaler sees
    world.room = 1
    assert look() == (0,)
    assert len(world.reserved) == 3  # one of them is held for the slot that starts
    world.told.clear()
    assert look() == (0,)
    assert len(world.reserved) == 2  # it was given to the run, which asked for it
    world.ready = [0]
    look()
    assert world.told[-2:] == [SlotsReady(world.told[-2].seconds), SlotsChanged(1, 0, 2, 3)]  # type: ignore[union-attr]
    world.room = 3
    assert look() == (0, 1, 2)
    world.ready = [0, 1, 2]
    look()
    assert world.told[-1] == SlotsChanged(3, 0, 0, 3)
    assert not world.reserved


def test_a_slot_on_a_lost_machine_is_replaced_before_its_run_has_ended(
    world: World, look: Look
) -> None:
    world.orders, world.room, world.nodes = 1, 1, ["head", "spot"]
    assert look() == (0,)
    world.ready, world.on = [0], {0: "spot"}
    look()
    world.nodes, world.room = ["head", "other"], 2
    look()
    assert look() == (0, 1)
    world.end(0, "a node died")
    assert look() == (1,)
    assert not world.gave_up


def test_an_idle_slot_is_closed_and_started_again_when_there_is_work(
    world: World, look: Look
) -> None:
    world.orders, world.room = 1, 1
    look()
    world.ready, world.orders = [0], 0
    look()
    world.idle = [0]
    look()
    world.end(0)
    assert look() == ()
    world.orders = 1
    assert look() == (1,)


def test_what_can_never_be_started_is_given_up_but_not_for_want_of_room(
    world: World, look: Look
) -> None:
    world.orders, world.room = 1, 1
    for slot in range(3 * FAILURES):
        assert look() == (slot,)
        world.end(slot, "WorkerGroupStartupTimeoutError: somebody else was first")
    for slot in range(3 * FAILURES, 4 * FAILURES):
        assert look() == (slot,)
        assert not world.gave_up
        world.end(slot, "ModuleNotFoundError: torch")
    assert look() == ()
    assert world.gave_up == "ModuleNotFoundError: torch"
