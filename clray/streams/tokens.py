"""Texts as token ids, and token ids as bytes: uint8 [3, L, 1], the low byte first.

So texts take the way of images through shards, guards and memories. Where a text ends before L
tokens, all three bytes are 255: an id that no vocabulary has, so that padding does not depend on
what a tokenizer pads with, or whether it does.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from clray.errors import BadData
from clray.spec import PIN
from clray.streams import pretrained

PADDING = (1 << 24) - 1
"""The id that stands where there is no token."""
WHERE = "benchmark.tokenizer"


def encode(texts: Sequence[str], tokenizer: str, max_tokens: int) -> Tensor:
    """Tokenise texts, with the tokenizer's special tokens; what is too long is cut off.

    Args:
        texts: n of them.
        tokenizer: a folder, or a name on the Hugging Face hub, maybe pinned.
        max_tokens: L.

    Returns:
        uint8 [n, 3, L, 1].

    Raises:
        BadInput: see ``load``.
    """
    if not texts:
        return torch.zeros((0, 3, max_tokens, 1), dtype=torch.uint8)
    found = load(tokenizer)(
        list(texts),
        truncation=True,
        max_length=max_tokens,
        padding=False,
        return_attention_mask=False,
        return_token_type_ids=False,
    )["input_ids"]
    lengths = np.fromiter(map(len, found), np.int64, len(found))
    ids = np.full((len(found), max_tokens), PADDING, np.int32)
    flat = np.fromiter(chain.from_iterable(found), np.int32, int(lengths.sum()))
    ids[np.arange(max_tokens) < lengths[:, None]] = flat
    return as_bytes(torch.from_numpy(ids))


def as_bytes(ids: Tensor) -> Tensor:
    """uint8 [n, 3, L, 1] for ids [n, L] from 0 to PADDING."""
    parts = [(ids >> shift & 255).to(torch.uint8) for shift in (0, 8, 16)]
    return torch.stack(parts, 1).unsqueeze(3)


def as_ids(x: Tensor) -> Tensor:
    """int64 [n, L] for float [n, 3, L, 1], the bytes / 255, as a network gets them; exact."""
    low, middle, high = (x.squeeze(3) * 255).round().long().unbind(1)
    return low | middle << 8 | high << 16


def load(name: str) -> Any:
    """A fast tokenizer of transformers; kept for as long as its files stay as they are.

    Raises:
        BadSpec: transformers are not installed.
        BadData: no such tokenizer, damaged files, or one without a fast version.
    """
    folder = pretrained.find(name, pretrained.TOKENIZER, WHERE)
    return _load(folder, content_hash(name), name.partition(PIN)[0])


def content_hash(name: str) -> str:
    """Hash of a tokenizer's files.

    Raises:
        BadInput: as ``load``.
    """
    folder = pretrained.find(name, pretrained.TOKENIZER, WHERE)
    return pretrained.content_hash(folder, pretrained.TOKENIZER)


@functools.lru_cache(4)
def _load(folder: Path, content: str, name: str) -> Any:
    transformers = pretrained.imported(WHERE, name)
    accepted = "a fast tokenizer, as save_pretrained writes it"
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # whatever a missing or damaged file makes the library raise
        problem = " ".join(str(error).split())[:200]
        raise BadData(WHERE, name, f"{accepted}; loading it failed: {problem}") from error
    if not getattr(tokenizer, "is_fast", False):
        raise BadData(WHERE, f"{name} ({type(tokenizer).__name__})", accepted)
    if len(tokenizer) > PADDING:
        raise BadData(WHERE, f"{name}, {len(tokenizer)} tokens", f"at most {PADDING}")
    return tokenizer
