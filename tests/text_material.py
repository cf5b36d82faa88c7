"""Texts, a tokenizer and an encoder that tests make: small, and learnable."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

WORDS = [f"w{i}" for i in range(60)]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
LENGTH = 12
"""Tokens of an example."""
WIDTH = 16
"""Of the encoder's states."""


def save_tokenizer(folder: Path, words: Sequence[str] = WORDS) -> str:
    """A tokenizer that knows whole words."""
    pytest.importorskip("transformers", reason="needs the extra clray[text]")
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: i for i, word in enumerate([*SPECIAL, *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    ends = [("[CLS]", 2), ("[SEP]", 3)]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=ends
    )
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]")
    fast.save_pretrained(folder)
    return str(folder)


def save_encoder(folder: Path, seed: int = 0, **others: Any) -> str:
    """A small BERT with random weights."""
    transformers = pytest.importorskip("transformers", reason="needs the extra clray[text]")
    import torch

    knobs = {
        "vocab_size": len(SPECIAL) + len(WORDS),
        "hidden_size": WIDTH,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "max_position_embeddings": 64,
    }
    torch.manual_seed(seed)
    network = transformers.BertModel(transformers.BertConfig(**{**knobs, **others}))
    network.save_pretrained(folder)
    return str(folder)


def text_of(label: int, generator: np.random.Generator, length: int) -> str:
    """Words of which most are the label's own."""
    own = generator.integers(0, 5, length) + 5 * label
    words = np.where(generator.random(length) < 0.7, own, generator.integers(0, 60, length))
    return " ".join(f"w{word}" for word in words)


def write_texts(
    folder: Path, classes: Sequence[int], train: int = 20, test: int = 8, first: int = 1
) -> None:
    """The classic layout: CSV files without a header; label (from ``first`` on), title, text."""
    folder.mkdir(parents=True)
    generator = np.random.default_rng(sum(classes))
    for half, count in (("train", train), ("test", test)):
        with open(folder / f"{half}.csv", "w", newline="") as file:
            writer = csv.writer(file, quoting=csv.QUOTE_ALL)
            for i in range(count * len(classes)):
                label = i % len(classes)
                own = text_of(classes[label], generator, int(generator.integers(3, 14)))
                title, text = own[:6].rpartition(" ")[0], own
                writer.writerow([label + first, title, text])
