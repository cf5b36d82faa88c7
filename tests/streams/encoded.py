"""Features and codes computed in this process, without Ray."""

from __future__ import annotations

import torch

from clray.learner import Coder
from clray.store import Folder
from clray.streams import feature_links
from clray.streams.encoding import Dtype, ShardEncoder, shape_of
from clray.streams.feature_folder import FeatureFolder
from clray.streams.features import describe
from clray.streams.manifest import Manifest, read_manifest


def encode(uri: str, to: str, name: str, coder: Coder, dtype: Dtype = "float32") -> Manifest:
    """What ``clray.streams.features.compute`` does."""
    manifest = read_manifest(uri)
    described = {**describe(name, coder), "stream": manifest.hash, "dtype": dtype}
    place = FeatureFolder(Folder(to), uri, manifest, described)
    assert place.begin() == {}
    network = coder.build_encoder(name.partition("/")[2], manifest.shape)
    run = ShardEncoder(network, uri, manifest, to, dtype, torch.device("cpu"))
    for task in manifest.tasks:
        for shard in task.shards():
            run(shard)
    with torch.no_grad():
        shape = shape_of(network(torch.zeros(1, *manifest.shape)))
    found = place.finish(place.begin(), shape)
    place.sweep_up()
    feature_links.add(uri, manifest, to, found)
    return found
