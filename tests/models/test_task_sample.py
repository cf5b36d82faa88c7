"""A task's examples, in parts that workers share."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import pytest
import torch

from clray.distributed import Distributed
from clray.learner import Setup
from clray.models import task_sample
from clray.models.task_sample import Share, Shares
from clray.streams.examples import TensorExamples
from clray.task import Task


class Worker(Distributed):
    """One of several, without the others."""

    def __init__(self, rank: int, world: int) -> None:
        self.place = rank, world

    @property
    def rank(self) -> int:
        return self.place[0]

    @property
    def world(self) -> int:
        return self.place[1]


def task(size: int = 50) -> Task:
    """Example i is labelled i."""
    x = torch.arange(size, dtype=torch.uint8).view(-1, 1, 1, 1)
    examples = TensorExamples(x, torch.arange(size), torch.arange(size))
    return Task(0, "0", tuple(range(size)), examples, examples)


def shares(examples: int | None, rank: int = 0, world: int = 1) -> Shares:
    generator = torch.Generator().manual_seed(0)
    setup = SimpleNamespace(distributed=Worker(rank, world), generator=generator)
    return Shares(task(), examples, cast(Setup, setup))


def labels(parts: list[Share]) -> list[int]:
    return torch.cat([part.y for part in parts]).tolist()


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task_sample, "BATCH", 16)


@pytest.mark.parametrize("examples", [None, 50, 1000])
def test_all_are_all_in_order(examples: int | None) -> None:
    found = shares(examples)
    assert found.count == 50
    assert labels(list(found)) == list(range(50))
    for share in found:
        assert torch.equal(share.x.flatten().long(), share.y)


@pytest.mark.parametrize("examples", [1, 15, 30])
def test_some_are_drawn_once_and_are_the_same_in_each_pass(examples: int) -> None:
    found = shares(examples)
    passes = [labels(list(found)) for _ in range(2)]
    assert passes[0] == passes[1]
    assert found.count == examples == len(set(passes[0]))
    assert passes[0] != list(range(examples))


@pytest.mark.parametrize("examples", [None, 3, 20, 33])
@pytest.mark.parametrize("world", [2, 3])
def test_workers_parts_are_the_whole(examples: int | None, world: int) -> None:
    whole = list(shares(examples))
    parts = [list(shares(examples, rank, world)) for rank in range(world)]
    for i, share in enumerate(whole):
        mine = [part[i] for part in parts]
        assert torch.equal(torch.cat([part.y for part in mine]), share.y)
        assert {part.size for part in mine} == {share.size}
        places = torch.arange(share.size)
        found = torch.cat([places[part.part] for part in mine])
        assert found.tolist() == list(range(len(share.y)))
    assert {len(part) for part in parts} == {len(whole)}
