"""From what a person wrote to a spec, or to one error that helps."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

from clray.errors import BadSpec, nearest_name

Model = TypeVar("Model", bound=BaseModel)


def parse(model: type[Model], data: Any, where: str) -> Model:
    """``data`` as a ``model``; ``where`` begins the message of the BadSpec that is raised else."""
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise _explain(error, model, data, where) from None


def read_yaml(path: Path) -> Any:
    """The content of a YAML file.

    Raises:
        BadSpec: the file is missing, unreadable or not YAML, or names a key twice.
    """
    try:
        return yaml.load(path.read_text(encoding="utf-8"), Loader=_UniqueKeyLoader)
    except (OSError, UnicodeDecodeError) as error:
        raise BadSpec(str(path), type(error).__name__, "a readable YAML file") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        problem = getattr(error, "problem", None) or "no YAML"
        raise BadSpec(where, problem, "valid YAML") from None


def parse_overrides(arguments: list[str], sections: Mapping[str, Any]) -> dict[str, Any]:
    """``["method.strength=100", "seed=3"]`` as a nested mapping over ``sections``' keys.

    Raises:
        BadSpec: an argument is not KEY=VALUE, its first part is none of ``sections``, or it is
            given twice.
    """
    nested: dict[str, Any] = {}
    seen: set[str] = set()
    for argument in arguments:
        key, equals, text = argument.partition("=")
        parts = key.split(".")
        if not equals or not all(parts):
            raise BadSpec("override", argument, "KEY=VALUE, such as protocol.epochs=3")
        if key in seen:
            raise BadSpec("override", argument, f"{key} only once")
        seen.add(key)
        if parts[0] not in sections:
            raise BadSpec("override", parts[0], sections)
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError:
            value = text
        place = nested
        for part in parts[:-1]:
            place = place.setdefault(part, {})
            if not isinstance(place, dict):
                raise BadSpec("override", argument, f"{part} either as a whole or by its parts")
        if parts[-1] in place:
            raise BadSpec("override", argument, f"{key} either as a whole or by its parts")
        place[parts[-1]] = value
    return nested


def merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """``below`` with ``above``'s values put over it, section by section."""
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        if isinstance(old, str) and isinstance(value, Mapping) and "name" not in value:
            old = {"name": old}
        both = isinstance(old, Mapping) and isinstance(value, Mapping)
        merged[key] = merge(old, value) if both else value  # type: ignore[arg-type]
    return merged


def _explain(error: ValidationError, model: type[BaseModel], data: Any, where: str) -> BadSpec:
    first = max(error.errors(), key=lambda e: len(e["loc"]))  # the branch of a union that was meant
    path = _path_in(data, first["loc"], first["type"] == "missing")
    place = f"{where}: {'.'.join(path)}" if path else where
    if first["type"] == "extra_forbidden":
        parent = ".".join(path[:-1])
        place = f"{where}: {parent}" if parent else where
        return BadSpec(place, path[-1], _fields_at(model, path[:-1]))
    if first["type"] == "missing":
        return BadSpec(place, None, "a value: this field is required")
    given = first["input"]
    context = first.get("ctx", {})
    if first["type"] == "literal_error":
        names = [n.strip(" '") for n in str(context["expected"]).replace(" or ", ", ").split(",")]
        nearest = nearest_name(str(given), names)
        return BadSpec(
            place, given, ", ".join(names) + (f". Did you mean {nearest!r}?" * bool(nearest))
        )
    if first["type"].startswith("byte_size"):
        return BadSpec(place, given, "a number of bytes, such as 64 MiB")
    text = first["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
    return BadSpec(place, given, text)


def _path_in(data: Any, location: tuple[int | str, ...], missing: bool) -> list[str]:
    """The part of an error's location that stands in ``data``; the rest names types."""
    path = []
    for place, part in enumerate(location):
        in_mapping = isinstance(data, Mapping) and part in data
        in_list = isinstance(data, list | tuple) and isinstance(part, int) and part < len(data)
        if in_mapping or in_list:
            data = data[part]
        elif not (missing and place == len(location) - 1):
            continue
        path.append(str(part))
    return path


def _fields_at(model: type[BaseModel], path: list[str]) -> list[str]:
    """The keys that ``model`` accepts at ``path``."""
    current: Any = model
    for part in path:
        if not (isinstance(current, type) and issubclass(current, BaseModel)):
            return []
        field = current.model_fields.get(part)
        if field is None:  # a union's branch, or a key of a mapping
            continue
        current = _model_in(field.annotation)
    return list(current.model_fields) if current is not None else []


def _model_in(annotation: Any) -> Any:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    found = [_model_in(argument) for argument in get_args(annotation)]
    return next((f for f in found if f is not None), None)


class _UniqueKeyLoader(yaml.SafeLoader):
    """Refuses a mapping that names a key twice, where YAML would keep the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = str(self.construct_object(key_node, deep=True))
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {key!r} stands twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)
