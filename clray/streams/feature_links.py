"""How trials find the features of a stream, or the codes of features.

Small files beside its manifest name the place.

::

    <stream>/features/<key of the encoder>.<hash of the stream>.<dtype>.json     address, hash
"""

from __future__ import annotations

from clray.errors import BadData, BadInput
from clray.spec import PIN
from clray.store import Folder
from clray.streams.manifest import Manifest, pinned, read_manifest

DTYPES = ("float32", "float16", "int16")
"""In the order of preference; codes are int16."""


def find(
    uri: str,
    stream: Manifest,
    encoder: str,
    named: str | None = None,
    where: str = "benchmark.features",
) -> str | None:
    """The pinned address of the features of a stream by the encoder of that key, or of the codes by
    that coder; None: there are none within reach.

    Args:
        uri: of the stream, maybe pinned.
        stream: its manifest.
        encoder: the key.
        named: an address to try first.
        where: names that address in an error.

    Raises:
        BadData: the address that was named is not pinned, and no stored stream lies there.
    """
    if named is not None:
        try:
            return _fitting(named, stream, encoder)
        except BadInput as error:
            if PIN not in named:
                raise BadData(where, named, error.accepted) from None
    folder = Folder(uri.partition(PIN)[0], "stream")
    for dtype in DTYPES:
        try:
            link = folder.read_json(_name(encoder, stream, dtype))
            return _fitting(f"{link['address']}{PIN}{link['hash']}", stream, encoder)
        except (BadInput, OSError, KeyError, TypeError):
            continue
    return None


def add(uri: str, stream: Manifest, address: str, features: Manifest) -> None:
    """Let trials find features; a link that leads somewhere stays.

    Args:
        uri: of the stream, maybe pinned.
        stream: its manifest.
        address: of the features.
        features: their manifest.

    Raises:
        OSError: the stream's folder cannot be written to.
    """
    assert features.encoder is not None
    encoder = features.encoder["key"]
    folder = Folder(uri.partition(PIN)[0], "stream")
    name = _name(encoder, stream, features.dtype)
    try:
        link = folder.read_json(name)
        _fitting(f"{link['address']}{PIN}{link['hash']}", stream, encoder)
    except (BadInput, OSError, KeyError, TypeError):
        folder.write_json(name, {"address": address, "hash": features.hash})


def _name(encoder: str, stream: Manifest, dtype: str) -> str:
    return f"features/{encoder}.{stream.hash}.{dtype}.json"


def _fitting(address: str, stream: Manifest, encoder: str) -> str:
    """The address, pinned.

    Raises:
        BadData: no stored stream lies there, or not those features.
    """
    found = read_manifest(address, "features")
    made_by = found.encoder or {}
    if (made_by.get("key"), made_by.get("stream")) != (encoder, stream.hash):
        accepted = f"features of the stream {stream.hash} by the encoder {encoder}"
        raise BadData("features", address, accepted)
    return pinned(address, found)
