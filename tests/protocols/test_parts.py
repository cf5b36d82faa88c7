"""Parts of final runs are learned first, each once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from clray import registry, trial
from clray.errors import BrokenPromise
from clray.events import Event, TrialEnded, TrialStarted
from clray.guard import own
from clray.job import Search
from clray.plan import Plan, Repeat
from clray.protocols.parts import count_parts, learn_parts
from clray.protocols.session import Session
from clray.space import SearchSpace
from clray.spec import TrialSpec
from clray.store import Folder, trial_folder
from clray.work import Work


class Slots:
    """Runs what it is handed, in this process."""

    def __init__(self, results: Path) -> None:
        self.results, self.learned = results, list[list[str]]()

    def run(
        self, take: Callable[[], Work | None], on_record: Callable[..., None], heard: object
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        wave = []
        while (work := take()) is not None:
            [spec] = work.runs
            folder = trial_folder(str(self.results), spec.key)
            outcome = trial.run(spec, folder, permission=work.permission, keep=work.keep)
            wave.append(outcome.records[-1]["name"])
            yield len(wave) - 1, {"state": outcome.state}
        self.learned.append(wave)


def specs() -> list[TrialSpec]:
    plain = {
        "method": "separate",
        "benchmark": {"name": "split-digits", "scenario": "task-incremental"},
        "model": {"name": "mlp", "hidden": [8]},
    }
    orders = [(0, 1, 2), (0, 2, 1), (2, 1, 0)]
    return [
        registry.complete(TrialSpec.model_validate({**plain, "tasks": order})) for order in orders
    ]


def a_plan(base: TrialSpec) -> Plan:
    return Plan(
        label="mine",
        base=base,
        space=SearchSpace(),
        trials=1,
        search=Search(),
        lag=1,
        num_tasks=3,
        permission=own(base).model_copy(update={"tasks": (0, 1, 2)}),
        repeats=(Repeat(0, None),),
        stage="test",
        exact=True,
    )


def test_each_part_is_learned_once_first_tasks_first(tmp_path: Path) -> None:
    told: list[Event] = []
    slots = Slots(tmp_path)
    session = Session(str(tmp_path), Folder(str(tmp_path / "job")), lambda: slots, told.append)  # type: ignore[arg-type, return-value]
    wholes = specs()
    plan = a_plan(wholes[0])
    learn_parts(session, plan, wholes)
    assert slots.learned == [["0-1", "4-5"], ["2-3", "4-5", "2-3", "0-1"]]
    ended = [event for event in told if isinstance(event, TrialEnded)]
    assert (
        [event.number for event in ended] == list(range(6)) == list(range(count_parts(wholes, 3)))
    )
    assert {(event.label, event.stage, event.stored) for event in ended} == {
        ("mine", "parts", False)
    }
    assert sum(isinstance(event, TrialStarted) for event in told) == 6
    # What is known is told, and not run; where the whole is known, nothing is said.
    told.clear()
    learn_parts(session, plan, wholes)
    assert len(slots.learned) == 2
    assert [event.stored for event in told if isinstance(event, TrialEnded)] == [True] * 6
    told.clear()
    for whole in wholes:
        trial.run(whole, trial_folder(str(tmp_path), whole.key))
    learn_parts(session, plan, wholes)
    assert not told


def test_what_no_other_part_would_do_better_ends_the_job(tmp_path: Path) -> None:
    class Broken(Slots):
        def run(self, *_: object) -> Iterator[tuple[int, dict[str, Any]]]:
            yield 0, {"state": "failed", "fatal": BrokenPromise("separate", "0-1", 1.0, 0.5)}

    slots = Broken(tmp_path)
    session = Session(str(tmp_path), Folder(str(tmp_path / "job")), lambda: slots, lambda _: None)  # type: ignore[arg-type, return-value]
    with pytest.raises(BrokenPromise):
        learn_parts(session, a_plan(specs()[0]), specs())
