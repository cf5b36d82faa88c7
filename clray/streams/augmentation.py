"""How an augmentation is written; ``augment`` makes it happen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

OWN = ("none", "flip", "crop-flip")
ACCEPTED = (
    f"{', '.join(OWN)}, or a list of these and of torchvision's v2 transforms by name with their "
    "arguments, such as [crop-flip, {ColorJitter: {brightness: 0.4}}]"
)


def _steps(value: Any) -> Any:
    if value in OWN:
        return value
    steps = value if isinstance(value, list | tuple) else [None]
    for step in steps:
        arguments = list(step.values()) if isinstance(step, Mapping) else []
        named = len(arguments) == 1 and isinstance(arguments[0], Mapping)
        if step not in OWN and not named:
            raise ValueError(ACCEPTED)
    return value


Step = str | dict[str, dict[str, Any]]
Augmentation = Annotated[
    str | tuple[Step, ...],
    BeforeValidator(_steps),  # a union's own message would name types instead of choices
    Field(
        description="What happens to training images when a method asks for augmentation: none; "
        "flip; crop-flip; or a list of these and of torchvision's v2 transforms with their "
        "arguments, such as [crop-flip, {ColorJitter: {brightness: 0.4}}]."
    ),
]
