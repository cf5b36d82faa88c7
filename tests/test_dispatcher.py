"""The dispatcher alone, without Ray: deaths, waiting workers, and ends in order."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from clray.dispatcher import DEATHS, Dispatcher
from clray.errors import BadData

Scene = Callable[[], Awaitable[None]]


def play(scene: Scene) -> None:
    async def within_seconds() -> None:
        await asyncio.wait_for(scene(), 10)

    asyncio.run(within_seconds())


async def submit(one: Dispatcher, number: int, key: str = "") -> None:
    await one.submit(f"t{number}", {"n": number}, [key or f"key-{number}"], "group", number)


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


def test_a_worker_that_died_while_it_waited_takes_no_order() -> None:
    async def scene() -> None:
        one = Dispatcher(1)
        dead = asyncio.create_task(one.take(0, 0, "first start", 0))
        await settle()
        alive = asyncio.create_task(one.take(0, 0, "second start", 0))
        await settle()
        await submit(one, 0)
        assert await alive == (1, {"n": 0})
        assert await dead is None

    play(scene)


def test_a_new_worker_gets_what_the_last_one_was_at_but_not_for_ever() -> None:
    async def scene() -> None:
        one = Dispatcher(1)
        await submit(one, 0)
        for start in range(DEATHS):
            assert await one.take(0, 0, f"start {start}", 0) == (1, {"n": 0})
        await submit(one, 1)
        assert await one.take(0, 0, "last start", 0) == (1, {"n": 1})
        kind, outcome = await one.next("t0", 0)
        assert (kind, outcome["state"]) == ("ended", "failed")
        assert "died 3 times" in outcome["error"]

    play(scene)


def test_every_worker_of_a_group_gets_the_same_orders() -> None:
    async def scene() -> None:
        one = Dispatcher(1)
        follower = asyncio.create_task(one.take(0, 1, "start", 0))
        await submit(one, 0)
        await settle()
        assert not follower.done()  # the first worker leads
        leader = await one.take(0, 0, "start", 0)
        assert leader == await follower == (1, {"n": 0})
        await one.end(0, "start", {"state": "completed"})
        await submit(one, 1)
        assert await one.take(0, 0, "start", 1) == await one.take(0, 1, "start", 1) == (2, {"n": 1})

    play(scene)


def test_ends_are_told_in_order_and_once_all_hosts_have_asked() -> None:
    async def scene() -> None:
        one = Dispatcher(2)
        for number in range(2):
            await submit(one, number)
            await one.take(number, 0, "start", 0)
        await one.end(1, "start", {"state": "completed", "n": 1})
        late = asyncio.create_task(one.next("t1", 0, 2, 11))
        await settle()
        assert not late.done()
        await one.end(0, "start", {"state": "completed", "n": 0})
        await settle()
        assert not late.done()  # trial 0's host has not asked yet
        assert await one.next("t0", 0, 2, 10) == ("ended", {"state": "completed", "n": 0})
        assert await late == ("ended", {"state": "completed", "n": 1})

    play(scene)


def test_records_are_told_once_though_a_trial_that_goes_on_repeats_them() -> None:
    async def scene() -> None:
        one = Dispatcher(1)
        await submit(one, 0)
        await one.take(0, 0, "start", 0)
        for run in (0, 0, 1):
            for task in (0, 0, 1):
                assert await one.record(0, "start", run, {"task": task})
            assert await one.ran(0, "start", run, {"metrics": {}})
        told: list[tuple[str, dict[str, Any]]] = [
            ("record", {"task": 0}),
            ("record", {"task": 1}),
            ("ran", {"metrics": {}}),
        ]
        assert [await one.next("t0", n) for n in range(6)] == [
            (kind, {"run": run, **event}) for run in (0, 1) for kind, event in told
        ]
        await one.stop("t0")
        assert not await one.record(0, "start", 2, {"task": 0})
        assert not await one.ran(0, "start", 2, {})

    play(scene)


def test_the_same_trial_is_never_run_by_two_slots_at_once() -> None:
    async def scene() -> None:
        one = Dispatcher(2)
        await submit(one, 0, key="same")
        await submit(one, 1, key="same")
        await one.take(0, 0, "start", 0)
        second = asyncio.create_task(one.take(1, 0, "start", 0))
        await settle()
        assert not second.done()
        await one.end(0, "start", {"state": "completed"})
        assert await second == (1, {"n": 1})

    play(scene)


@pytest.mark.parametrize("submitted_first", [True, False])
def test_without_slots_trials_fail_instead_of_waiting(submitted_first: bool) -> None:
    async def scene() -> None:
        one = Dispatcher(1)
        if submitted_first:
            await submit(one, 0)
        await one.lose(0, "no GPU")
        if not submitted_first:
            await submit(one, 0)
        kind, outcome = await one.next("t0", 0)
        assert (kind, outcome["state"]) == ("ended", "failed")
        assert "no GPU" in outcome["error"]
        assert "no GPU" in (await one.wait_ready() or {})["error"]

    play(scene)


def test_closing_sends_everybody_home() -> None:
    async def scene() -> None:
        one = Dispatcher(1)
        waiting: list[asyncio.Task[Any]] = [
            asyncio.create_task(one.take(0, 0, "start", 0)),
            asyncio.create_task(one.take(0, 1, "start", 0)),
            asyncio.create_task(one.wait_left(0, "start")),
        ]
        await settle()
        await one.close()
        assert [await task for task in waiting] == [None, None, None]

    play(scene)


def test_a_trial_of_a_lost_machine_goes_first_and_its_old_workers_are_not_listened_to() -> None:
    async def scene() -> None:
        one = Dispatcher(0, grace=60)
        for number in range(3):
            await submit(one, number)
        await one.take(0, 0, "old", 0, "spot")
        await one.take(0, 1, "old", 0, "other")
        leaving = asyncio.create_task(one.wait_left(0, "old"))
        await settle()
        assert not leaving.done()
        assert await one.lose_nodes(["other"]) == [0]
        await leaving
        assert await one.record(0, "old", 0, {"task": 0}) is None
        await one.end(0, "old", {"state": "failed"})
        assert await one.take(0, 0, "old", 1, "spot") is None
        assert await one.take(1, 0, "new", 0, "third") == (1, {"n": 0})
        assert await one.record(1, "new", 0, {"task": 0})
        assert await one.news(0) == [("group", 0, w) for w in ("taken", "waiting", "taken")]
        assert await one.counts() == (3, [0, 1])

    play(scene)


def test_deaths_on_lost_machines_do_not_count() -> None:
    async def scene() -> None:
        one = Dispatcher(0, grace=60)
        await submit(one, 0)
        for slot in range(DEATHS):
            assert await one.take(slot, 0, f"{slot}", 0, f"node {slot}") == (1, {"n": 0})
            assert await one.leave(slot)
        late = asyncio.create_task(one.take(9, 0, "late", 0, "node 9"))
        await settle()
        assert not late.done()  # it would be failed, were no machine found to be lost
        await one.lose_nodes(["node 1"])
        assert await late == (1, {"n": 0})

    play(scene)


def test_deaths_on_machines_that_stay_fail_a_trial_after_a_while() -> None:
    async def scene() -> None:
        one = Dispatcher(0, grace=0.05)
        await submit(one, 0)
        for slot in range(DEATHS):
            await one.take(slot, 0, f"{slot}", 0, "node")
            await one.leave(slot)
        kind, outcome = await one.next("t0", 0)
        assert (kind, outcome["state"]) == ("ended", "failed")
        assert await one.counts() == (0, [0, 1, 2])

    play(scene)


def test_a_follower_gets_each_order_though_its_leader_is_done_with_it() -> None:
    async def scene() -> None:
        one = Dispatcher(1)
        for number in range(2):
            await submit(one, number)
            await one.take(0, 0, "start", number)
            await one.end(0, "start", {"state": "completed"})
        assert await one.take(0, 1, "start", 0) == (1, {"n": 0})
        assert await one.take(0, 1, "start", 1) == (2, {"n": 1})

    play(scene)


def test_idle_slots_are_dismissed_unless_trials_wait() -> None:
    async def scene() -> None:
        one = Dispatcher(0)
        idle = asyncio.create_task(one.take(0, 0, "start", 0))
        await submit(one, 0, key="same")
        await submit(one, 1, key="same")
        other = asyncio.create_task(one.take(2, 0, "start", 0))
        await idle
        await settle()
        assert await one.dismiss(0) == []  # trial 1 waits for trial 0, not for a slot
        await one.stop("t1")
        assert await one.dismiss(0) == [2]
        assert await other is None
        assert await one.dismiss(60) == []

    play(scene)


def test_what_a_worker_refuses_ends_all_trials() -> None:
    async def scene() -> None:
        one = Dispatcher(0)
        await submit(one, 0)
        error = BadData("results", "a folder", "a shared one")
        await one.refuse(error)
        await submit(one, 1)
        for ticket in ("t0", "t1"):
            kind, outcome = await one.next(ticket, 0)
            assert (kind, outcome["fatal"]) == ("ended", error)

    play(scene)
