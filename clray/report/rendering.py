"""Makes the HTML: self-contained, with every plot's specification and data in it once.

They stand there as compressed JSON; ``assets/page.js`` draws them with the bundle of Vega,
Vega-Lite and Vega-Embed that ``vl_convert`` brings.
"""

from __future__ import annotations

import base64
import functools
import gzip
import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import jinja2
import vl_convert

import clray
from clray.report.content import Content
from clray.report.figures.figure import rounded
from clray.report.figures.look import colors, config


@dataclass(frozen=True)
class Page:
    """A page, and the pictures that lie beside it.

    Attributes:
        html: the whole page.
        pictures: Vega-Lite specifications with their data, by name.
    """

    html: bytes
    pictures: dict[str, dict[str, Any]]


def rendered(content: Content, labels: Sequence[str], page: dict[str, Any]) -> Page:
    """The page.

    Args:
        content: its plots.
        labels: of all methods, in the order that gives them their colours.
        page: what the template shows.
    """
    stored = {
        "plots": content.plots,
        "data": content.data,
        "configs": {"light": config(dark=False), "dark": config(dark=True)},
    }
    text = json.dumps(stored, separators=(",", ":"), allow_nan=False)
    palette = len(colors(dark=False))
    html = _template().render(
        page=page,
        colors={label: place % palette for place, label in enumerate(labels)},
        light=colors(dark=False),
        dark=colors(dark=True),
        version=clray.__version__,
        content=base64.b64encode(gzip.compress(text.encode(), mtime=0)).decode(),
        bundle=_bundle(),
        css=_asset("page.css"),
        js=_asset("page.js"),
    )
    return Page(html.encode(), content.pictures)


@functools.cache
def _bundle() -> str:
    bundle = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
    return bundle.replace("</script", "<\\/script")


@functools.cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(autoescape=True, trim_blocks=True)
    environment.filters["rounded"] = rounded
    return environment.from_string(_asset("page.html.j2"))


def _asset(name: str) -> str:
    return (files("clray.report") / "assets" / name).read_text(encoding="utf-8")
