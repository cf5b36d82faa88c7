"""A frozen transformer of Hugging Face, from token ids to the states of its tokens.

Weights are read from safetensors files alone, which execute nothing when loaded. The encoder stays
in evaluation mode: ExSSNeT's release leaves its dropout on while the network on top of it learns.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from clray.errors import BadData, BadSpec
from clray.spec import PIN
from clray.streams import pretrained
from clray.streams.tokens import PADDING, as_ids

WHERE = "model text_cnn: encoder"


def find(name: str) -> Path:
    """The folder of an encoder: a local one, or fetched from the hub.

    Args:
        name: a folder with config.json and safetensors files, or a name on the Hugging Face hub.

    Raises:
        BadSpec: transformers are not installed.
        BadData: it cannot be found, lacks a file, has pickled weights alone, or is no encoder.
    """
    folder = pretrained.find(name, pretrained.NETWORK, WHERE)
    if not (folder / "config.json").is_file():
        raise BadData(WHERE, name, "a folder with config.json, as save_pretrained writes it")
    if not list(folder.glob("*.safetensors")):
        pickles = [path.name for path in folder.iterdir() if path.suffix in (".bin", ".pt", ".h5")]
        given = f"{name} with {pickles[0]} alone" if pickles else f"{name} without weights"
        raise BadData(WHERE, given, "weights in .safetensors: loading others may execute code")
    _config(folder, content_of(folder), name.partition(PIN)[0])
    return folder


def content_of(folder: Path) -> str:
    """Hash of an encoder's files, 20 hexadecimal digits."""
    return pretrained.content_hash(folder, pretrained.NETWORK)


def kind(name: str) -> str:
    """The kind of network, such as ``bert``.

    Raises:
        BadInput: as ``find``.
    """
    folder = find(name)
    config = _config(folder, content_of(folder), name.partition(PIN)[0])
    return str(config.model_type)


def load(name: str, max_tokens: int) -> TokenStates:
    """The encoder for texts of so many tokens, in evaluation mode.

    Raises:
        BadSpec: longer texts than the encoder takes.
        BadData: as ``find``, and for weights that are damaged or another network's.
    """
    folder = find(name)
    transformers = pretrained.imported(WHERE, name)
    try:
        network, told = transformers.AutoModel.from_pretrained(
            folder,
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
            dtype=torch.float32,
        )
    except Exception as error:  # whatever a damaged file makes the library raise
        problem = " ".join(str(error).split())[:200]
        accepted = f"undamaged weights of one network; loading them failed: {problem}"
        raise BadData(WHERE, name, accepted) from error
    missing = [key for key in told["missing_keys"] if "pooler" not in key]  # its output is not used
    if missing or told["mismatched_keys"]:
        lack = f"without {missing[0]}" if missing else "with tensors of other shapes"
        raise BadData(WHERE, f"{name} {lack}", "the weights of all layers that config.json names")
    encoder = TokenStates(network).eval()
    try:
        with torch.no_grad():
            states = encoder(torch.zeros(1, 3, max_tokens, 1))
    except (IndexError, RuntimeError) as error:
        limit = getattr(network.config, "max_position_embeddings", "fewer")
        raise BadSpec(f"{WHERE}: tokens", max_tokens, f"at most {limit}, for {name}") from error
    encoder.width = states.shape[1]
    return encoder


class TokenStates(nn.Module):
    """A frozen network of transformers: float [B, 3, L, 1], token ids as bytes / 255, to the last
    hidden states [B, D, L, 1].

    Padded positions are hidden from the network's attention; their own states are given like all
    others.

    Attributes:
        width: D.
    """

    width: int

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network.requires_grad_(False)
        config: Any = network.config
        self._vocabulary, self._pad = int(config.vocab_size), config.pad_token_id or 0
        self._checked = False

    def train(self, mode: bool = True) -> Self:
        """Set the mode; the network stays in evaluation mode."""
        super().train(mode)
        self.network.eval()
        return self

    def forward(self, x: Tensor) -> Tensor:
        """States [B, D, L, 1] of float [B, 3, L, 1].

        Raises:
            BadData: token ids that the network does not know; on GPUs, in the first batch.
        """
        ids = as_ids(x)
        padded = ids == PADDING
        ids = ids.masked_fill(padded, self._pad)
        if not self._checked or not x.is_cuda:  # a GPU would have to be waited for
            self._check(ids)
        with torch.no_grad():
            states: Tensor = self.network(
                input_ids=ids, attention_mask=(~padded).long()
            ).last_hidden_state
            return states.transpose(1, 2).contiguous().unsqueeze(3)

    def _check(self, ids: Tensor) -> None:
        self._checked = True
        largest = int(ids.max()) if ids.numel() else 0
        if largest >= self._vocabulary:
            accepted = f"ids below {self._vocabulary}: texts that the encoder's own tokenizer cut"
            raise BadData("model text_cnn: token id", largest, accepted)


@functools.lru_cache(16)
def _config(folder: Path, content: str, name: str) -> Any:
    transformers = pretrained.imported(WHERE, name)
    try:
        config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # whatever a damaged file makes the library raise
        problem = " ".join(str(error).split())[:200]
        raise BadData(WHERE, name, f"a config.json of a known network; {problem}") from error
    if config.is_encoder_decoder or not hasattr(config, "vocab_size"):
        given = f"{name} ({config.model_type})"
        raise BadData(WHERE, given, "a network from token ids to states, such as bert")
    return config
