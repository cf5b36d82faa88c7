"""What components are called in a heading."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

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
