"""The knobs of a Config, described from the Config itself."""

from __future__ import annotations

import types
from collections.abc import Collection
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import annotated_types
from pydantic import BaseModel, ByteSize
from pydantic.fields import FieldInfo
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from clray.report.numbers import knob, memory
from clray.spec import Component, Tag

_PLAIN = {
    bool: "true | false",
    int: "integer",
    float: "number",
    str: "text",
    ByteSize: "bytes such as 64 MiB",
    Component: "name with its knobs",
}


@dataclass(frozen=True)
class Knob:
    """One knob, for a person.

    Attributes:
        name: as a spec writes it.
        accepts: its type, choices and bounds.
        default: what it is if nobody says; None may be the default itself.
        required: whether there is no default.
        description: what it does.
        tag: plasticity or stability, of a knob that may change between tasks; else None.
    """

    name: str
    accepts: str
    default: Any
    required: bool
    description: str
    tag: str | None = None

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def knobs_of(config: type[BaseModel], without: Collection[str] = ()) -> list[Knob]:
    """Every knob of a Config, in the order of its file, but for those left out."""
    fields = config.model_fields.items()
    return [_knob(name, field) for name, field in fields if name not in without]


def knob_table(config: type[BaseModel], without: Collection[str] = ()) -> RenderableType:
    """Name, default, accepted values and tag of each knob, with its description below."""
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column()
    found = knobs_of(config, without)
    for one in found:
        default = "required" if one.required else f"default {_shown(one.default)}"
        accepts = Text.assemble(one.accepts, (f", {default}", "dim"))
        accepts.append(f", {one.tag}" if one.tag else "", style="cyan")
        table.add_row(one.name, accepts)
        if one.description:
            table.add_row("", Text(one.description, style="dim"))
    return table if found else Text("no knobs", style="dim")


def _knob(name: str, field: FieldInfo) -> Knob:
    required = field.is_required()
    default = None if required else field.get_default(call_default_factory=False)
    if isinstance(default, BaseModel):
        default = default.model_dump(mode="json")
    if isinstance(default, tuple):
        default = [
            one.model_dump(mode="json") if isinstance(one, BaseModel) else one for one in default
        ]
    description = " ".join((field.description or "").replace("``", "").split())
    accepts = _with_bounds(_type(field.annotation), _bounds(field.metadata))
    tag = next((mark.kind for mark in field.metadata if isinstance(mark, Tag)), None)
    return Knob(name, accepts, default, required, description, tag)


def _shown(default: Any) -> str:
    if isinstance(default, list):
        return "[" + ", ".join(_shown(value) for value in default) + "]"
    if default == "":
        return "empty"
    if isinstance(default, ByteSize):
        return memory(default)
    if isinstance(default, dict):
        given = {name: value for name, value in default.items() if value is not None}
        name = given.pop("name", None) or given.pop("metric", None)
        shown = ", ".join(f"{key} {_shown(value)}" for key, value in given.items())
        return ", ".join(filter(None, [name, shown])) or "none"
    return knob(default)


def _type(annotation: Any) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _with_bounds(_type(arguments[0]), _bounds(arguments[1:]))
    if origin is Literal:
        return " | ".join(knob(value) for value in arguments)
    if origin in (Union, types.UnionType):
        some = [argument for argument in arguments if argument is not type(None)]
        kinds = list(dict.fromkeys(_type(argument) for argument in some))
        return " or ".join([*kinds, "none"] if len(some) < len(arguments) else kinds)
    if origin is tuple and arguments and arguments[-1] is not Ellipsis:
        return "[" + ", ".join(_type(argument) for argument in arguments) + "]"
    if origin in (list, tuple, set, frozenset) and arguments:
        return f"list of {_plural(_type(arguments[0]))}"
    if origin is dict:
        return "mapping"
    if annotation in _PLAIN:
        return _PLAIN[annotation]
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        own = annotation.model_fields.get("name")
        named = own is not None and get_origin(own.annotation) is Literal
        alone = named and own is not None and len(get_args(own.annotation)) == 1
        return get_args(own.annotation)[0] if alone and own else annotation.__name__.lower()
    return getattr(annotation, "__name__", str(annotation))


def _plural(kind: str) -> str:
    plain = kind in ("integer", "number", "text")
    return f"{kind}s" if plain and kind != "text" else f"({kind})" if " " in kind else kind


def _with_bounds(kind: str, bounds: str) -> str:
    if not bounds:
        return kind
    kind, none, _ = kind.partition(" or none")
    return f"{kind} {bounds}{none}"


def _bounds(metadata: Any) -> str:
    low = high = ""
    low_closed = high_closed = False
    others = []
    nested = [m.metadata if isinstance(m, FieldInfo) else [m] for m in metadata]
    for constraint in (each for several in nested for each in several):
        match constraint:
            case annotated_types.Ge(ge):
                low, low_closed = f"{ge:g}", True
            case annotated_types.Gt(gt):
                low, low_closed = f"{gt:g}", False
            case annotated_types.Le(le):
                high, high_closed = f"{le:g}", True
            case annotated_types.Lt(lt):
                high, high_closed = f"{lt:g}", False
            case annotated_types.MultipleOf(step):
                others.append(f"in multiples of {step}")
            case annotated_types.MinLen(least):
                others.append("(not empty)" if least == 1 else f"({least} or more)")
            case _:
                if pattern := getattr(constraint, "pattern", None):
                    others.append(f"matching {pattern}")
    if low and high:
        left, right = "[" if low_closed else "(", "]" if high_closed else ")"
        others.insert(0, f"in {left}{low}, {high}{right}")
    elif low:
        others.insert(0, f">{'=' * low_closed} {low}")
    elif high:
        others.insert(0, f"<{'=' * high_closed} {high}")
    return ", ".join(others)
