"""Where a bottleneck's keys come from: unlabelled examples of the first task, or of a stream."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from clray.errors import BadData, BadSpec
from clray.models.codebook_config import CodebookConfig
from clray.spec import PIN
from clray.streams import feature_links
from clray.streams.manifest import pinned, read_manifest
from clray.streams.stored import Stored
from clray.task import Examples

WHERE = "method.key_source"
FIRST_TASK, UNIT_CUBE = "first-task", "unit-cube"


def pin(address: str, encoder: str | None) -> str:
    """The address of what the keys are learned from, with the hash of what lies there.

    Args:
        address: of a stored stream, maybe pinned; where features are wanted, these or the images
            that they were computed from.
        encoder: key of the encoder whose features are wanted; None: images.

    Raises:
        BadInput: no stream there, or one that does not hold what is wanted.
    """
    try:
        manifest = read_manifest(address, WHERE)
    except BadData as error:
        if PIN in address:
            raise
        raise BadData(WHERE, error.given, [FIRST_TASK, UNIT_CUBE, error.accepted]) from None
    if encoder is not None and manifest.encoder is None:
        found = feature_links.find(address, manifest, encoder)
        if found is None:
            accepted = f"a stream whose features by the encoder {encoder} are stored"
            raise BadSpec(WHERE, address, accepted)
        return found
    has = None if manifest.encoder is None else str(manifest.encoder["key"])
    if has != encoder or manifest.is_coded:
        accepted = "a stream of images, as the trial's"
        if encoder is not None:
            accepted = f"features by the trial's own encoder, {encoder}, or images that have them"
        raise BadSpec(WHERE, address, accepted)
    return pinned(address, manifest)


def is_address(source: str) -> bool:
    """Whether a ``key_source`` names a stored stream."""
    return source not in (FIRST_TASK, UNIT_CUBE)


def passes(
    config: CodebookConfig,
    width: int,
    features: Callable[[Tensor], Tensor],
    generator: torch.Generator,
    device: torch.device,
    first: Examples | None = None,
) -> Callable[[int], Iterator[Tensor]]:
    """What yields the features [b, width] of each pass over what keys are learned from, in an order
    of its own; every worker goes through all of them.

    Args:
        config: says where from, and how large batches are.
        width: D, that features must have.
        features: of a batch of examples.
        generator: on the CPU, in step on all workers.
        device: where examples are read to.
        first: the training examples of the first task.

    Raises:
        BadInput: no stream there; or, in a pass, features of another width.
    """
    seed = int(torch.randint(2**62, (), generator=generator))
    if config.key_source == UNIT_CUBE:

        def points(epoch: int) -> Iterator[Tensor]:
            yield torch.rand(config.key_batch, width, generator=generator).to(device)

        return points
    examples = _opened(config.key_source, device) if is_address(config.key_source) else first
    assert examples is not None

    def batches(epoch: int) -> Iterator[Tensor]:
        for x, _ in examples.batches(config.key_batch, seed, epoch):
            found = features(x)
            if found.shape[1:] != (width,):
                given = f"{config.key_source.partition(PIN)[0]}: {list(found.shape[1:])} features"
                raise BadSpec(WHERE, given, f"examples of {width} features, as the trial's")
            yield found

    return batches


def _opened(address: str, device: torch.device) -> Examples:
    """The training examples of all tasks of a stored stream, as of one; never those of validation.

    Raises:
        BadInput: no stream there.
    """
    manifest = read_manifest(address, WHERE)
    whole = Stored(stream=address, tasks_at_once=len(manifest.tasks))
    share = manifest.validation_fraction
    return whole.build("validation", share, 0, device).tasks[0].train
