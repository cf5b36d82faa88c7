"""The one look of all figures: colours that the colour-blind can tell apart, light and dark."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

LIGHT_METHODS = (
    "#0072b2",
    "#e69f00",
    "#009e73",
    "#d55e00",
    "#8a63c9",
    "#4aa8dd",
    "#b3457e",
    "#6b7280",
    "#8c7a1c",
    "#8b2e2e",
    "#1f4e5f",
    "#c58bb5",
)
"""Okabe and Ito's colours, without black and yellow, and more that differ in lightness."""
DARK_METHODS = (
    "#4aa3e0",
    "#f0b429",
    "#2bc79a",
    "#ff8552",
    "#b597f0",
    "#8fd3f7",
    "#ec7fb5",
    "#a5acb8",
    "#cdbb4e",
    "#e07a7a",
    "#6fb3c8",
    "#e3b7d6",
)
"""The same hues, light enough for a dark ground."""
RAMP = (
    "#440154",
    "#46327e",
    "#365c8d",
    "#277f8e",
    "#1fa187",
    "#4ac16d",
    "#a0da39",
    "#fde725",
)
"""Viridis, from low to high."""
DIVERGING = ("#b35806", "#f1a340", "#fee0b6", "#f7f7f7", "#d8daeb", "#998ec3", "#542788")
"""Worse, the same, better."""
SHAPES = {"completed": "circle", "stopped": "triangle-down", "diverged": "cross", "failed": "cross"}
"""How a trial that ended so is marked."""

_FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"


def config(dark: bool) -> dict[str, Any]:
    """Vega-Lite's configuration for the light or the dark ground."""
    text, dim, grid = (
        ("#e6e8ec", "#a2a9b5", "#2c323c") if dark else ("#1c2330", "#5b6472", "#e6e9ee")
    )
    ground = "#171b21" if dark else "#ffffff"
    return {
        "background": ground,
        "font": _FONT,
        "view": {"stroke": None},
        "range": {"category": list(DARK_METHODS if dark else LIGHT_METHODS)},
        "axis": {
            "labelColor": dim,
            "titleColor": dim,
            "gridColor": grid,
            "domainColor": grid,
            "tickColor": grid,
            "labelFontSize": 11,
            "titleFontSize": 11,
            "titleFontWeight": "normal",
            "titlePadding": 8,
            "labelPadding": 4,
            "labelLimit": 150,
            "tickSize": 4,
        },
        "axisX": {"grid": False, "labelFlush": False, "labelOverlap": "greedy"},
        "legend": {
            "labelColor": text,
            "titleColor": dim,
            "labelFontSize": 11,
            "titleFontSize": 11,
            "titleFontWeight": "normal",
            "labelLimit": 220,
            "symbolOpacity": 1,
            "symbolStrokeWidth": 2,
        },
        "title": {"color": text, "subtitleColor": dim, "anchor": "start", "fontSize": 12},
        "text": {"color": text, "fontSize": 11},
        "rule": {"color": dim},
        "tick": {"color": dim},
        "line": {"strokeWidth": 2, "strokeCap": "round", "strokeJoin": "round"},
        "point": {"filled": True, "size": 60},
        "style": {"ringed": {"stroke": ground}},
        "concat": {"spacing": 28},
    }


def colors(dark: bool) -> Sequence[str]:
    """The methods' colours, in the order in which methods take them."""
    return DARK_METHODS if dark else LIGHT_METHODS
