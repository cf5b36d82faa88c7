"""How numbers are written, the same in every table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

NONE = "-"
"""Stands where there is no number."""

HARD = "\u00a0"
"""A space at which no line ends."""

COUNTED = ("parameters", "steps", "examples_seen", "examples_processed")
"""Measures that are numbers of something."""


def fraction(value: float | None, decimals: int = 3) -> str:
    """An accuracy or another metric in [0, 1]: ``0.912``."""
    if value is None:
        return NONE
    text = f"{value:.{decimals}f}"
    return text.removeprefix("-") if float(text) == 0 else text


def estimate(mean: float | None, interval: float | None) -> str:
    """A mean and half the width of its interval: ``0.912 ± 0.004``."""
    if mean is None or interval is None:
        return fraction(mean)
    return f"{fraction(mean)} ± {fraction(interval)}"


def measure(metric: str, value: float | None) -> str:
    """A measure of a trial, in its own unit: ``0.912``, ``9.61 k`` parameters, ``358 kB``."""
    if metric == "bytes":
        return size(value)
    return count(value) if metric in COUNTED else fraction(value)


def measured(metric: str, mean: float | None, interval: float | None) -> str:
    """A measure's mean and half the width of its interval, in its own unit."""
    if metric not in COUNTED and metric != "bytes":
        return estimate(mean, interval)
    half = f" ± {measure(metric, interval)}" if interval else ""
    return measure(metric, mean) + half


def count(number: float | None) -> str:
    """Parameters or examples, to three digits: ``512``, ``89.6 k``, ``1.23 M``."""
    if number is None:
        return NONE
    if number < 1000:
        return f"{number:.0f}"
    return _scaled(number, ("k", "M", "G", "T"))


def size(num_bytes: float | None) -> str:
    """Bytes, to three digits: ``358 kB``."""
    if num_bytes is None:
        return NONE
    if num_bytes < 1000:
        return f"{num_bytes:.0f} B"
    return _scaled(num_bytes, ("kB", "MB", "GB", "TB"))


def memory(num_bytes: int) -> str:
    """Bytes as a person would write a limit: ``64 MiB``, ``1.5 GiB``."""
    value, units = float(num_bytes), ["B", "KiB", "MiB", "GiB", "TiB"]
    while value >= 1024 and len(units) > 1:
        value /= 1024
        units.pop(0)
    return f"{value:.4g} {units[0]}"


def duration(seconds: float | None) -> str:
    """A span of time: ``0.42 s``, ``12.3 s``, ``3 min 20 s``, ``1 h 05 min``."""
    if seconds is None:
        return NONE
    if seconds < 9.995:
        return f"{seconds:.2f} s"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min"


def clock(seconds: float) -> str:
    """A running clock: ``0:01:23``."""
    whole = int(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"


def knob(value: Any) -> str:
    """A hyperparameter's value, to four digits, as YAML would have it."""
    if value is None or isinstance(value, bool):
        return {None: "none", True: "true", False: "false"}[value]
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def knobs(values: Mapping[str, Any], separator: str = ", ") -> str:
    """Hyperparameters by dotted path, shortened to ``strength 100, lr 0.05`` where the last part
    of each path tells them apart. A name and its value never part at a line's end."""
    pairs = zip(_short(list(values)), values.values(), strict=True)
    return separator.join(f"{name}{HARD}{knob(value)}" for name, value in pairs)


def trajectory(points: Sequence[Mapping[str, Any]], most: int = 4, separator: str = ", ") -> str:
    """Hyperparameters that were chosen anew for each task: ``lr 0.1 → 0.03 → … → 0.003``.

    Args:
        points: the values for each task, by dotted path.
        most: so many values are shown of a knob, the last one among them; 2 or more.
        separator: between knobs.
    """
    paths = list(dict.fromkeys(path for point in points for path in point))
    pieces = []
    for path, name in zip(paths, _short(paths), strict=True):
        texts = [knob(point[path]) if path in point else NONE for point in points]
        if len(set(texts)) == 1:
            texts = texts[:1]
        elif len(texts) > most:
            texts = [*texts[: most - 1], "…", texts[-1]]
        pieces.append(name + HARD + f" →{HARD}".join(texts))
    return separator.join(pieces)


def span(values: Sequence[float], write: Callable[[float], str] = count) -> str:
    """The smallest and the largest of some numbers, or the only one: ``12 to 16``."""
    texts = list(dict.fromkeys(write(value) for value in (min(values), max(values))))
    return " to ".join(texts)


def words(name: str) -> str:
    """A metric's name for a person: ``average accuracy``."""
    return name.replace("_", " ")


def evenly(total: int, most: int) -> list[int]:
    """All of 0 .. total - 1, or ``most`` (2 or more) of them, evenly spread from first to last."""
    if total <= most:
        return list(range(total))
    return [round(i * (total - 1) / (most - 1)) for i in range(most)]


def _short(paths: list[str]) -> list[str]:
    lasts = [path.rpartition(".")[2] for path in paths]
    return lasts if len(set(lasts)) == len(lasts) else paths


def _scaled(number: float, units: tuple[str, ...]) -> str:
    rounded = float(f"{number:.3g}")
    power = 0
    while rounded >= 1000 and power < len(units):
        rounded /= 1000
        power += 1
    return f"{rounded:#.3g}".rstrip(".") + f" {units[power - 1]}"
