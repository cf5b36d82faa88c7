"""What components and boards are called in a heading."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clray.job import JobSpec
from clray.selection import AnySelection, TwoStage
from clray.spec import PIN


def stream_name(address: str) -> str:
    """The last part of a stored stream's address: of ``s3://bucket/split-cifar10?region=x``,
    ``split-cifar10``."""
    path = address.partition(PIN)[0]
    if "://" not in path:
        return Path(path).resolve().name or path
    below = path.partition("://")[2].partition("?")[0]
    return below.rstrip("/").rpartition("/")[2] or path


def benchmark_title(benchmark: Mapping[str, Any]) -> str:
    """A benchmark's name; of a stored stream, the name that its address gives it.

    Args:
        benchmark: the name with the knobs beside it.
    """
    address, name = benchmark.get("stream"), str(benchmark.get("name", ""))
    return stream_name(address) if name == "stored" and isinstance(address, str) else name


def selections_of(spec: JobSpec) -> dict[str, AnySelection]:
    """The selection protocol of each of a job's boards, by the board's name: that of its benchmark
    and of its protocol, each only where there are several."""
    arenas = list(spec.benchmarks) if len(spec.benchmarks) > 1 else [""]
    several = len(spec.protocol.selection) > 1
    return {
        "/".join(part for part in (arena, selection.title if several else "") if part): selection
        for arena in arenas
        for selection in spec.protocol.selection
    }


def looks_at_test(selection: AnySelection) -> bool:
    """Whether it chooses on test, itself or in its second stage."""
    inner = selection.then if isinstance(selection, TwoStage) else selection
    return inner.name == "oracle"
