"""A log is followed through lost connections: each line once, in order, to the end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import pytest

from clray.cluster import following
from clray.cluster.following import Follower
from clray.cluster.jobs import Cluster, Submitted
from clray.errors import RunFailed, Unreachable


class _Tail:
    """Gives a text chunk by chunk."""

    def __init__(self, chunks: list[str]) -> None:
        self.chunks = list(chunks)

    @property
    def is_over(self) -> bool:
        return not self.chunks

    def read(self, seconds: float) -> str:
        return self.chunks.pop(0) if self.chunks else ""

    def close(self) -> None:
        pass


class _Cluster:
    """A cluster whose connections break as told."""

    def __init__(self, connections: list[list[str]], states: list[str]) -> None:
        self.connections, self.states = connections, states

    def tail(self, number: str) -> _Tail:
        return _Tail(self.connections.pop(0))

    def get(self, number: str) -> Submitted:
        state = self.states.pop(0)
        if state == "lost":
            raise Unreachable("--address", "x", "y")
        return Submitted("a", number, state, "r", "d", None, None, "", 0)


def _follow(cluster: _Cluster, **others: Any) -> tuple[list[str], list[str], Follower]:
    said: list[str] = []

    @contextmanager
    def reach() -> Iterator[Cluster]:
        yield cast(Cluster, cluster)

    follower = Follower(reach, "1", said.append, **others)
    return [line for line in follower.lines() if line is not None], said, follower


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "ASK_SECONDS", 0.0)


def test_lines_in_pieces() -> None:
    cluster = _Cluster([["a\nb", "c\n", "d"]], ["running", "running", "succeeded"])
    lines, said, follower = _follow(cluster)
    assert (lines, said) == (["a", "bc", "d"], [])
    assert follower.job is not None
    assert follower.job.state == "succeeded"


def test_a_log_that_is_opened_anew_gives_each_line_once() -> None:
    whole = ["a\nb\nc\n", "d\n"]
    cluster = _Cluster([["a\nb\nc"], whole], ["running", "running", "succeeded"])
    lines, _, _ = _follow(cluster)
    assert lines == ["a", "b", "c", "d"]


def test_a_lost_connection_is_found_again() -> None:
    cluster = _Cluster([["a\n", "b\n"], ["a\nb\nc\n"]], ["lost", "succeeded"])
    lines, said, _ = _follow(cluster)
    assert lines == ["a", "b", "c"]
    assert [text.partition(";")[0] for text in said] == ["connection lost", "connected again"]


def test_patience_ends() -> None:
    cluster = _Cluster([["a\n"]], ["lost"])
    with pytest.raises(RunFailed, match="the job goes on without us"):
        _follow(cluster, patience=-1)
