"""Weights from a local safetensors file, which executes nothing when loaded."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Collection
from pathlib import Path

from torch import nn

from clray.errors import BadData

PICKLES = (".pt", ".pth", ".bin", ".ckpt", ".pkl", ".tar")


def path_of(weights: str) -> Path | None:
    """The path that a knob gives, or None where it is a plain word."""
    path = Path(weights)
    named = path.suffix in (".safetensors", *PICKLES) or len(path.parts) > 1
    return path.expanduser() if named else None


def check(path: Path, where: str) -> None:
    """Refuse, without reading it all, a file that cannot be weights.

    Args:
        where: names the knob in an error.

    Raises:
        BadData: it is missing, no safetensors file, or damaged.
    """
    from safetensors import SafetensorError, safe_open

    if path.suffix != ".safetensors":
        raise BadData(where, str(path), "a .safetensors file: loading others may execute code")
    if not path.is_file():
        raise BadData(where, str(path), "a file that exists")
    try:
        with safe_open(str(path), framework="pt") as opened:
            opened.keys()
    except (SafetensorError, OSError) as error:
        raise BadData(where, str(path), f"an undamaged .safetensors file ({error})") from error


def load(
    network: nn.Module, path: Path, name: str, where: str, unused: Collection[str] = ()
) -> None:
    """Give a network all of its weights.

    Args:
        name: of the network, for an error.
        where: names the knob in an error.
        unused: names in the file that are passed over.

    Raises:
        BadData: the file is damaged, or its weights are another network's.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        found = load_file(path)
        network.load_state_dict({k: v for k, v in found.items() if k not in unused}, strict=True)
    except (SafetensorError, OSError) as error:
        raise BadData(where, str(path), f"an undamaged .safetensors file ({error})") from error
    except RuntimeError as error:
        problem = " ".join(str(error).split())[:300]
        raise BadData(where, str(path), f"the weights of {name} alone: {problem}") from error


def linear(path: Path, name: str, where: str) -> nn.Linear:
    """A linear layer of a file that ``load`` has read the rest of.

    Args:
        name: of the layer.
        where: names the knob in an error.

    Raises:
        BadData: the file has none of that name.
    """
    from safetensors import safe_open

    with safe_open(str(path), framework="pt") as opened:
        has = set(opened.keys())
        found = {part: f"{name}.{part}" for part in ("weight", "bias")}
        state = {part: opened.get_tensor(key) for part, key in found.items() if key in has}
    if "weight" not in state or state["weight"].dim() != 2:
        raise BadData(where, str(path), f"a file with the linear classifier {name}")
    rows, width = state["weight"].shape
    layer = nn.Linear(width, rows, bias="bias" in state)
    layer.load_state_dict(state)
    return layer


def hash_of(path: Path) -> str:
    """SHA-256 of a file's content; read once, as long as size and time stay."""
    found = path.stat()
    return _hashed(path, found.st_size, found.st_mtime_ns)


@functools.lru_cache(64)
def _hashed(path: Path, size: int, changed: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
