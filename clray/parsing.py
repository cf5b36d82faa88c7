"""From what a person wrote to a spec, or to one error that helps."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args, get_origin

import yaml
from pydantic import BaseModel, Tag, ValidationError
from pydantic_core import ErrorDetails, PydanticCustomError

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


def refused(field: str, given: object, accepted: str) -> PydanticCustomError:
    """What a model's own validator raises about one of its fields.

    Args:
        field: dotted, from the model on.
        given: the offending value.
        accepted: a phrase.
    """
    context = {"field": field, "given": given, "accepted": accepted}
    return PydanticCustomError("refused", "{accepted}", context)


def _explain(error: ValidationError, model: type[BaseModel], data: Any, where: str) -> BadSpec:
    # Of a union, the branch that was meant; an unknown key rather than what it leaves missing.
    errors = error.errors()
    first = max(errors, key=lambda e: (len(e["loc"]), e["type"] == "extra_forbidden"))
    kind, location, context = first["type"], first["loc"], first.get("ctx", {})
    path = _path_in(data, location, kind == "missing")
    place = _place(where, path)
    given: Any = first["input"]
    if kind == "refused":
        return BadSpec(
            _place(where, [*path, context["field"]]), context["given"], context["accepted"]
        )
    if kind == "extra_forbidden":
        fields = _models(_at(model, location[:-1]))
        names = list(fields[0].model_fields) if fields else []
        return BadSpec(_place(where, path[:-1]), path[-1], names)
    if kind == "missing":
        return BadSpec(place, None, "a value: this field is required")
    if kind == "union_tag_invalid":
        return BadSpec(place, context["tag"], _listed(context["expected_tags"]))
    if kind == "union_tag_not_found":
        tags = [mark.tag for mark in _marks(_at(model, location))]
        return BadSpec(place, given, f"a name: {', '.join(sorted(tags))}")
    if kind == "literal_error":
        names = _listed(str(context["expected"]).replace(" or ", ", "))
        nearest = nearest_name(str(given), names)
        return BadSpec(
            place, given, ", ".join(names) + (f". Did you mean {nearest!r}?" * bool(nearest))
        )
    branches = [e for e in errors if e["loc"][:-1] == location[:-1] and e["input"] is given]
    *some, last = dict.fromkeys(_phrase(e) for e in branches)
    return BadSpec(place, given, f"{', '.join(some)} or {last}" if some else last)


_TYPES = {
    "int": "an integer",
    "float": "a number",
    "bool": "true or false",
    "string": "text",
    "tuple": "a list",
    "list": "a list",
    "dict": "a mapping of keys to values",
    "model": "a mapping of keys to values",
    "byte": "a number of bytes, such as 64 MiB",
}
"""What is accepted, by the first word of pydantic's name for an error of type."""
_ENDS = ("_type", "_parsing", "_from_float", "_parsing_size", "_size", "_size_unit")
_PATTERNS = {
    r"^[A-Za-z0-9][A-Za-z0-9._-]*$": "letters, digits, dots, dashes and underscores, of which the "
    "first is a letter or digit"
}


def _phrase(error: ErrorDetails) -> str:
    """What is accepted where a value is of another type, or out of bounds."""
    kind, context = error["type"], error.get("ctx", {})
    if kind.endswith(_ENDS) and kind.partition("_")[0] in _TYPES:
        return _TYPES[kind.partition("_")[0]]
    if kind == "too_short":
        return f"at least {context['min_length']} of them"
    if kind == "too_long":
        return f"at most {context['max_length']} of them"
    if kind == "string_too_short":
        return f"at least {context['min_length']} characters"
    if kind == "string_too_long":
        return f"at most {context['max_length']} characters"
    if kind == "string_pattern_mismatch" and context["pattern"] in _PATTERNS:
        return _PATTERNS[context["pattern"]]
    return error["msg"].removeprefix("Input should be ").removeprefix("Value error, ")


def _place(where: str, path: list[str]) -> str:
    return f"{where}: {'.'.join(path)}" if path else where


def _listed(names: str) -> list[str]:
    """The names in a list such as ``'a', 'b'``."""
    return [name.strip(" '") for name in names.split(",")]


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


def _at(annotation: Any, location: tuple[int | str, ...]) -> Any:
    """The type that stands at an error's location, which also names the branches of unions."""
    for part in location:
        annotation = _step(annotation, part)
    return annotation


def _step(annotation: Any, part: int | str) -> Any:
    origin, inside = get_origin(annotation), get_args(annotation)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        field = annotation.model_fields.get(str(part))
        return annotation if field is None else field.annotation
    if origin is Annotated:
        return _step(inside[0], part)
    if origin in (dict, Mapping):
        return inside[1]
    if origin in (tuple, list):
        return inside[0]
    for one in inside:  # of a union
        name = getattr(one, "__name__", None)
        if part in (name, *(mark.tag for mark in _marks(one))):
            return one
    models = [one for one in inside if _models(one)]
    return _step(models[0], part) if models else annotation


def _models(annotation: Any) -> list[type[BaseModel]]:
    """The models that an annotation names, in their order."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for inside in get_args(annotation) for model in _models(inside)]


def _marks(annotation: Any) -> list[Tag]:
    """The names of an annotation's branches."""
    own = [mark for mark in getattr(annotation, "__metadata__", ()) if isinstance(mark, Tag)]
    return own or [mark for inside in get_args(annotation) for mark in _marks(inside)]


class _UniqueKeyLoader(yaml.SafeLoader):
    """Refuses a mapping that names a key twice, where YAML would keep the last. What is merged from
    another mapping (``<<``) gives way to what stands beside it."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        assert node is not None
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {key.value!r} stands twice", key.start_mark
                )
            seen.add(key.value)
        return node
