"""An encoder of the timm library (Wightman 2019) with a linear head: ``timm/<name>``.

Takes float [B, C, H, W] in [0, 1], RGB or grey (repeated to three channels), resizes it and
normalises it as the encoder expects: a benchmark should not normalise as well. Weights come at
random, from timm's hub, or from a local safetensors file, which executes nothing when loaded.

The head is initialised from a seed that is drawn before the encoder is built, so that it is the
same where a trial reads features and builds no encoder.
"""

from __future__ import annotations

import difflib
import functools
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Self

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from clray.errors import BadData, BadSpec, UnknownName
from clray.events import Watch, ignore
from clray.models.classifier import Classifier, ModelConfig

PICKLES = (".pt", ".pth", ".bin", ".ckpt", ".pkl", ".tar")
WHERE = "model timm: weights"

Positive = Annotated[float, Field(gt=0)]


class Config(ModelConfig):
    """Knobs of a timm encoder."""

    weights: str = "none"
    """``none`` (random), ``pretrained`` (timm's default), a tag of timm's for this network, or
    the path of a .safetensors file in timm's names, without a classifier."""
    frozen: bool = False
    """Whether only the head learns; the encoder then stays in evaluation mode."""
    image_size: int | None = Field(None, ge=8)
    """Side in pixels that images are resized to (bilinear, on the device); none: as they come."""
    mean: tuple[float, float, float] | None = None
    """Subtracted per channel, in [0, 1] units; none: what timm says."""
    std: tuple[Positive, Positive, Positive] | None = None
    """Divided by per channel, in [0, 1] units; none: what timm says."""
    options: dict[str, bool | int | float | str | None] = {}
    """Passed to ``timm.create_model``, such as ``{pad_type: same}``."""

    @property
    def learns_encoder(self) -> bool:
        """See ``ModelConfig.learns_encoder``."""
        return not self.frozen

    def check(self, variant: str) -> None:
        """Refuse a name or a tag that timm does not know, and a file that cannot be weights.

        Raises:
            UnknownName: timm has no such network, or no such weights for it.
            BadData: the weights file is missing, no safetensors file, or damaged.
        """
        import timm

        if "." in variant or not timm.is_model(variant):
            known = timm.list_models()
            close = difflib.get_close_matches(variant, known, n=5, cutoff=0.4)
            what = f"the name of one of timm's {len(known)} networks, e.g. timm/resnet18"
            raise UnknownName("model timm", variant, close or what)
        if self._path is not None:
            _check_file(self._path)
        elif self.weights != "none":
            tags = [name.partition(".")[2] for name in timm.list_pretrained(f"{variant}.*")]
            if self.weights not in ["pretrained", *tags] or not tags:
                raise UnknownName(f"{WHERE} of {variant}", self.weights, ["none", *tags])

    def build(
        self, variant: str, image_shape: tuple[int, int, int], num_classes: int
    ) -> Classifier:
        """The encoder and its head for images (C, H, W) with 1 or 3 channels.

        Raises:
            BadSpec: ``options`` that the network refuses, or images that do not fit it.
            BadData: weights that cannot be read or fetched, or that are another network's.
        """
        seed = _draw()
        encoder = self.build_encoder(variant, image_shape)
        return Classifier(encoder.train(), _head(encoder.width, num_classes, seed))

    def build_on_features(
        self, variant: str, shape: tuple[int, int, int], num_classes: int
    ) -> Classifier:
        """See ``ModelConfig.build_on_features``."""
        return Classifier(nn.Flatten(), _head(shape[0], num_classes, _draw()))

    def build_encoder(
        self, variant: str, image_shape: tuple[int, int, int], watch: Watch = ignore
    ) -> Encoder:
        """See ``ModelConfig.build_encoder``."""
        self.check(variant)
        if image_shape[0] not in (1, 3):
            raise BadSpec("model timm: image channels", image_shape[0], "1 or 3")
        encoder = Encoder(self._network(variant), self)
        encoder.eval()
        with torch.no_grad(), self._refused(variant):
            features = encoder(torch.zeros(1, *image_shape)).shape
        if len(features) != 2:
            raise BadSpec(f"model timm/{variant}: features", tuple(features), "one row an image")
        encoder.width = features[1]
        return encoder

    def describe_encoder(self, variant: str) -> dict[str, Any] | None:
        """See ``ModelConfig.describe_encoder``; weights are a tag, or the hash of a file."""
        if not self.frozen or self.weights == "none":
            return None
        import timm

        tagged = self._path is None and self.weights != "pretrained"
        said = timm.get_pretrained_cfg(f"{variant}.{self.weights}" if tagged else variant)
        mean, std = self.mean or said.mean, self.std or said.std
        return {
            "name": f"timm/{variant}",
            "weights": said.tag if self._path is None else f"sha256:{_hash_of(self._path)}",
            "transform": {"image_size": self.image_size, "mean": list(mean), "std": list(std)},
            "options": self.options,
        }

    def _network(self, variant: str) -> nn.Module:
        import timm

        fetched = self._path is None and self.weights != "none"
        tag = self.weights if fetched and self.weights != "pretrained" else ""
        if not fetched:
            with self._refused(variant):
                network: nn.Module = timm.create_model(variant, num_classes=0, **self.options)
            if self._path is not None:
                _load(network, self._path, variant)
            return network
        name = f"{variant}.{tag}" if tag else variant
        try:
            network = timm.create_model(name, pretrained=True, num_classes=0, **self.options)
        except TypeError as error:
            raise self._bad_options(variant, error) from error
        except Exception as error:  # whatever the hub's client raises: it has many kinds
            problem = str(error).partition("\n")[0][:200]
            what = f"weights within reach; fetching them failed: {problem}"
            raise BadData(f"{WHERE} of {name}", self.weights, what) from error
        return network

    @property
    def _path(self) -> Path | None:
        path = Path(self.weights)
        named = path.suffix in (".safetensors", *PICKLES) or len(path.parts) > 1
        return path.expanduser() if named else None

    @contextmanager
    def _refused(self, variant: str) -> Iterator[None]:
        try:
            yield
        except (TypeError, ValueError, RuntimeError, AssertionError) as error:
            raise self._bad_options(variant, error) from error

    def _bad_options(self, variant: str, error: Exception) -> BadSpec:
        given = {"image_size": self.image_size, "options": self.options}
        return BadSpec(f"model timm/{variant}", given, f"what the network takes: {error}")


class Encoder(nn.Module):
    """Resizing, normalisation and a timm network without its classifier.

    Attributes:
        width: D, how many features it gives.
    """

    mean: Tensor
    std: Tensor
    width: int

    def __init__(self, network: nn.Module, config: Config) -> None:
        super().__init__()
        said: dict[str, Any] = network.pretrained_cfg  # type: ignore[assignment]
        mean, std = config.mean or said["mean"], config.std or said["std"]
        self.network = network
        self.frozen, self.image_size = config.frozen, config.image_size
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1), persistent=False)
        if self.frozen:
            network.requires_grad_(False)

    def train(self, mode: bool = True) -> Self:
        """Set the mode; a frozen network stays in evaluation mode."""
        super().train(mode)
        if self.frozen:
            self.network.eval()
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Features [B, D] of float [B, 1 or 3, H, W] in [0, 1]."""
        size = self.image_size
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            if size is not None and x.shape[-2:] != (size, size):
                shrinking = min(x.shape[-2:]) > size
                x = F.interpolate(x, (size, size), mode="bilinear", antialias=shrinking)
            features: Tensor = self.network(((x - self.mean) / self.std).expand(-1, 3, -1, -1))
            return features


def _draw() -> int:
    """A seed from torch's global generator."""
    return int(torch.randint(2**62, ()))


def _head(width: int, num_classes: int, seed: int) -> nn.Linear:
    torch.manual_seed(seed)
    return nn.Linear(width, num_classes)


def _hash_of(path: Path) -> str:
    """SHA-256 of a file's content; read once, as long as size and time stay."""
    found = path.stat()
    return _hashed(path, found.st_size, found.st_mtime_ns)


@functools.lru_cache(64)
def _hashed(path: Path, size: int, changed: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check_file(path: Path) -> None:
    from safetensors import SafetensorError, safe_open

    if path.suffix != ".safetensors":
        raise BadData(WHERE, str(path), "a .safetensors file: loading others may execute code")
    if not path.is_file():
        raise BadData(WHERE, str(path), "a file that exists")
    try:
        with safe_open(str(path), framework="pt") as opened:
            opened.keys()
    except (SafetensorError, OSError) as error:
        raise BadData(WHERE, str(path), f"an undamaged .safetensors file ({error})") from error


def _load(network: nn.Module, path: Path, variant: str) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        network.load_state_dict(load_file(path), strict=True)
    except (SafetensorError, OSError) as error:
        raise BadData(WHERE, str(path), f"an undamaged .safetensors file ({error})") from error
    except RuntimeError as error:
        problem = " ".join(str(error).split())[:300]
        raise BadData(WHERE, str(path), f"the weights of {variant} alone: {problem}") from error
