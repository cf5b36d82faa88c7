"""What Hugging Face transformers load: folders with a network or a tokenizer, local or fetched.

A name on the hub is fetched into the hub's own cache and is a local folder from then on, so that
both are read and hashed alike. Nothing that is loaded may execute code.
"""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from clray.errors import BadData, BadSpec
from clray.spec import PIN
from clray.streams.manifest import DIGITS

TOKENIZER = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.json", "vocab.txt", "merges.txt", "*.model", "config.json"),
)
"""Files that a tokenizer may consist of."""
NETWORK = ("config.json", "*.safetensors", "*.safetensors.index.json")
"""Files that a network consists of."""


def imported(where: str, given: object) -> Any:
    """The library, imported when it is first needed: that takes seconds.

    Args:
        where: names the knob in an error.
        given: what the knob says.

    Raises:
        BadSpec: it is not installed.
    """
    try:
        import transformers
    except ImportError:
        accepted = "none, as transformers are not installed: pip install 'clray[text]' adds them"
        raise BadSpec(where, given, accepted) from None
    transformers.utils.logging.disable_progress_bar()
    return transformers


def find(name: str, files: Sequence[str], where: str) -> Path:
    """The local folder of a network or a tokenizer, fetched from the hub if need be.

    Args:
        name: a folder, or a name on the hub, maybe pinned by ``#sha256=<hash>``; ``$VARIABLES`` and
            ``~`` are expanded.
        files: patterns of what is fetched and hashed.
        where: names the knob in an error.

    Raises:
        BadSpec: transformers are not installed.
        BadData: no such folder, nothing of that name within reach, or another content than pinned.
    """
    plain, _, wanted = name.partition(PIN)
    path = Path(os.path.expanduser(os.path.expandvars(plain)))
    if not path.is_dir():
        if plain.startswith(("/", ".", "~", "$")) or plain.count("/") > 1:
            raise BadData(where, plain, "a folder that exists, or a name on the Hugging Face hub")
        imported(where, plain)
        path = _fetch(plain, tuple(files), where)
    if wanted and content_hash(path, files) != wanted:
        given = f"{plain}, which now holds {content_hash(path, files)}"
        raise BadData(where, given, f"the content of hash {wanted}, as it is pinned")
    return path


def content_hash(folder: Path, files: Sequence[str]) -> str:
    """Hash of the names and the content of those files of a folder, 20 hexadecimal digits; read
    once, as long as sizes and times stay."""
    found = sorted({path for pattern in files for path in folder.glob(pattern)})
    stats = ((path, path.stat()) for path in found)
    return _hashed(tuple((path, stat.st_size, stat.st_mtime_ns) for path, stat in stats))


@functools.lru_cache(64)
def _hashed(found: tuple[tuple[Path, int, int], ...]) -> str:
    state = hashlib.sha256()
    for path, _, _ in found:
        with path.open("rb") as file:
            own = hashlib.file_digest(file, "sha256").hexdigest()
        state.update(f"{path.name}\0{own}\n".encode())
    return state.hexdigest()[:DIGITS]


@functools.lru_cache(16)
def _fetch(name: str, files: tuple[str, ...], where: str) -> Path:
    import huggingface_hub

    try:
        found = huggingface_hub.snapshot_download(
            name, allow_patterns=list(files), ignore_patterns=["*/*"]
        )
    except Exception as error:  # whatever the hub's client raises: it has many kinds
        problem = " ".join(str(error).split())[:200]
        accepted = f"a folder, or a name on the Hugging Face hub; fetching it failed: {problem}"
        raise BadData(where, name, accepted) from error
    return Path(found)
