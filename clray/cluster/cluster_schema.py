"""A cluster file against the schema of Ray's launcher, with all mistakes at once."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from clray.cluster.cluster_written import Complaint

_TYPES = {
    "array": "a list",
    "boolean": "true or false",
    "integer": "an integer",
    "number": "a number",
    "object": "a mapping of keys to values",
    "string": "text",
    "null": "nothing",
}


def schema_complaints(data: dict[str, Any]) -> Iterator[Complaint]:
    """Unknown keys, values of the wrong type and missing keys."""
    import jsonschema
    import ray.autoscaler

    schema = json.loads(Path(ray.autoscaler.__file__).with_name("ray-schema.json").read_text())
    schema["properties"]["min_workers"] = {"type": "integer", "minimum": 0}  # provider local alone
    node_type = schema["properties"]["available_node_types"]["patternProperties"][".*"]
    for limit in ("min_workers", "max_workers"):
        node_type["properties"][limit]["minimum"] = 0
    for error in jsonschema.Draft7Validator(schema).iter_errors(data):
        at = tuple(error.absolute_path)
        if error.validator == "additionalProperties":
            names = error.schema["properties"]
            for key in error.instance:
                if key not in names:
                    yield Complaint(at, key, tuple(names), key)
        elif error.validator == "required":
            for key in error.validator_value:
                if key not in error.instance:
                    yield Complaint((*at, key), None, "a value: this key is required")
        elif error.validator == "type":
            types = error.validator_value
            types = [types] if isinstance(types, str) else types
            yield Complaint(at, error.instance, " or ".join(_TYPES[each] for each in types))
        elif error.validator == "minimum":
            yield Complaint(at, error.instance, f"{error.validator_value} or more")
        elif error.validator == "enum":
            yield Complaint(at, error.instance, tuple(map(str, error.validator_value)))
        else:
            yield Complaint(at, error.instance, error.message)


def prepare(data: dict[str, Any]) -> tuple[dict[str, Any], list[Complaint]]:
    """The file with Ray's defaults filled in, and what Ray itself does not like about it.

    Raises nothing: where Ray cannot prepare the file at all, it comes back as it is, with a
    complaint.
    """
    from ray.autoscaler._private.util import prepare_config, validate_config

    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said), _quiet():
            prepared = prepare_config(copy.deepcopy(data))
            validate_config(prepared)
    except (Exception, SystemExit) as error:  # Ray's own checks raise whatever they meet
        text = getattr(error, "message", None) or str(error) or said.getvalue().strip()
        text = f"{type(error).__name__} {text}" if isinstance(error, KeyError) else text
        return data, [Complaint((), text, "what Ray's cluster launcher accepts")]
    return prepared, []


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the lines that Ray logs about each default that it fills in."""
    logger = logging.getLogger("ray.autoscaler._private.util")
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before
