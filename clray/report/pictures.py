"""Figures as PNG."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import vl_convert

SCALE = 1.5
"""Pixels of the picture for each of the specification's."""


def pictures(specs: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, bytes]]:
    """The name and the content of each picture.

    Args:
        specs: Vega-Lite specifications with their data, by name.
    """
    for name, spec in specs.items():
        yield name, vl_convert.vegalite_to_png(dict(spec), scale=SCALE)
