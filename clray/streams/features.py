"""Features of a frozen encoder, computed once: a stored stream becomes another one.

Images become vectors of features, and token ids become the states of their tokens.

Ray Data hands the stream's shards to a pool of actors that hold the encoder, on GPUs where the
cluster has any. Every shard becomes one of features, or several, with the same rows, labels and
order. A pass that was killed goes on, and a folder that has a manifest holds all of them.
"""

from __future__ import annotations

import json
import logging
import pickle
import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from clray import ray_session
from clray.errors import BadInput, BadSpec
from clray.events import Progressed, SlotsReady, SlotsStarting, Warned, Watch, ignore
from clray.learner import Coder
from clray.spec import PIN
from clray.store import Folder
from clray.streams import feature_links
from clray.streams.encoding import Dtype, ShardEncoder, shape_of
from clray.streams.feature_folder import FeatureFolder
from clray.streams.manifest import Manifest, Shard, read_manifest

# isort: split
import ray  # after ray_session has set what it reads
import ray.data

logging.getLogger("ray.data").setLevel(logging.ERROR)  # it would tell of each execution


def compute(
    stream: str,
    name: str,
    encoder: Coder,
    to: str,
    dtype: Dtype = "float32",
    watch: Watch = ignore,
) -> tuple[Manifest, bool]:
    """Write the features of a stream, or what is left of them, and let trials find them.

    Args:
        stream: address of a stored stream of images or texts, maybe pinned; of features where
            codes are made.
        name: of the model whose encoder is run, with its variant, such as ``timm/resnet18``, or of
            the method whose codes are made.
        encoder: the model's knobs, or the method's coder.
        to: an address without anything, or with a part of these features.
        dtype: of the numbers that are written; int16 makes codes.
        watch: is told of progress, and if trials cannot find the features by themselves.

    Returns:
        The manifest of the features, and whether they were there already.

    Raises:
        BadInput: no such stream, an encoder that is not frozen or does not fit its images, another
            content at ``to``, a damaged shard, or a place that cannot be written to.
    """
    images = read_manifest(stream, "stream")
    uri = Folder(stream.partition(PIN)[0], "stream").uri
    has_features = images.encoder is not None and not images.is_coded
    if dtype == "int16" and not has_features:
        what = "codes" if images.is_coded else "no features"
        accepted = "a stream of features, as clray data features --encoder makes one"
        raise BadSpec("stream", f"{uri} ({what})", accepted)
    if dtype != "int16" and images.dtype != "uint8":
        raise BadSpec("stream", f"{uri} ({images.dtype} features)", "a stream of images or texts")
    described = {**describe(name, encoder), "stream": images.hash, "dtype": dtype}
    place = FeatureFolder(Folder(to, "to"), uri, images, described)
    whole = place.whole()
    features = whole or _run(
        place, encoder.build_encoder(_variant(name), images.shape, watch), watch
    )
    place.sweep_up()
    try:
        feature_links.add(uri, images, place.folder.uri, features)
    except OSError:
        text = f"{uri} cannot be written to, so trials do not find these features by themselves; "
        watch(Warned(f"{text}name them with benchmark.features={place.folder.uri}"))
    return features, whole is not None


def describe(name: str, encoder: Coder) -> dict[str, Any]:
    """All that features depend on beside the images, and the key that trials find them by.

    Raises:
        BadInput: unknown, or no frozen encoder with weights of its own.
    """
    encoder.check(_variant(name))
    described = encoder.describe_encoder(_variant(name))
    if described is None:
        accepted = "a frozen encoder with weights, such as timm/resnet18 with weights: pretrained; "
        accepted += "or one with lower, weights and image_size"
        raise BadSpec("encoder", {"name": name, **vars(encoder)}, accepted)
    return {"key": encoder.encoder_key(_variant(name)), **described}


def _variant(name: str) -> str:
    return name.partition("/")[2]


def _run(place: FeatureFolder, network: nn.Module, watch: Watch) -> Manifest:
    """Encode the shards that are not there yet.

    Raises:
        BadInput: the first thing that an actor could not do.
    """
    with torch.inference_mode():
        shape = shape_of(network(torch.zeros(1, *place.images.shape)))
    shards = {shard.path: shard for task in place.images.tasks for shard in task.shards()}
    written = place.begin()
    left = [shards[path] for path in shards if path not in written]
    if left:
        watch(SlotsStarting(0))
        start = time.monotonic()
        with ray_session.running():
            watch(SlotsReady(time.monotonic() - start))
            rows = sum(shards[path].rows for path in written)
            what = "codes" if place.described["dtype"] == "int16" else "features"
            total = place.images.num_rows()
            watch(Progressed(what, rows, total))
            for row in _dataset(place, network, left, _pool(len(shards))).iter_rows():
                if row["error"]:
                    raise pickle.loads(row["error"])
                parts = json.loads(row["written"])
                written[row["path"]] = [Shard.model_validate(part) for part in parts]
                rows += shards[row["path"]].rows
                watch(Progressed(what, rows, total))
    return place.finish(written, shape)


def _dataset(place: FeatureFolder, network: nn.Module, left: list[Shard], pool: _Pool) -> Any:
    """What the actors say of each shard, one row each, as soon as it is done."""
    context = ray.data.DataContext.get_current().copy()
    context.enable_progress_bars = False
    plain = [{"shard": shard.model_dump_json()} for shard in left]
    plan = (place.uri, place.images.model_dump_json(), place.folder.uri, place.described["dtype"])
    with ray.data.DataContext.current(context):
        return ray.data.from_items(plain, override_num_blocks=len(plain)).map_batches(
            _Actor,
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=min(pool.actors, len(left))),
            fn_constructor_args=(ray.put(network), *plan, pool.device, pool.threads),
            **pool.share,
        )


class _Actor:
    """Holds the encoder, and encodes one shard after another."""

    def __init__(
        self, network: Any, uri: str, images: str, to: str, dtype: Dtype, device: str, threads: int
    ) -> None:
        torch.set_num_threads(threads)
        manifest = Manifest.model_validate_json(images)
        on = torch.device(device)
        self.encode = ShardEncoder(ray.get(network), uri, manifest, to, dtype, on)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """What was written for a shard, or the pickled error that ends the pass."""
        [text] = batch["shard"]
        shard = Shard.model_validate_json(str(text))
        try:
            written = json.dumps([part.model_dump(mode="json") for part in self.encode(shard)])
        except BadInput as error:
            return {"path": [shard.path], "written": [""], "error": [pickle.dumps(error)]}
        return {"path": [shard.path], "written": [written], "error": [b""]}


@dataclass(frozen=True)
class _Pool:
    """How many actors, what Ray gives to each, and the device and the threads of its encoder."""

    actors: int
    share: dict[str, float]
    device: str
    threads: int


def _pool(shards: int) -> _Pool:
    """A GPU for each actor if there are any, else a CPU, or more where shards are few.

    It depends on the cluster and the whole stream alone, so that a pass that goes on computes as
    it began.
    """
    have = ray.cluster_resources()
    if gpus := int(have.get("GPU", 0)):
        return _Pool(gpus, {"num_gpus": 1}, "cuda", 1)
    cpus = max(1, int(have.get("CPU", 0)))
    largest = max(int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"])
    threads = max(1, min(largest, cpus // shards))
    return _Pool(cpus // threads, {"num_cpus": threads}, "cpu", threads)
